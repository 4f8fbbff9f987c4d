"""`draft`: one picture or a folder of them, kept on every way out. The language model is a scripted drafter."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from engine import cli, drafting
from engine.domain import Beat
from engine.errors import BackendUnavailable, InputError, StorylineError
from engine.story import exchange
from engine.story.choose import Choice
from engine.story.drafter import Brief
from tests.loopback_llm import LoopbackLLM


class ScriptedDrafter:
    """Writes “beat 1”, “beat 2” …; before_beat: called with (brief, index) and may raise, to script a failure."""

    source = "endpoint"

    def __init__(self, before_beat=lambda brief, index: None):
        self.before_beat = before_beat
        self.briefs: list[Brief] = []
        self.closed = 0

    def beats(self, brief):
        self.briefs.append(brief)
        for index in range(brief.count):
            self.before_beat(brief, index)
            number = len(brief.so_far) + index + 1
            yield Beat(prompt=f"beat {number}", caption=f"Bild {number}")

    def interrupt(self): ...

    def close(self):
        self.closed += 1


@pytest.fixture
def scripted(monkeypatch):
    """Let a scripted drafter write; returns it."""
    drafter = ScriptedDrafter()
    monkeypatch.setattr(drafting, "choose", lambda *_: Choice("endpoint", "A server", "It was asked for."))
    monkeypatch.setattr(drafting, "open_drafter", lambda *_: drafter)
    return drafter


@pytest.fixture
def draft(tmp_path, preset, capsys):
    """Run `draft`; returns (exit code, stdout, stderr)."""

    def command(*arguments):
        code = cli.main(["draft", *map(str, arguments), "--preset", str(tmp_path / "tiny.yaml")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def pictures(tmp_path):
    """A folder of two pictures, a text and a hidden file."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(("b dog.png", "A.webp")):
        noise = np.random.default_rng(number).integers(0, 255, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes(b"x")
    return folder


def samples(folder):
    """The prompts of every sample in `folder`; each must be whole."""
    found = {}
    for sample in sorted(path for path in folder.iterdir() if path.suffix != ".json"):
        assert {file.name for file in sample.iterdir()} == {"frame.jpg", "prompt.txt"}, sample
        names: dict = {}
        exec((sample / "prompt.txt").read_text(encoding="utf-8"), names)  # as upstream reads it
        with Image.open(sample / "frame.jpg") as frame:
            assert (frame.format, frame.size) == ("JPEG", (96, 80))
        found[sample.name] = names["prompts"]
    return found


def test_what_is_printed_is_a_prompt_file_and_says_who_wrote_it(draft, picture, tmp_path):
    code, out, err = draft("--image", picture, "--keywords", "dog", "--clips", 3)
    assert (code, err) == (0, "")
    assert out.startswith("# Templates: ") and "dog" in out
    assert len(exchange.read(out, "story.txt").prompts) == 3


@pytest.mark.parametrize("name", ["story.json", "story.md", "story.py"])
def test_the_suffix_decides_the_format(draft, scripted, picture, tmp_path, name):
    assert draft("--image", picture, "--clips", 2, "--out", tmp_path / name)[0] == 0
    story = exchange.read_file(tmp_path / name)
    assert story.prompts == ("beat 1", "beat 2")
    holds_captions = name in ("story.json", "story.md")
    assert [clip.caption for clip in story.clips] == (["Bild 1", "Bild 2"] if holds_captions else ["", ""])


def test_beats_are_said_as_they_come(draft, scripted, picture):
    said = []
    scripted.before_beat = lambda brief, index: said.append(index)
    code, out, _ = draft("--image", picture, "--clips", 2, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["drafter_chosen", *["beat_drafted"] * 2, "storyline_drafted"]
    assert (code, events[0]["why"], events[2]["caption"]) == (0, "It was asked for.", "Bild 2")
    assert scripted.closed == 1


def test_the_wish_reaches_the_drafter(draft, scripted, picture):
    wish = ("--tone", "comedy", "--pace", "lively", "--language", "de", "--variant", "shot", "--seed", 7)
    assert draft("--image", picture, "--clips", 2, "--keywords", "dog", *wish)[0] == 0
    (brief,) = scripted.briefs
    assert (brief.telling.tone, brief.telling.pace, brief.telling.language) == ("comedy", "lively", "de")
    assert (brief.kind, brief.seed, brief.keywords, brief.count) == ("steady", 7, "dog", 2)


def stop_with(error, at):
    def before_beat(brief, index):
        if index == at:
            raise error

    return before_beat


def test_a_file_in_a_new_folder_is_written_and_one_that_cannot_be_is_refused_at_once(
    draft, scripted, picture, tmp_path
):
    assert draft("--image", picture, "--clips", 2, "--out", tmp_path / "new" / "folder" / "s.txt")[0] == 0
    assert exchange.read_file(tmp_path / "new" / "folder" / "s.txt").prompts == ("beat 1", "beat 2")
    (tmp_path / "taken.txt").mkdir()
    for out, words in ((picture / "s.txt", "cannot be used"), (tmp_path / "taken.txt", "is a folder")):
        code, _, err = draft("--image", picture, "--clips", 2, "--out", out)
        assert code == 2 and words in err and len(scripted.briefs) == 1


def test_each_beat_is_on_disk_before_the_next_one_is_asked_for(draft, scripted, picture, pictures, tmp_path):
    """So that a kill takes none of them."""
    on_disk = []
    scripted.before_beat = lambda brief, index: on_disk.append(
        len(exchange.read_file(tmp_path / "s.json").prompts) if index else 0
    )
    assert draft("--image", picture, "--clips", 3, "--out", tmp_path / "s.json")[0] == 0
    assert on_disk == [0, 1, 2]
    (pictures / "b dog.png").unlink()
    scripted.before_beat = lambda brief, index: on_disk.append(
        len(json.loads((tmp_path / "out" / "a.json").read_text())["beats"]) if index else 0
    )
    assert draft("--image", pictures, "--clips", 3, "--out", tmp_path / "out")[0] == 0
    assert on_disk == [0, 1, 2] * 2


def test_ctrl_c_keeps_what_was_drafted(draft, scripted, picture, tmp_path):
    scripted.before_beat = stop_with(KeyboardInterrupt(), at=2)
    code, _, err = draft("--image", picture, "--clips", 5, "--out", tmp_path / "s.json")
    assert code == 130 and "2 of 5 prompts are in s.json" in err
    assert exchange.read_file(tmp_path / "s.json").prompts == ("beat 1", "beat 2")
    assert scripted.closed == 1


def test_a_drafter_that_fails_is_one_sentence_and_keeps_what_was_drafted(draft, scripted, picture, tmp_path):
    scripted.before_beat = stop_with(BackendUnavailable("The server is down."), at=1)
    code, _, err = draft("--image", picture, "--clips", 5, "--out", tmp_path / "s.txt")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "The server is down. 1 of 5 prompts are in s.txt." in err
    scripted.before_beat = stop_with(BackendUnavailable("The server is down."), at=0)
    code, _, err = draft("--image", picture, "--clips", 5, "--out", tmp_path / "none.txt")
    assert code == 2 and not (tmp_path / "none.txt").exists()


def test_a_folder_becomes_upstreams_samples(draft, scripted, pictures, tmp_path):
    assert draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")[0] == 0
    assert samples(tmp_path / "out") == {"a": ["beat 1", "beat 2"], "b-dog": ["beat 1", "beat 2"]}
    assert len({brief.seed for brief in scripted.briefs}) == 2
    assert scripted.closed == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BackendUnavailable("Down."), StorylineError("Nonsense.")])
def test_a_folder_goes_on_after_the_last_beat_that_was_written(draft, scripted, pictures, tmp_path, error):
    def before_beat(brief, index):
        if len(scripted.briefs) == 2 and index == 2:  # at the last beat of the second sample
            raise error

    scripted.before_beat = before_beat
    code = draft("--image", pictures, "--clips", 3, "--out", tmp_path / "out")[0]
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert list(samples(tmp_path / "out")) == ["a"]
    before = (tmp_path / "out" / "a" / "prompt.txt").stat().st_mtime_ns
    scripted.before_beat = lambda brief, index: None
    (tmp_path / "out" / "b-dog").mkdir()
    for leftover in ("b-dog/.prompt.txt.99.tmp", ".b-dog.json.99.tmp"):  # a process was killed here
        (tmp_path / "out" / leftover).write_text("prompts = [")
    code, out, _ = draft("--image", pictures, "--clips", 3, "--out", tmp_path / "out", "--json")
    drafted = [event for event in map(json.loads, out.splitlines()) if event["event"] == "beat_drafted"]
    assert (code, [(event["index"], event["caption"]) for event in drafted]) == (0, [(2, "Bild 3")])
    assert (scripted.briefs[-1].count, scripted.briefs[-1].so_far) == (1, ("beat 1", "beat 2"))
    assert samples(tmp_path / "out")["b-dog"] == ["beat 1", "beat 2", "beat 3"]
    assert (tmp_path / "out" / "a" / "prompt.txt").stat().st_mtime_ns == before
    assert not list((tmp_path / "out").glob(".*"))


def test_a_sample_that_was_whole_but_for_its_file_needs_no_drafter(draft, scripted, pictures, tmp_path, monkeypatch):
    draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")
    (tmp_path / "out" / "a" / "prompt.txt").unlink()
    monkeypatch.delattr(drafting, "open_drafter")
    assert draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")[0] == 0
    assert samples(tmp_path / "out")["a"] == ["beat 1", "beat 2"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--clips", 9), "“clips” was 2 and is 9"),
        (("--clips", 2, "--keywords", "cat"), "“keywords” was"),
        (("--clips", 2, "--variant", "shot"), "“kind” was"),
        (("--clips", 2, "--pace", "slow"), "“telling” is another"),
        (("--clips", 2, "--seed", 5), "“seed” was 0 and is 5"),
    ],
)
def test_a_sample_of_another_job_is_refused_by_name_and_left_alone(draft, scripted, pictures, tmp_path, flags, words):
    draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    code, out, err = draft("--image", pictures, *flags, "--out", tmp_path / "out")
    assert code == 2 and "2 of 2 pictures failed" in err
    assert f"a failed: a was drafted for something else: {words}" in out and "or name another folder" in out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_another_picture_of_the_same_name_is_refused(draft, scripted, pictures, tmp_path):
    draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")
    (pictures / "b dog.png").replace(pictures / "A.webp")
    code, out, _ = draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")
    assert code == 2 and "“picture” is another" in out


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"asked": {}, "beats": [{"prompt": ""}]}', '{"asked": 3}', None])
def test_a_record_that_cannot_be_read_is_no_reason_to_write_over_a_sample(draft, scripted, pictures, tmp_path, damage):
    draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")
    record = tmp_path / "out" / "a.json"
    record.unlink() if damage is None else record.write_text(damage)
    code, out, _ = draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")
    assert code == 2 and ("was not written by “draft”" if damage is None else "a.json is damaged") in out
    assert len(scripted.briefs) == 2


def test_templates_say_that_they_write_english_only(draft, picture, pictures, tmp_path):
    for image in (picture, pictures):
        out = draft("--image", image, "--clips", 1, "--language", "de", "--out", tmp_path / image.stem / "s.txt")[1]
        assert "write English only, and no captions in Deutsch." in out.splitlines()[0]
    assert "English" not in draft("--image", picture, "--clips", 1)[1]


def test_finished_samples_need_no_drafter(draft, scripted, pictures, tmp_path, monkeypatch):
    draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")
    monkeypatch.delattr(drafting, "open_drafter")
    assert draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")[0] == 0


def test_an_unreadable_picture_is_named_and_the_others_go_on(draft, scripted, pictures, tmp_path):
    (pictures / "a0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    code, out, err = draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out", "--json")
    assert code == 2 and "1 of 3 pictures failed: a0.png" in err
    failed = [event for event in map(json.loads, out.splitlines()) if event["event"] == "item_failed"]
    assert [event["item"] for event in failed] == ["a0"]
    assert len(samples(tmp_path / "out")) == 2


def test_an_answer_that_cannot_be_used_fails_one_sample_and_a_dead_server_ends_it(draft, scripted, pictures, tmp_path):
    scripted.before_beat = lambda brief, index: stop_with(StorylineError("Nonsense."), 1)(brief, len(scripted.briefs))
    code, out, err = draft("--image", pictures, "--clips", 2, "--out", tmp_path / "out")
    assert code == 2 and "a failed: Nonsense." in out and len(samples(tmp_path / "out")) == 1
    scripted.before_beat = stop_with(BackendUnavailable("The server is down."), at=0)
    scripted.briefs.clear()
    code, _, err = draft("--image", pictures, "--clips", 2, "--out", tmp_path / "other")
    assert code == 2 and err == "BackendUnavailable: The server is down.\n" and len(scripted.briefs) == 1


def test_too_few_beats_are_no_storyline(scripted, picture):
    scripted.beats = lambda brief: (Beat(prompt=text) for text in ["one"])
    with pytest.raises(StorylineError, match="1 of 2"):
        list(drafting.written(scripted, Brief(picture, 2)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "EMPTY", "--clips", 2, "--out", "OUT"], "holds no picture"),
        (["--image", "FOLDER", "--clips", 2], "Add --out FOLDER"),
        (["--image", "FOLDER", "--clips", 2, "--out", "FILE"], "is a file"),
        (["--image", "TWINS", "--clips", 2, "--out", "OUT"], "would both be called “a”"),
        (["--image", "PICTURE", "--clips", 0], "number of clips"),
        (["--image", "PICTURE", "--clips", 2, "--out", "x.docx"], "no known suffix"),
        (["--image", "missing.png", "--clips", 2], "could not be opened"),
        (["--image", "FOLDER", "--clips", 2, "--out", "OUT", "--keywords", "k" * 501], "501 characters"),
    ],
)
def test_what_cannot_be_drafted_is_said_in_one_line(draft, picture, pictures, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    twins = tmp_path / "twins"
    twins.mkdir()
    for name in ("A.png", "a.jpg"):
        (twins / name).write_bytes(picture.read_bytes())
    paths = {"EMPTY": tmp_path / "empty", "FOLDER": pictures, "TWINS": twins, "OUT": tmp_path / "out"}
    paths |= {"FILE": pictures / "notes.txt", "PICTURE": picture}
    code, _, err = draft(*(paths.get(a, a) for a in arguments))
    assert code == 2 and words in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "out").exists()


def test_names_are_plain_and_need_no_neighbours(tmp_path):
    names = [
        drafting.name_for(tmp_path / name) for name in ("../Über Größe!.png", "...png", "x" * 99 + ".jpg", "日.png")
    ]
    assert names[0] == "uber-groe" and names[2] == "x" * 60
    assert all(name.startswith("picture-") and name == name.lower() for name in (names[1], names[3]))
    with pytest.raises(InputError, match="would both"):
        drafting.named([tmp_path / "a b.png", tmp_path / "a-b.png"])


def test_templates_do_not_wait_for_the_model_stack(picture):
    words = ["draft", "--image", str(picture), "--clips", "2", "--drafter", "template"]
    code = f"import sys; from engine import cli; cli.main({words!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.slow
def test_a_folder_is_drafted_by_a_real_server_and_stops_with_it(draft, pictures, tmp_path):
    with LoopbackLLM() as server:
        who = ("--drafter", "endpoint", "--endpoint-url", server.url, "--endpoint-model", "tiny")
        code, out, err = draft("--image", pictures, "--clips", 3, "--out", tmp_path / "out", *who)
        assert (code, err) == (0, "")
        assert out.startswith("# ") and "tiny" in out.splitlines()[0]
        assert [len(prompts) for prompts in samples(tmp_path / "out").values()] == [3, 3]
    Image.open(pictures / "A.webp").save(pictures / "c.png")
    code, _, err = draft("--image", pictures, "--clips", 3, "--out", tmp_path / "out", *who)
    assert code == 2 and len(err.splitlines()) == 1 and "BackendUnavailable" in err
    assert len(samples(tmp_path / "out")) == 2
