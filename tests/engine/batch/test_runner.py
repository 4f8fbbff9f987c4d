"""Many films from one plan: what is made, what is kept, what is refused."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from engine import backends, drafting
from engine.domain import Beat
from engine.errors import BackendUnavailable, GenerationError, StorylineError
from engine.media import video
from engine.project.locks import locked
from engine.project.store import Store
from engine.story import exchange
from engine.story.choose import Choice
from tests.fakes import ScriptedBackend

TWO = "films: [{pictures: pictures, keywords: dog, clips: 2}]"


def names(events):
    return [event["event"] for event in events]


def summary(tmp_path):
    return {row["name"]: row for row in json.loads((tmp_path / "out" / "summary.json").read_text())["films"]}


def segments(tmp_path):
    return sorted(path.parent.name for path in (tmp_path / "out").glob("films/*/takes/*/segment.mp4"))


def test_a_plan_becomes_films_samples_and_a_summary(batch, pictures, opened, tmp_path):
    code, events, err = batch(TWO)
    assert (code, err) == (0, "")
    order = names(events)
    assert order.count("storyline_drafted") == 2 and order.count("model_loading") == 1
    assert "storyline_drafted" not in order[order.index("model_loading") :]
    assert len(opened) == 1 and opened[0].closed and len(opened[0].generated) == 4
    for name in ("cat", "dog"):
        assert video.probe(tmp_path / "out" / f"{name}.mp4").num_frames == 2 * 9 - 5
        project = Store(tmp_path / "out" / "films" / name).load()
        sample = tmp_path / "out" / "samples" / name
        assert exchange.read_file(sample / "prompt.txt").prompts == tuple(clip.prompt for clip in project.clips)
        with Image.open(sample / "frame.jpg") as frame:
            assert frame.size == (96, 80)
        row = summary(tmp_path)[name]
        assert (row["state"], row["clips"], row["clips_done"], row["frames"]) == ("finished", 2, 2, 13)
        assert (row["source"], row["film"], row["error"]) == ("template", f"{name}.mp4", "")
        assert row["drift"]["colour_shift"] > 0
    assert "2 of 2 films are finished" in (tmp_path / "out" / "summary.md").read_text()


def test_the_drafter_is_closed_before_a_model_is_loaded(batch, pictures, monkeypatch, opened):
    log = []

    class Drafter:
        source = "endpoint"

        def beats(self, brief):
            log.append(f"draft {brief.count} {brief.kind}")
            yield from (Beat(prompt=f"beat {n}", caption=f"Bild {n}") for n in range(brief.count))

        def close(self):
            log.append("close")

    open_backend = backends.open_backend
    monkeypatch.setattr(drafting, "choose", lambda *_: Choice("endpoint", "A server", "It was asked for."))
    monkeypatch.setattr(drafting, "open_drafter", lambda *_: Drafter())
    monkeypatch.setattr(backends, "open_backend", lambda preset: log.append("load") or open_backend(preset))
    plan = (
        "films: [{pictures: pictures, clips: 2}, {name: still, picture: pictures/cat.png, task: consistent, clips: 3}]"
    )
    assert batch(plan)[0] == 0
    assert log == ["draft 2 stream", "draft 2 stream", "draft 1 steady", "close", "load"]


def test_a_second_run_makes_nothing_again(batch, pictures, opened, tmp_path):
    batch(TWO)
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.suffix in (".mp4", ".jpg")
    }
    code, events, _ = batch(TWO)
    assert code == 0 and len(opened) == 1
    assert set(names(events)) == {"film_started", "film_ended"}
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_lost_film_or_sample_is_written_again_from_what_is_there(batch, pictures, opened, tmp_path):
    batch(TWO)
    (tmp_path / "out" / "cat.mp4").unlink()
    (tmp_path / "out" / "summary.json").write_text("{ broken")
    shutil.rmtree(tmp_path / "out" / "samples" / "dog")
    assert batch(TWO)[0] == 0
    assert len(opened) == 1
    assert (tmp_path / "out" / "cat.mp4").exists() and (tmp_path / "out" / "samples" / "dog" / "prompt.txt").exists()


def test_a_stopped_run_goes_on(batch, pictures, opened, tmp_path, monkeypatch):
    whole, reported = ScriptedBackend(), []

    def stop(request, step):
        reported.append(request.digest)
        if len(set(reported)) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(backends, "open_backend", lambda preset: ScriptedBackend(before_step=stop))
    code, _, err = batch(TWO)
    assert code == 130 and "the same command goes on" in err
    assert len(segments(tmp_path)) == 3
    assert [row["state"] for row in summary(tmp_path).values()] == ["finished", "waiting"]
    monkeypatch.setattr(backends, "open_backend", lambda preset: whole)
    assert batch(TWO)[0] == 0
    assert len(whole.generated) == 1 and len(segments(tmp_path)) == 4
    assert [row["state"] for row in summary(tmp_path).values()] == ["finished", "finished"]


@pytest.mark.parametrize("change", ["clips: 3", "clips: 2, seed: 5"])
def test_a_film_of_another_plan_is_refused_by_name_and_left_alone(batch, pictures, opened, tmp_path, change):
    batch("films: [{name: mine, picture: pictures/cat.png, clips: 2}]")
    before = segments(tmp_path)
    code, _, err = batch(f"films: [{{name: mine, picture: pictures/cat.png, {change}}}]")
    assert code == 2 and "1 of 1 films failed: mine" in err
    assert "mine was begun by another plan" in summary(tmp_path)["mine"]["error"]
    assert segments(tmp_path) == before and len(opened) == 1
    assert summary(tmp_path)["mine"]["clips_done"] == 2


def test_a_film_that_has_no_storyline_yet_may_be_planned_anew(batch, pictures, tmp_path, monkeypatch):
    class Nobody:
        def beats(self, brief):
            raise StorylineError("Nonsense.")
            yield

        def close(self): ...

    with monkeypatch.context() as patched:
        patched.setattr(drafting, "open_drafter", lambda *_: Nobody())
        assert batch("films: [{name: mine, picture: pictures/cat.png, clips: 2}]")[0] == 2
    assert batch("films: [{name: mine, picture: pictures/dog.webp, clips: 1, keywords: dog}]")[0] == 0
    assert summary(tmp_path)["mine"]["clips_done"] == 1


def test_a_project_that_no_batch_made_is_left_alone(batch, pictures, store, tmp_path):
    (tmp_path / "out" / "films").mkdir(parents=True)
    shutil.copytree(store.folder, tmp_path / "out" / "films" / "mine")
    code, _, _ = batch("films: [{name: mine, picture: pictures/cat.png, clips: 2}]")
    assert code == 2 and "was not made by a batch" in summary(tmp_path)["mine"]["error"]
    assert not segments(tmp_path)


def test_a_model_that_changed_makes_no_finished_film_again(batch, pictures, opened, tmp_path):
    batch(TWO)
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"another one")
    before = segments(tmp_path)
    code, _, _ = batch(TWO)
    assert code == 2 and segments(tmp_path) == before and len(opened) == 1
    assert "was made with another model" in summary(tmp_path)["cat"]["error"]


def test_a_films_prompts_come_from_a_file_with_what_it_holds(batch, pictures, tmp_path):
    story = {"clips": [{"prompt": "a", "caption": "eins", "negative_prompt": "rain"}, {"prompt": "b"}]}
    (tmp_path / "story.json").write_text(json.dumps(story))
    assert batch("films: [{picture: pictures/cat.png, prompts: story.json}]")[0] == 0
    clips = Store(tmp_path / "out" / "films" / "cat").load().clips
    assert [(c.prompt, c.caption, c.negative_prompt) for c in clips] == [("a", "eins", "rain"), ("b", "", None)]
    assert summary(tmp_path)["cat"]["source"] == "user"


def test_one_failure_is_noted_and_the_others_go_on(batch, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"no picture")
    (tmp_path / "bad.txt").write_text("# nothing\n")
    plan = (
        "films: [{pictures: pictures, clips: 1}, {name: gone, picture: gone.png, clips: 1},"
        " {name: empty, picture: pictures/cat.png, prompts: bad.txt}]"
    )
    code, events, err = batch(plan)
    assert code == 2 and "3 of 5 films failed: broken, gone, empty" in err and len(err.splitlines()) == 1
    assert {event["item"] for event in events if event["event"] == "item_failed"} == {"broken", "gone", "empty"}
    rows = summary(tmp_path)
    assert [name for name, row in rows.items() if row["state"] == "finished"] == ["cat", "dog"]
    assert all(rows[name]["error"] for name in ("broken", "gone", "empty"))
    assert "3 failed" in (tmp_path / "out" / "summary.md").read_text()


def test_a_model_that_fails_in_one_film_goes_on_with_the_next(batch, pictures, monkeypatch, tmp_path):
    seen = []

    def fail(request, step):
        seen.append(request.anchor.tobytes())
        if request.anchor.tobytes() == seen[0]:
            raise GenerationError("The model gave up.")

    monkeypatch.setattr(backends, "open_backend", lambda preset: ScriptedBackend(before_step=fail))
    code, _, err = batch(TWO)
    assert code == 2 and "1 of 2 films failed: cat" in err
    assert [row["state"] for row in summary(tmp_path).values()] == ["unfinished", "finished"]


@pytest.mark.parametrize(("error", "asked"), [(BackendUnavailable("Down."), 1), (StorylineError("Nonsense."), 2)])
def test_a_server_that_is_down_is_asked_once_and_films_with_prompts_are_made(
    batch, pictures, monkeypatch, tmp_path, error, asked
):
    briefs = []

    class Drafter:
        source = "endpoint"

        def beats(self, brief):
            briefs.append(brief)
            raise error
            yield

        def close(self): ...

    monkeypatch.setattr(drafting, "choose", lambda *_: Choice("endpoint", "A server", "It was asked for."))
    monkeypatch.setattr(drafting, "open_drafter", lambda *_: Drafter())
    (tmp_path / "p.txt").write_text("night\n")
    plan = "films: [{pictures: pictures, clips: 1}, {name: third, picture: pictures/cat.png, prompts: p.txt}]"
    code, _, _ = batch(plan)
    assert code == 2 and len(briefs) == asked
    assert [row["state"] for row in summary(tmp_path).values()] == ["waiting", "waiting", "finished"]


def test_two_batches_in_one_folder_are_refused(batch, pictures, tmp_path):
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / ".batch.lock", doing="making its films"):
        code, _, err = batch(TWO)
    assert code == 2 and f"process {os.getpid()}" in err and "making its films" in err
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_model_without_files_is_said_before_anything_is_drafted(batch, pictures, tmp_path):
    (tmp_path / "weights" / "model.safetensors").unlink()
    code, events, err = batch(TWO)
    assert code == 2 and "weights" in err and "storyline_drafted" not in names(events)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(batch, pictures, opened, tmp_path):
    code, (event,), _ = batch(f"{TWO[:-1]}, {{name: gone, picture: gone.png, clips: 1}}]", "--dry-run")
    assert code == 0 and not opened and not (tmp_path / "out").exists()
    cat, _, gone = event["films"]
    assert (cat["film"], cat["clips"], cat["frames"], cat["seconds"]) == ("cat", 2, 13, 1.625)
    assert cat["storyline"] == "Templates" and "gone.png" in gone["error"]
    lines = batch(TWO, "--dry-run", as_json=False)[1]
    assert lines[-1] == "2 films, 4 clips, 3.2 s. Nothing was started."


def test_keywords_alone_need_a_picture_source_and_its_author_is_kept(batch, pictures, tmp_path, monkeypatch):
    plan = "films: [{keywords: harbour, clips: 1}]"
    code, _, _ = batch(plan)
    assert code == 2 and "Set SVI_PICTURES" in summary(tmp_path)["harbour"]["error"]
    library = tmp_path / "library"
    library.mkdir()
    noise = np.random.default_rng(5).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(library / "harbour.png")
    (library / "credits.yaml").write_text("harbour.png: {author: Ann, licence: CC BY 4.0}\n")
    monkeypatch.setenv("SVI_PICTURES", str(library))
    assert batch(plan)[0] == 0
    assert Store(tmp_path / "out" / "films" / "harbour").load().inputs.credit.author == "Ann"


def test_the_terminal_gets_one_line_a_film(batch, pictures):
    lines = batch(TWO, as_json=False)[1]
    assert [line.split()[0] for line in lines[-2:]] == ["cat", "dog"]
    assert "1 of 2  2 of 2 clips, 1.6 s of film, finished" in lines[-2]


def test_the_task_decides_the_prompts_and_the_variant_does_not(batch, pictures, tmp_path):
    assert batch(
        "films: [{name: still, picture: pictures/cat.png, task: consistent, clips: 3},"
        " {name: moving, picture: pictures/cat.png, variant: shot, clips: 3}]"
    )[0] == 0  # fmt: skip
    prompts = {}
    for name, different in (("still", 1), ("moving", 3)):
        project = Store(tmp_path / "out" / "films" / name).load()
        prompts[name] = [clip.prompt for clip in project.clips]
        assert (project.variant, len(prompts[name]), len(set(prompts[name]))) == ("shot", 3, different)
    sample = exchange.read_file(tmp_path / "out" / "samples" / "still" / "prompt.txt")
    assert sample.prompts == (prompts["still"][0],)
