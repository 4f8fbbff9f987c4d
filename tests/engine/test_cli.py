"""The command line: exit codes, one line on stderr, events as JSON. The model is a scripted one."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from engine import backends, cli, drafting
from engine.config import PRESETS, load_preset
from engine.domain import Beat
from engine.errors import BackendUnavailable
from engine.project.store import Store
from engine.story.choose import Choice
from tests.conftest import OLD_PROJECT, PRESET
from tests.fakes import ScriptedBackend


@pytest.fixture
def run(tmp_path, preset, monkeypatch, capsys):
    """Run one command; returns (exit code, stdout lines, stderr)."""
    opened = []

    def open_backend(preset, **_):
        opened.append(ScriptedBackend())
        return opened[-1]

    monkeypatch.setattr(backends, "open_backend", open_backend)
    monkeypatch.setenv("SVI_RESERVE_BYTES", "0")
    monkeypatch.setenv("SVI_DATA_DIR", str(tmp_path / "data"))
    preset_file = str(tmp_path / "tiny.yaml")

    def command(*arguments):
        words = [str(a) for a in arguments]
        if words[0] not in ("doctor", "train") and "--preset" not in words:
            words += ["--preset", preset_file]
        try:
            code = cli.main(words)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    command.opened = opened
    return command


def events(lines):
    return [json.loads(line) for line in lines]


def test_generate_makes_a_film_and_ends_with_film_exported(run, tmp_path, picture):
    (tmp_path / "p.txt").write_text("# story\nnight falls\nfog rolls in\n")
    code, out, err = run(
        "generate", "--image", picture, "--prompts", tmp_path / "p.txt", "--out", tmp_path / "f.mp4", "--json"
    )
    assert (code, err) == (0, "")
    last = events(out)[-1]
    assert last == {
        "event": "film_exported",
        "path": str(tmp_path / "f.mp4"),
        "frames": 2 * 9 - 5,
        "fps": 8,
        "clips": 2,
        "num_frames": 9,
        "num_motion_frames": 5,
    }
    assert [e["event"] for e in events(out)].count("take_committed") == 2


def test_generate_on_an_existing_project_continues_it(run, tmp_path, picture):
    project = tmp_path / "film"
    run("generate", "--image", picture, "--prompt", "night", "--clips", 2, "--project", project)
    code, out, _ = run("generate", "--project", project, "--prompt", "night", "--clips", 3, "--json")
    assert code == 0
    assert [e["index"] for e in events(out) if e["event"] == "clip_started"] == [2]
    opened = len(run.opened)
    assert run("generate", "--project", project)[0] == 0
    assert len(run.opened) == opened, "the model was loaded though nothing was missing"


def test_extend_regenerate_and_export(run, tmp_path, picture):
    project = tmp_path / "film"
    run("generate", "--image", picture, "--prompt", "night", "--project", project)
    _, out, _ = run("extend", "--project", project, "--clips", 2, "--prompt", "fog", "--json")
    assert events(out)[-1] == {"event": "job_done", "clips": 3}
    _, out, _ = run("regenerate", "--project", project, "--clip", 2, "--seed", 9, "--json")
    assert next((e["index"], e["seed"]) for e in events(out) if e["event"] == "clip_started") == (1, 9)
    assert [e["index"] for e in events(out) if e["event"] == "take_committed"] == [1, 2]
    _, out, _ = run("regenerate", "--project", project, "--clip", 1, "--only", "--json")
    assert [e["index"] for e in events(out) if e["event"] == "take_committed"] == [0]
    _, out, _ = run("export", "--project", project, "--out", tmp_path / "f.mp4", "--json")
    assert events(out)[-1]["frames"] == 3 * 9 - 2 * 5


def test_extend_without_prompts_drafts_them(run, tmp_path, picture):
    project = tmp_path / "film"
    run("generate", "--image", picture, "--prompt", "night", "--project", project)
    code, out, _ = run("extend", "--project", project, "--json")
    started = [e for e in events(out) if e["event"] == "clip_started"]
    assert code == 0 and len(started) == 1 and started[0]["prompt"] != "night"


@pytest.fixture
def model(monkeypatch):
    """A language model that writes “beat 2” after one prompt; `at`: the number of the beat at which `error` comes."""

    class Model:
        source, briefs, error, at = "qwen", [], None, 0

        def beats(self, brief):
            self.briefs.append(brief)
            for number in range(len(brief.so_far) + 1, len(brief.so_far) + 1 + brief.count):
                if self.error and number == self.at:
                    raise self.error
                yield Beat(prompt=f"beat {number}", caption=f"Bild {number}")

        def close(self): ...

    model = Model()
    monkeypatch.setattr(drafting, "choose", lambda *_: Choice("qwen", "Qwen", "It was asked for."))
    monkeypatch.setattr(drafting, "open_drafter", lambda *_: model)
    return model


def clips_of(project):
    return [(clip.prompt, clip.caption) for clip in Store(project).load().clips]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BackendUnavailable("Down.")])
@pytest.mark.parametrize("how", [("extend", 4), ("generate", 5)], ids=lambda how: how[0])
def test_a_draft_that_was_stopped_is_in_the_film_and_goes_on(run, model, tmp_path, picture, error, how):
    command, clips = how
    project = tmp_path / "film"
    run("generate", "--image", picture, "--prompt", "night", "--project", project)
    model.error, model.at = error, 4
    code, _, err = run(command, "--project", project, "--clips", clips)
    goes_on = f"python -m engine generate --project {project} --clips 5"
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 2) and len(err.splitlines()) == 1
    assert f"2 of 4 clips are added to the storyline. Go on with: {goes_on}" in err
    assert clips_of(project) == [("night", ""), ("beat 2", "Bild 2"), ("beat 3", "Bild 3")]
    model.error = None
    code, out, _ = run(*goes_on.split()[3:], "--json")
    assert code == 0 and events(out)[-1] == {"event": "job_done", "clips": 5}
    assert [prompt for prompt, _ in clips_of(project)] == ["night", *(f"beat {number}" for number in (2, 3, 4, 5))]
    assert model.briefs[-1].so_far == ("night", "beat 2", "beat 3")


def test_each_drafted_beat_is_in_the_film_before_the_next_is_asked_for(run, model, tmp_path, picture):
    project, on_disk = tmp_path / "film", []
    run("generate", "--image", picture, "--prompt", "night", "--project", project)
    beats = model.beats

    def counted(brief):
        for beat in beats(brief):
            on_disk.append(len(clips_of(project)))
            yield beat

    model.beats = counted
    assert run("extend", "--project", project, "--clips", 3)[0] == 0
    assert on_disk == [1, 2, 3]


def test_nothing_drafted_leaves_the_film_as_it_was(run, model, tmp_path, picture):
    run("generate", "--image", picture, "--prompt", "night", "--project", tmp_path / "film")
    model.error, model.at = BackendUnavailable("Down."), 2
    code, _, err = run("extend", "--project", tmp_path / "film", "--clips", 3)
    assert code == 2 and "The film is as it was." in err and clips_of(tmp_path / "film") == [("night", "")]


def test_extend_says_that_a_language_model_is_loaded(run, model, tmp_path, picture):
    run("generate", "--image", picture, "--prompt", "night", "--project", tmp_path / "film")
    _, out, _ = run("extend", "--project", tmp_path / "film", "--json")
    said = [event["event"] for event in events(out)]
    assert said[:3] == ["drafter_chosen", "drafter_loading", "beat_drafted"]


def test_a_method_with_two_clips_a_prompt_is_extended_by_half_as_many_beats(run, model, tmp_path, picture):
    with (tmp_path / "tiny.yaml").open("a") as stream:
        stream.write("variants: {film: {method: svi-2.0}}\n")
    project = tmp_path / "film"
    run("generate", "--image", picture, "--prompt", "a", "--clips", 1, "--project", project)
    assert run("extend", "--project", project, "--clips", 4)[0] == 0
    assert [prompt for prompt, _ in clips_of(project)] == ["a", "a", "beat 2", "beat 2", "beat 3"]
    assert run("extend", "--project", project)[0] == 0
    assert [brief.count for brief in model.briefs] == [2], "the pair was made whole without a new beat"
    assert run("extend", "--project", project, "--prompt", "x")[0] == 0
    assert [prompt for prompt, _ in clips_of(project)][5:] == ["beat 3", "x", "x"]


def test_a_film_of_one_prompt_goes_on_with_it(run, model, tmp_path, picture):
    run("generate", "--image", picture, "--prompt", "a", "--variant", "shot", "--project", tmp_path / "film")
    assert run("extend", "--project", tmp_path / "film", "--clips", 2)[0] == 0
    assert [prompt for prompt, _ in clips_of(tmp_path / "film")] == ["a", "a", "a"] and not model.briefs


def test_draft_writes_a_file_that_generate_reads(run, tmp_path, picture):
    code, _, _ = run(
        "draft", "--image", picture, "--keywords", "dog, street", "--clips", 3, "--out", tmp_path / "s.txt"
    )
    assert code == 0
    assert run("generate", "--image", picture, "--prompts", tmp_path / "s.txt", "--project", tmp_path / "p")[0] == 0


@pytest.mark.parametrize("name", ["s.json", "s.md", "s.py"])
def test_generate_reads_every_format_and_keeps_what_it_holds(run, tmp_path, picture, name):
    text = {
        "s.json": '{"source": "qwen", "clips": [{"prompt": "night", "caption": "Nacht", "negative_prompt": "rain"}]}',
        "s.md": "1. night\n   > Nacht\n",
        "s.py": 'prompts = ["night"]\n',
    }
    (tmp_path / name).write_text(text[name])
    arguments = ("generate", "--image", picture, "--prompts", tmp_path / name, "--project", tmp_path / "film")
    assert run(*arguments)[0] == 0
    project = Store(tmp_path / "film").load()
    (clip,) = project.clips
    expected = {"s.json": ("Nacht", "rain", "qwen"), "s.md": ("Nacht", None, "user"), "s.py": ("", None, "user")}
    assert (clip.caption, clip.negative_prompt, project.storyline_source) == expected[name]
    assert run(*arguments)[0] == 0, "the same command continues the film"


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "--image", "missing.png", "--prompt", "x"],
        ["generate", "--image", "PICTURE", "--prompt", ""],
        ["generate", "--image", "PICTURE", "--prompt", "x" * 10_000],
        ["generate", "--image", "PICTURE", "--prompts", "missing.txt"],
        ["generate", "--image", "PICTURE", "--prompt", "x", "--clips", "0"],
        ["generate", "--image", "PICTURE", "--prompt", "x", "--clips", "-1"],
        ["generate", "--image", "PICTURE", "--prompt", "x", "--clips", "1000000"],
        ["generate", "--image", "PICTURE", "--prompt", "x", "--clips", "two"],
        ["generate", "--image", "PICTURE", "--prompt", "x", "--variant", "dance"],
        ["generate", "--image", "PICTURE", "--prompt", "x", "--steps", "0"],
        ["generate", "--image", "PICTURE", "--prompt", "x", "--seed", "-4"],
        ["generate", "--image", "PICTURE", "--prompt", "x", "--out", "film.avi"],
        ["extend", "--project", "missing"],
        ["regenerate", "--project", "missing", "--clip", "1"],
        ["export", "--project", "missing", "--out", "f.mp4"],
        ["remake", "--project", "missing", "--out", "copy"],
        ["remake", "--project", "missing"],
        ["draft", "--image", "PICTURE", "--clips", "3", "--keywords", "k" * 10_000],
        ["bogus"],
        ["batch", "missing.yaml"],
        ["batch"],
        ["train", "missing.yaml"],
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(run, picture, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*[picture if a == "PICTURE" else a for a in arguments])
    assert code == 2
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err, err


def test_remake_copies_a_film_and_says_how_to_make_it(run, tmp_path, picture):
    large = PRESET.replace("[[64, 48], [48, 64], [64, 64]]", "[[160, 112]]")
    (tmp_path / "large.yaml").write_text(large)
    film, copy = tmp_path / "film", tmp_path / "copy"
    run("generate", "--image", picture, "--prompt", "night", "--clips", 2, "--seed", 5, "--project", film)
    asked = ("remake", "--project", film, "--preset", tmp_path / "large.yaml", "--out", copy)
    code, out, err = run(*asked)
    assert (code, err, len(out)) == (0, "", 1) and "2 clips, 160×112" in out[0]
    command = out[0].split("python -m engine ")[1].split()
    code, out, _ = run(*command, "--json")
    assert code == 0 and [e["seed"] for e in events(out) if e["event"] == "clip_started"] == [5, 47]
    code, _, err = run(*asked)
    assert code == 2 and len(err.strip().splitlines()) == 1 and "already holds a project" in err


def test_remake_renders_at_once_when_asked(run, tmp_path, picture):
    run("generate", "--image", picture, "--prompt", "night", "--project", tmp_path / "film")
    code, out, _ = run("remake", "--project", tmp_path / "film", "--out", tmp_path / "copy", "--render", "--json")
    assert code == 0 and events(out)[0]["event"] == "film_remade"
    assert events(out)[-1] == {"event": "job_done", "clips": 1}


@pytest.fixture
def old(tmp_path, pocket_now):
    """A film of two clips at 288×192, made with a preset that makes 64×48 by now."""
    shutil.copytree(OLD_PROJECT, tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture
def pocket_now(tmp_path, preset):
    (tmp_path / "pocket.yaml").write_text(PRESET)
    return tmp_path / "pocket.yaml"


@pytest.mark.parametrize(
    "arguments",
    [
        ["extend"],
        ["extend", "--prompt", "rain"],
        ["generate", "--clips", "5"],
        ["regenerate", "--clip", "1"],
        ["finalize"],
    ],
    ids=" ".join,
)
def test_a_film_of_another_size_is_not_gone_on_with_but_a_copy_is_offered(run, old, pocket_now, arguments):
    files = {path: path.read_bytes() for path in old.rglob("*") if path.is_file() and path.name[0] != "."}
    command, *rest = arguments
    code, _, err = run(command, "--project", old, *rest, "--preset", pocket_now)
    assert code == 2 and len(err.strip().splitlines()) == 1 and "288×192" in err and not run.opened
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file() and path.name[0] != "."} == files
    offered = err.split("python -m engine ")[1].split()
    offered[offered.index("--preset") + 1] = str(pocket_now)
    assert run(*offered)[0] == 0
    copy = Store.open(old.with_name("old-new")).load()
    assert str(copy.resolution) == "64×48" and len(copy.clips) == 2


def test_a_film_of_another_size_is_exported_as_it_is(run, old, pocket_now, tmp_path):
    code, out, _ = run("export", "--project", old, "--out", tmp_path / "f.mp4", "--preset", pocket_now)
    assert (code, out) == (0, [f"Film: {tmp_path / 'f.mp4'} (45 frames, 3.8 s)"])
    code, out, _ = run("generate", "--project", old, "--preset", pocket_now)
    assert code == 0 and out[-1] == "Done: 2 clips." and not run.opened


def test_another_prompt_for_a_finished_clip_is_refused(run, tmp_path, picture):
    project = tmp_path / "film"
    run("generate", "--image", picture, "--prompt", "night", "--project", project)
    code, _, err = run("generate", "--project", project, "--prompt", "fog")
    assert code == 2 and "regenerate" in err


@pytest.mark.parametrize("flags", [("--seed", 5), ("--steps", 9)])
def test_continuing_with_other_settings_is_refused(run, tmp_path, picture, flags):
    project = tmp_path / "film"
    run("generate", "--image", picture, "--prompt", "night", "--project", project)
    assert run("generate", "--project", project, "--image", picture)[0] == 0
    code, _, err = run("generate", "--project", project, *flags)
    assert code == 2 and flags[0] in err


def test_a_prompt_file_continues_a_film_that_was_extended_meanwhile(run, tmp_path, picture):
    (tmp_path / "p.txt").write_text("night falls\nfog rolls in\n")
    arguments = ("generate", "--image", picture, "--prompts", tmp_path / "p.txt", "--project", tmp_path / "film")
    run(*arguments)
    run("extend", "--project", tmp_path / "film", "--prompt", "snow")
    assert run(*arguments)[0] == 0


@pytest.mark.parametrize("where", ["FILE", "FILE/film"])
def test_a_project_path_that_is_a_file_is_bad_input(run, tmp_path, picture, where):
    (tmp_path / "FILE").write_text("x")
    code, _, err = run("generate", "--image", picture, "--prompt", "night", "--project", tmp_path / where)
    assert code == 2, err
    code, _, err = run("generate", "--image", picture, "--prompt", "night", "--out", tmp_path / "FILE" / "f.mp4")
    assert code == 2 and "folders is a file" in err


def test_cancelling_exits_with_130_and_keeps_finished_clips(run, tmp_path, picture, monkeypatch):
    def interrupt(request, step):
        if request.index == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(backends, "open_backend", lambda preset, **_: ScriptedBackend(before_step=interrupt))
    project = tmp_path / "film"
    code, _, err = run("generate", "--image", picture, "--prompt", "night", "--clips", 3, "--project", project)
    assert code == 130 and f"--project {project}" in err
    assert len(list((project / "takes").glob("[0-9a-f]*"))) == 1


@pytest.mark.expects_errors
def test_our_own_fault_exits_with_1_and_an_id(run, tmp_path, picture, monkeypatch):
    def explode(request, step):
        raise RuntimeError("a bug")

    monkeypatch.setattr(backends, "open_backend", lambda preset, **_: ScriptedBackend(before_step=explode))
    code, _, err = run("generate", "--image", picture, "--prompt", "night", "--project", tmp_path / "film")
    assert code == 1 and "id " in err and "a bug" not in err


def test_a_corrupt_picture_is_refused_and_nothing_is_left_behind(run, tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    code, _, err = run("generate", "--image", path, "--prompt", "x", "--project", tmp_path / "film")
    assert code == 2 and "InputError" in err
    assert not (tmp_path / "film" / "project.json").exists()


def test_doctor_says_what_runs_here(run):
    code, out, _ = run("doctor", "--json")
    report = events(out)[0]
    assert code == 0 and report["h264_encoder"] is True and "pocket" in report["presets"]


def test_a_dry_run_prints_the_plan_and_starts_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    machine = ("--gpus", 8, "--gpu-gb", 80, "--ram-gb", 2000, "--disk-gb", 4000, "--strategy", "zero2")
    code, out, err = run("train", PRESETS / "train-wan21-film-script.yaml", "--dry-run", *machine)
    assert (code, err) == (0, "")
    assert "400 layers (800 tensors)" in "\n".join(out)
    assert out[-1] == "It fits."
    assert not list(tmp_path.rglob("runs"))


def test_a_dry_run_for_half_a_machine_is_refused(run):
    code, _, err = run("train", PRESETS / "train-pocket-film.yaml", "--dry-run", "--gpus", 8)
    assert code == 2 and "--gpu-gb" in err


@pytest.mark.parametrize("layout", ["comfy", "upstream", "diffusers"])
def test_a_lora_is_exported_in_the_spelling_of_another_program(layout, tmp_path, capsys):
    from engine.models import components
    from tests.engine.backends.test_local import lora_file

    out, transformer = tmp_path / "out.safetensors", components.load(load_preset("pocket")).transformer
    source = lora_file(tmp_path / "shot.safetensors", transformer, 0)
    arguments = ["export-lora", str(source), "--format", layout, "--out", str(out), "--preset", "pocket", "--json"]
    assert cli.main(arguments) == 0
    (event,) = events(capsys.readouterr().out.splitlines())
    assert (event["event"], event["num_modules"]) == ("lora_exported", 40)
    assert out.stat().st_size > 80_000


def test_pickles_are_not_read_without_a_word_of_trust(tmp_path, capsys):
    assert cli.main(["import-pickles", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "trust" in capsys.readouterr().err
