"""Many films from one plan: what is made, what is kept, what is refused."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from engine import backends, drafting, film, storyboard
from engine.domain import Beat
from engine.errors import BackendUnavailable, GenerationError, InputError, StorylineError
from engine.media import video
from engine.project.locks import locked
from engine.project.store import Store
from engine.story import exchange
from engine.story.choose import Choice
from engine.story.pictures.search import Search
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


class Model:
    """A language model that writes “beat 1”, “beat 2” …; `error` comes at the beat of number `at` of each film."""

    source = "qwen"

    def __init__(self):
        self.briefs, self.error, self.at = [], None, 0

    def beats(self, brief):
        self.briefs.append(brief)
        for number in range(len(brief.so_far) + 1, len(brief.so_far) + 1 + brief.count):
            if self.error and number == self.at:
                raise self.error
            yield Beat(prompt=f"beat {number}", caption=f"Bild {number}")

    def close(self): ...


@pytest.fixture
def model(monkeypatch):
    model = Model()
    monkeypatch.setattr(drafting, "choose", lambda *_: Choice("qwen", "Qwen", "It was asked for."))
    monkeypatch.setattr(drafting, "open_drafter", lambda *_: model)
    return model


FOUR = "films: [{pictures: pictures, clips: 4}]"


def said(tmp_path, name):
    return [clip.prompt for clip in Store(tmp_path / "out" / "films" / name).load().clips]


@pytest.mark.parametrize(
    ("error", "written"), [(KeyboardInterrupt(), {"cat": 2}), (StorylineError("Nonsense."), {"cat": 2, "dog": 2})]
)
def test_a_stopped_storyline_is_not_filmed_and_goes_on(batch, pictures, opened, model, tmp_path, error, written):
    model.error, model.at = error, 3
    assert batch(FOUR)[0] in (2, 130)
    for name, count in written.items():
        assert said(tmp_path, name) == [f"beat {number + 1}" for number in range(count)]
    assert not opened and not segments(tmp_path)
    assert {row["state"] for row in summary(tmp_path).values()} == {"waiting"}
    model.error = None
    code, events, _ = batch(FOUR)
    assert code == 0
    beats = [event["index"] for event in events if event["event"] == "beat_drafted"]
    assert beats == [2, 3, *([2, 3] if "dog" in written else [0, 1, 2, 3])]
    for name in ("cat", "dog"):
        assert said(tmp_path, name) == ["beat 1", "beat 2", "beat 3", "beat 4"]
        assert summary(tmp_path)[name]["source"] == "qwen"
        assert exchange.read_file(tmp_path / "out" / "samples" / name / "prompt.txt").prompts == tuple(
            said(tmp_path, name)
        )
    assert len(segments(tmp_path)) == 8 and not list((tmp_path / "out").rglob("*.part"))


def test_each_beat_is_in_the_film_before_the_next_is_asked_for(batch, pictures, model, tmp_path):
    """So that a kill takes none of them."""
    on_disk, beats = [], model.beats

    def counted(brief):
        for beat in beats(brief):
            on_disk.append(len(said(tmp_path, "cat")))
            yield beat

    model.beats = counted
    assert batch("films: [{picture: pictures/cat.png, clips: 3}]")[0] == 0
    assert on_disk == [0, 1, 2]


def test_a_storyline_killed_after_its_last_beat_is_whole(batch, pictures, model, tmp_path):
    batch("films: [{picture: pictures/cat.png, clips: 2}]")
    (tmp_path / "out" / "films" / "cat" / "storyline.part").write_bytes(b"")
    assert batch("films: [{picture: pictures/cat.png, clips: 2}]")[0] == 0
    assert len(model.briefs) == 1 and not list((tmp_path / "out").rglob("*.part"))


def test_a_half_written_storyline_is_not_given_up_for_another_plan(batch, pictures, model, tmp_path):
    model.error, model.at = StorylineError("Nonsense."), 3
    batch(FOUR)
    batch("films: [{pictures: pictures, clips: 3}]")
    assert "cat was begun by another plan" in summary(tmp_path)["cat"]["error"]
    assert said(tmp_path, "cat") == ["beat 1", "beat 2"]


def test_a_film_that_was_made_shorter_by_hand_is_left_so(batch, pictures, opened, tmp_path):
    batch(TWO)
    store = Store(tmp_path / "out" / "films" / "cat")
    store.edit(lambda p: storyboard.delete(p, p.clips[1].id))
    assert batch(TWO)[0] == 0
    assert len(said(tmp_path, "cat")) == 1


def test_a_method_with_two_clips_a_prompt_goes_on_with_whole_pairs(batch, pictures, model, tmp_path):
    with (tmp_path / "tiny.yaml").open("a") as stream:
        stream.write("variants: {film: {method: svi-2.0}}\n")
    plan = "films: [{picture: pictures/cat.png, clips: 5}]"
    model.error, model.at = StorylineError("Nonsense."), 2
    assert batch(plan)[0] == 2 and said(tmp_path, "cat") == ["beat 1"] * 2
    model.error = None
    assert batch(plan)[0] == 0
    assert said(tmp_path, "cat") == ["beat 1", "beat 1", "beat 2", "beat 2", "beat 3"]
    sample = exchange.read_file(tmp_path / "out" / "samples" / "cat" / "prompt.txt")
    assert sample.prompts == ("beat 1", "beat 2", "beat 3")


def test_a_film_that_is_made_anew_gets_a_sample_of_its_own(batch, pictures, tmp_path):
    plan = "films: [{name: mine, picture: pictures/cat.png, clips: 2}]"
    batch(plan)
    sample = tmp_path / "out" / "samples" / "mine"
    before = (sample / "frame.jpg").read_bytes()
    (tmp_path / "out" / "films" / "mine").rename(tmp_path / "old")
    assert batch(plan.replace("cat.png", "dog.webp, keywords: dog"))[0] == 0
    assert (sample / "frame.jpg").read_bytes() != before
    assert exchange.read_file(sample / "prompt.txt").prompts == tuple(said(tmp_path, "mine"))


@pytest.mark.parametrize("damage", ["edit", "prompts = ["])
def test_a_sample_says_what_its_film_says(batch, pictures, tmp_path, damage):
    batch(TWO)
    store, prompts = Store(tmp_path / "out" / "films" / "cat"), tmp_path / "out" / "samples" / "cat" / "prompt.txt"
    if damage == "edit":
        store.edit(lambda p: storyboard.append(p, ["and then fog"]))
    else:
        prompts.write_text(damage)
    assert batch(TWO)[0] == 0
    assert exchange.read_file(prompts).prompts == tuple(said(tmp_path, "cat"))


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("no such thing")])
def test_a_file_that_cannot_be_used_fails_its_film_alone(batch, pictures, tmp_path, monkeypatch, error):
    create = film.create

    def fail(folder, *rest, **more):
        if folder.name == "cat":
            raise error
        return create(folder, *rest, **more)

    monkeypatch.setattr(film, "create", fail)
    code, _, err = batch(TWO)
    assert code == 2 and "1 of 2 films failed: cat" in err
    rows = summary(tmp_path)
    assert "A file of the film cat cannot be used" in rows["cat"]["error"] and rows["dog"]["state"] == "finished"


@pytest.mark.expects_errors
def test_a_full_disk_ends_the_batch(batch, pictures, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(film, "create", fail)
    code, events, _ = batch(TWO)
    assert code == 1 and names(events) == ["job_failed"]


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


def test_a_picture_that_cannot_be_had_is_passed_over(batch, pictures, tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    noise = np.random.default_rng(5).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    for number in range(7):
        Image.fromarray(noise).save(library / f"harbour-{number}.png")
    (library / "credits.yaml").write_text(
        "".join(f"harbour-{number}.png: {{author: Ann {number}, licence: CC BY 4.0}}\n" for number in range(7))
    )
    monkeypatch.setenv("SVI_PICTURES", str(library))
    asked, take = [], Search.take

    def damaged(search, found_id, destination):
        asked.append(found_id)
        if len(asked) < works_at:
            raise InputError("The picture is damaged.")
        return take(search, found_id, destination)

    monkeypatch.setattr(Search, "take", damaged)
    works_at = 99
    assert batch("films: [{keywords: harbour, clips: 1}]")[0] == 2
    assert len(asked) == 5 and "is damaged" in summary(tmp_path)["harbour"]["error"]
    works_at = len(asked) + 3
    assert batch("films: [{keywords: harbour, clips: 1}]")[0] == 0
    assert summary(tmp_path)["harbour"]["state"] == "finished"


def test_a_dry_run_says_what_of_a_file_is_left_out(batch, pictures, tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(f"prompt {number}" for number in range(15)))
    plan = (
        "defaults: {clips: 10}\nfilms: [{name: whole, picture: pictures/cat.png, prompts: p.txt},"
        " {name: cut, picture: pictures/cat.png, prompts: p.txt, clips: 4}]"
    )
    whole, cut = batch(plan, "--dry-run", as_json=False)[1][:2]
    assert "15 clips" in whole and whole.endswith("p.txt (15 prompts)")
    assert "4 clips" in cut and cut.endswith("p.txt (15 prompts, the last 11 left out)")


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
