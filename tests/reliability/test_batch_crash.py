"""A batch that is killed at any point goes on: no film twice, no gap, every sample whole, no drafted beat lost."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import film
from engine.config import load_preset
from engine.media import video
from engine.project.store import Store
from engine.story import exchange
from tests.reliability import batch_driver, victim

PLAN = "films: [{pictures: pictures, keywords: 'dog, street', clips: 3}]"
CLIPS, FRAMES = 3, 3 * 9 - 2 * 5
# In the order in which a run passes them: a film begun, its storyline, a sample, a take, an export, the summary.
POINTS = ("project.rename:kill:2", "sample.fsync:kill:2", "take.before_rename:kill:2", "take.after_rename:kill:2",
          "export.rename:kill:1", "summary.rename:kill:3", "clip.step:kill:4")  # fmt: skip
# While a language model writes: the first film's second beat, its third; before and after a storyline is whole.
BEATS = ("project.rename:kill:4", "project.rename:kill:2", "sample.fsync:kill:1", "batch.half_written.rename:kill:1",
         "project.rename:kill:3", "sample.temp:kill:1")  # fmt: skip


@pytest.fixture
def batch(tmp_path, preset, monkeypatch):
    """A function that runs the batch over `count` pictures in a process of its own; returns whether it was killed."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    monkeypatch.setenv("SVI_RESERVE_BYTES", "0")

    def run(*, fault: str = "", after_s: float | None = None, step_s: float = 0.0, beat_s: float | None = None) -> bool:
        words = [
            "batch",
            tmp_path / "plan.yaml",
            "--out",
            tmp_path / "out",
            "--preset",
            tmp_path / "tiny.yaml",
            "--json",
        ]
        return victim.run(batch_driver.run, list(map(str, words)), step_s, beat_s, fault=fault, after_s=after_s)[1]

    return run


def draw_pictures(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    names = [f"picture-{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return names


def finished_takes(out: Path) -> dict[Path, int]:
    """Every committed take and when it was written."""
    found = {path: path.stat().st_mtime_ns for path in out.glob("films/*/takes/*/take.json")}
    return {path: when for path, when in found.items() if not path.parent.name.startswith(".")}


def beats(out: Path) -> dict[str, list[str]]:
    """The prompts that are in each film."""
    films = [folder for folder in out.glob("films/*/") if (folder / "project.json").exists()]
    return {folder.name: [clip.prompt for clip in Store(folder).load().clips] for folder in films}


def assert_kept(before: dict[str, list[str]], after: dict[str, list[str]]) -> None:
    for name, prompts in before.items():
        assert after[name][: len(prompts)] == prompts, f"a drafted beat of {name} was lost or written again"


def forget_attempts(out: Path) -> None:
    for folder in out.glob("films/*/"):
        store = Store(folder)
        for digest in list(store.attempts()):
            store.set_attempt(digest, 0)  # the quarantine after three crashes has its own test


def assert_whole(out: Path, names: list[str], preset_file: Path) -> None:
    preset = load_preset(str(preset_file))
    assert sorted(path.name for path in (out / "films").iterdir()) == names
    for name in names:
        store = Store(out / "films" / name)
        planned = film.plan(store, preset)
        assert [clip.status for clip in planned.clips] == ["done"] * CLIPS, name
        assert len(list(store.takes_folder.iterdir())) == CLIPS, f"{name} has a take too many"
        assert len({take.clip_id for take in store.takes().values()}) == CLIPS
        assert video.probe(out / f"{name}.mp4").num_frames == FRAMES
        sample = out / "samples" / name
        assert {path.name for path in sample.iterdir()} == {"frame.jpg", "prompt.txt"}
        prompts = exchange.read_file(sample / "prompt.txt").prompts
        assert prompts == tuple(clip.prompt for clip in planned.project.clips)
        with Image.open(sample / "frame.jpg") as frame:
            frame.load()
    left = [path for path in out.rglob("*") if path.name.endswith((".tmp", ".part")) or path.name.startswith(".tmp-")]
    assert not left, f"left behind: {left}"


@pytest.mark.parametrize(
    "points", [POINTS[2:5], pytest.param(POINTS, marks=pytest.mark.reliability)], ids=["three", "all"]
)
def test_a_batch_killed_at_named_points_goes_on(batch, tmp_path, points):
    names, kept = draw_pictures(tmp_path / "pictures", 2), {}
    for point in points:
        assert batch(fault=point), f"{point} was not reached"
        takes = finished_takes(tmp_path / "out")
        assert kept.items() <= takes.items(), f"a take was lost or made again after a kill at {point}"
        kept = takes
        forget_attempts(tmp_path / "out")
    assert not batch()
    assert kept.items() <= finished_takes(tmp_path / "out").items()
    assert_whole(tmp_path / "out", names, tmp_path / "tiny.yaml")


@pytest.mark.parametrize("points", [BEATS[:1], pytest.param(BEATS, marks=pytest.mark.reliability)], ids=["one", "all"])
def test_no_beat_is_lost_when_a_batch_is_killed_while_a_model_writes(batch, tmp_path, points):
    names, kept = draw_pictures(tmp_path / "pictures", 2), {}
    for point in points:
        assert batch(fault=point, beat_s=0.0), f"{point} was not reached"
        assert_kept(kept, beats(tmp_path / "out"))
        kept = beats(tmp_path / "out")
        half = any(len(prompts) < CLIPS for prompts in kept.values()) or len(kept) < len(names)
        assert not (half and finished_takes(tmp_path / "out")), "a film was begun before all storylines were whole"
    assert not batch(beat_s=0.0)
    assert_kept(kept, beats(tmp_path / "out"))
    assert_whole(tmp_path / "out", names, tmp_path / "tiny.yaml")


@pytest.mark.reliability
def test_a_batch_whose_model_is_killed_at_random_goes_on(batch, tmp_path):
    names, kept, kills = draw_pictures(tmp_path / "pictures", 6), {}, 0
    patience = victim.Patience(1, longest_s=1.3)
    while batch(after_s=patience.after_s(sum(map(len, kept.values()))), beat_s=0.3):
        kills += 1
        assert_kept(kept, beats(tmp_path / "out"))
        kept = beats(tmp_path / "out")
        forget_attempts(tmp_path / "out")
    assert kills >= 3
    assert_whole(tmp_path / "out", names, tmp_path / "tiny.yaml")
    sys.stdout.write(f"{kills} kills: 6 storylines, {6 * CLIPS} beats, none lost, none twice\n")


@pytest.mark.reliability
def test_a_batch_of_20_pictures_killed_at_random_goes_on(batch, tmp_path):
    names, kept, kills = draw_pictures(tmp_path / "pictures", 20), {}, 0
    patience, generator = victim.Patience(0, longest_s=3.0), random.Random(0)
    while batch(after_s=patience.after_s(len(kept)), step_s=generator.choice([0.05, 0.1])):
        kills += 1
        takes = finished_takes(tmp_path / "out")
        assert kept.items() <= takes.items(), "a take was lost or made again"
        kept = takes
        forget_attempts(tmp_path / "out")
    assert kills >= 5
    assert_whole(tmp_path / "out", names, tmp_path / "tiny.yaml")
    assert len(finished_takes(tmp_path / "out")) == 20 * CLIPS
    sys.stdout.write(f"{kills} kills: 20 films, {20 * CLIPS} takes, none lost, none twice\n")
