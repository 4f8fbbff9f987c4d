"""Frames as they are drawn, against the picture itself and plain numpy."""

import cv2
import numpy as np
import pytest

from engine.domain import Resolution
from engine.pocket import world
from engine.pocket.framing import Framing
from engine.pocket.motion import LIGHT, Motion
from engine.pocket.render import Canvas, soft_border

SIZE = Resolution(144, 96)
MARGIN = 1.125  # whole pixels around the frame


def textured(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A picture with soft shapes and some grain, never quite black or white."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(50, 200, (7, 9, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(rng.normal(0, 40, (height, width, 3)), (0, 0), 1.2)
    return (coarse + fine).clip(1, 254).astype(np.uint8)


def psnr(made: np.ndarray, true: np.ndarray) -> float:
    error = float(np.square(made.astype(np.float64) - true).mean())
    return -10 * np.log10(max(error / 255**2, 1e-10))


def canvas_of(picture: np.ndarray, resolution: Resolution = SIZE) -> Canvas:
    return Canvas.of(picture, Framing.of(picture.shape[1], picture.shape[0], resolution, MARGIN))


@pytest.fixture
def canvas() -> Canvas:
    """One pixel of the picture to each of the film's."""
    return canvas_of(textured(162, 108))


def moved(count: int = 1, **camera: float) -> Motion:
    motion = Motion.still(count, 1.5)
    for name, value in camera.items():
        motion.camera[:, ("x", "y", "zoom", "angle").index(name)] = value
    return motion


def test_a_still_frame_is_the_crop_to_the_bit(canvas):
    picture = canvas.levels[0]
    assert np.array_equal(canvas.draw(moved())[0], picture[6:102, 9:153])


def test_a_pan_of_whole_pixels_is_the_picture_cropped_elsewhere(canvas):
    picture = canvas.levels[0]
    [frame] = canvas.draw(moved(x=2 * 7 / 144, y=-2 * 4 / 96))
    assert psnr(frame, picture[2:98, 16:160]) > 60


def test_a_quarter_turn_turns_the_frame_around_its_middle():
    picture = textured(108, 108)
    square = canvas_of(picture, Resolution(96, 96))
    quarter = Motion.still(1, 1.0)
    quarter.camera[0, 3] = np.pi / 2
    # what is right of the middle of the frame is below it in the picture: the camera turned clockwise
    assert psnr(square.draw(quarter)[0], np.rot90(picture[6:102, 6:102])) > 45


def test_zooming_in_by_two_shows_the_middle_half():
    picture = textured(324, 216)
    [frame] = canvas_of(picture).draw(moved(zoom=np.log(2)))
    assert psnr(frame, picture[60:156, 90:234]) > 40


def test_the_same_state_twice_is_the_same_to_the_bit(canvas):
    state = moved(x=0.05, zoom=0.1, angle=0.03)
    state.light[:] = 0.05
    frames = canvas.draw(state[np.zeros(3, int)])
    assert np.array_equal(frames[0], frames[2])
    assert np.array_equal(frames[0], canvas.draw_one(state))


def test_chosen_frames_are_the_same_as_in_the_whole_clip(canvas):
    clip = moved(5)
    clip.camera[:, 0] = np.linspace(0, 0.1, 5)
    assert np.array_equal(canvas.draw(clip, [1, 4]), canvas.draw(clip)[[1, 4]])


def test_a_large_upload_does_not_alias():
    stripes = np.zeros((1080, 1620, 3), np.uint8)
    stripes[:, ::3] = 255  # finer than the film's pixels: only their mean should be left
    frame = canvas_of(stripes).draw(moved(x=0.02))[0].astype(np.float64)
    picked = cv2.resize(stripes, (144, 96), interpolation=cv2.INTER_CUBIC)
    assert frame.std() < 0.15 * picked.std()
    assert frame.mean() == pytest.approx(85, abs=3)


def test_zooming_in_brings_out_what_a_large_upload_holds():
    picture = textured(1620, 1080, seed=1)
    [frame] = canvas_of(picture).draw(moved(zoom=np.log(10)))
    assert psnr(frame, picture[492:588, 738:882]) > 38


@pytest.mark.parametrize("seed", range(4))
def test_light_is_the_formula_in_plain_numpy(canvas, seed):
    state = moved()
    state.light[0] = np.random.default_rng(seed).uniform(-0.3, 0.3, len(LIGHT))
    still = canvas.draw(moved())[0]
    expected = (world.lit(still / 127.5 - 1, state.light[0]) + 1) * 127.5
    assert np.abs(canvas.draw(state)[0] - expected).max() < 0.51  # rounding only


def test_light_belongs_to_the_frame_not_to_the_place():
    canvas = canvas_of(textured(162, 108) // 3 + 85)  # far from black and white
    lit, panned, both = moved(), moved(x=0.1), moved(x=0.1)
    lit.light[:, 8] = both.light[:, 8] = 0.4
    still, bright, aside, bright_aside = (canvas.draw(one)[0].astype(float) for one in (moved(), lit, panned, both))
    assert np.abs((bright_aside - aside) - (bright - still)).max() <= 1


def test_without_a_move_nothing_is_invented(canvas):
    frame = textured(144, 96)
    handed = Canvas.of_frame(frame)
    assert np.array_equal(handed.draw(moved())[0], frame)
    assert handed.invented(moved()) == 0
    assert canvas.invented(moved(x=0.1)) == 0


def test_what_is_invented_is_counted():
    handed = Canvas.of_frame(textured(144, 96))
    assert handed.invented(moved(x=0.2)) == pytest.approx(0.1, abs=0.01)
    assert handed.invented(moved(zoom=np.log(0.5))) == pytest.approx(0.75, abs=0.02)


def test_beyond_its_edge_a_frame_goes_on_softly_and_is_no_mirror():
    frame = textured(144, 96)
    padded = soft_border(frame, 40)
    assert np.array_equal(padded[40:136, 40:184], frame)
    beside, mirrored = padded[40:136, 184:224].astype(float), frame[:, :-41:-1].astype(float)

    def roughness(pixels: np.ndarray) -> float:
        return float(np.abs(np.diff(pixels, axis=1)).mean())

    assert roughness(beside) < 0.3 * roughness(mirrored)
    assert np.abs(beside[:, 0] - frame[:, -1]).mean() < 8  # no seam
