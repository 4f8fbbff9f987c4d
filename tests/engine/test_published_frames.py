"""Films from the command line against upstream's loop written straight down, and that loop against known mistakes.

Every method renders two clips from folders in diffusers layout and LoRAs in upstream's spelling, at 48×32 with random
weights. The frames before any lossy step must be the yardstick's. The tolerance is one level, because a sum in another
order tips a value over where levels are cut off; `mistakes` shows that far less than any known mistake passes it.

Of the 25 known pitfalls of porting SVI, `INVISIBLE` cannot show in the frames of a clip:
10 a LoRA beside quantised weights: none are here, and fusing into them is refused (`models/test_lora.py`)
14 the frame rate: a number in the container
17 a height that is not capped: films have the preset's sizes (`test_variants.py`)
18 Talk's audio, windows and clip count: not among these methods
20, 22 training: the error bank, and where in the material the anchor is drawn
21 prompt files that are executed: a matter of safety (`story/test_prompts.py`)
24 a demo that is shared by default
How many frames are trimmed shows in the film, not in a clip: there every frame is told apart. Of 19, Dance's pose, the
rule applies that both passes of guidance see the condition.
"""

import inspect
import re
from collections.abc import Callable

import numpy as np
import pytest

from engine.media import image, video
from tests.engine.published import upstream
from tests.engine.published.films import METHODS, Checkpoint, Made, generate, write_checkpoint
from tests.engine.published.mistakes import MISTAKES, Mistake

Film = tuple[Checkpoint, Made]
WORST_LEVELS, WORST_MEAN = 1, 0.05
INVISIBLE = {10, 14, 17, 18, 20, 21, 22, 24}


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Callable[[str], Film]:
    """A film of two clips by one of the methods, or a "draft" of one; each is made once."""
    films: dict[str, Film] = {}

    def make(name: str) -> Film:
        if name not in films:
            folder = tmp_path_factory.mktemp(name)
            if name == "draft":
                checkpoint = write_checkpoint(folder, "svi-2.0-wan2.2", steps=4, guidance=1.5, draft_shift=8.0)
                films[name] = checkpoint, generate(checkpoint, folder / "made", "--draft")
            else:
                checkpoint = write_checkpoint(folder, name)
                films[name] = checkpoint, generate(checkpoint, folder / "made")
        return films[name]

    return make


def differences(made: Made, expected: list[np.ndarray]) -> list[tuple[int, float]]:
    """Largest and mean distance in levels of each clip."""
    pairs = zip(made.frames, expected, strict=False)
    distances = [np.abs(frames.astype(int) - wanted) for frames, wanted in pairs]
    return [(int(distance.max()), float(distance.mean())) for distance in distances]


def is_equal(difference: tuple[int, float]) -> bool:
    return difference[0] <= WORST_LEVELS and difference[1] <= WORST_MEAN


@pytest.mark.parametrize("name", [*METHODS, "draft"])
def test_a_film_from_the_command_line_has_upstreams_frames(film, name):
    checkpoint, made = film(name)
    expected = checkpoint.yardstick().film(made.picture, made.prompts, made.frames)
    found = differences(made, [clip.frames for clip in expected])
    assert len(found) == 2 and all(map(is_equal, found)), found
    assert all(frames.std() > 20 for frames in made.frames)  # pictures, so that there is something to compare


@pytest.mark.parametrize("name", METHODS)
def test_a_clip_continues_the_last_frames_of_the_one_before_losslessly(film, name):
    checkpoint, made = film(name)
    first, second = made.requests
    count = upstream.METHODS[name].motion_frames
    folder = made.store.take_folder(first.digest) / "tail"
    kept = np.stack([image.load(folder / f"{number}.png") for number in range(5)])
    assert np.array_equal(kept, made.frames[0][-5:])
    if count:
        assert np.array_equal(second.condition_frames, made.frames[0][-count:])
        assert second.tail_latents is None
    else:
        assert np.array_equal(second.tail_latents, made.results[0].tail_latents)
    (expected,) = checkpoint.yardstick().film(made.picture, made.prompts[:1])
    assert np.abs(kept.astype(int) - expected.frames[-5:]).max() <= WORST_LEVELS


@pytest.mark.parametrize("name", METHODS)
def test_the_film_is_every_clip_without_the_head_that_the_film_has_already(film, name):
    """Upstream trims the earlier clip's tail in 1.0 and the later one's head in 2.0 on Wan 2.2; segments that are only
    ever appended need the head, so that in 1.0 the frames of the overlap are the first of their two versions."""
    _, made = film(name)
    every = np.concatenate(made.frames).astype(int)
    nearest = [int(np.abs(every - frame).mean(axis=(1, 2, 3)).argmin()) for frame in video.decode(made.exported)]
    length = len(made.frames[0])
    assert nearest == [*range(length), *range(length + upstream.METHODS[name].overlap, 2 * length)]


def test_the_yardstick_imports_nothing_of_the_studio():
    assert not re.findall(r"^\s*(?:from|import) (?:engine|studio)\b.*", inspect.getsource(upstream), re.MULTILINE)


def test_every_pitfall_that_can_show_is_among_the_mistakes():
    assert {mistake.pitfall for mistake in MISTAKES.values()} == set(range(1, 26)) - INVISIBLE


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_known_mistake_would_be_noticed(film, mistake: Mistake):
    checkpoint, made = film(mistake.film)
    mistaken = checkpoint.yardstick(mistake.changes)
    clips = mistaken.film(made.picture, made.prompts[: mistake.clip], made.frames)
    *before, found = differences(made, [clip.frames for clip in clips])
    assert all(map(is_equal, before)), "it shows in an earlier clip"
    assert not is_equal(found), "it does not show"
