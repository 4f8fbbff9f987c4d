import numpy as np
import pytest
import torch

from engine.diffusion.conditioning import to_pixels
from engine.domain import Resolution
from engine.pocket import footage, scenes
from engine.pocket.codec import FieldCodec
from engine.pocket.framing import Framing
from engine.pocket.motion import Motion
from engine.pocket.render import Canvas

FRAMES, SIZE = 9, Resolution(144, 96)


@pytest.fixture(scope="module")
def canvas():
    """A scene larger than the frame."""
    rng = np.random.default_rng(4)
    picture = (255 * scenes.landscape(rng, 160, 240)).round().astype(np.uint8)
    return Canvas.of(picture, Framing.of(240, 160, SIZE, 1.4))


def motion(**parts):
    still = Motion.still(FRAMES, SIZE.width / SIZE.height)
    share = np.linspace(0, 1, FRAMES)
    for name, end in parts.items():
        getattr(still, name)[:, : len(end)] = share[:, None] * end
    return still


def fit(frames):
    return footage.fit_of(frames, FieldCodec().encode(to_pixels(frames, torch.device("cpu")))[0])


@pytest.mark.parametrize("parts", [{"camera": (0.2, 0.0)}, {"camera": (0.0, 0.0, 0.2)}, {"light": (-0.4, -0.2, -0.3)}])
def test_camera_and_light_are_followed(canvas, parts):
    found = fit(canvas.draw(motion(**parts)))
    assert found.moved > 30 > found.still + 3


def test_what_a_camera_brings_in_from_outside_is_not_held_against_it(canvas):
    """A fifth of the last frame is new: over the whole frame the fields would fail."""
    frames = canvas.draw(motion(camera=(0.4, 0.0)))
    assert fit(frames).moved > 28
    blind = np.array(frames)
    blind[-1, :, -20:] = 255 - blind[-1, :, -20:]
    assert fit(blind).moved == pytest.approx(fit(frames).moved, abs=1.5)


def test_somebody_in_front_and_a_cut_are_not_followed(canvas):
    still = canvas.draw(motion())
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    person, cut = still.copy(), still.copy()
    for index in range(FRAMES):
        person[index][np.hypot((x - 30 - 10 * index) / 18, (y - 50) / 36) < 1] = (230, 40, 60)
    cut[FRAMES // 2 :] = np.roll(255 - still[0][::-1], 50, axis=1)
    for frames in (person, cut):
        assert fit(frames).moved < 22


def test_a_clip_at_rest_is_as_good_as_its_copy(canvas):
    found = fit(canvas.draw(motion()))
    assert found.moved == found.still > 60
