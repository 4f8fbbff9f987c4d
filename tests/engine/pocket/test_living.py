import cv2
import numpy as np
import pytest

from engine.domain import Resolution
from engine.pocket import living, scenes
from engine.pocket.framing import Framing
from engine.pocket.motion import LEVELS, Motion
from engine.pocket.render import Canvas

SIZE = Resolution(288, 192)
STRONG = 1.0
IN_PLACE = ("ripple", "sway", "drift", "twinkle")  # the others reach over the whole frame


def canvas_of(seed: int, wanted: str) -> tuple[Canvas, dict[str, np.ndarray]]:
    """A scene that has the region `wanted`, and its true masks as the frame shows them."""
    while True:
        scene, truth = scenes.masked_landscape(np.random.default_rng(seed), 240, 360)
        picture = np.rint(255 * scene).astype(np.uint8)
        canvas = Canvas.of(picture, Framing.of(360, 240, SIZE))
        if wanted in canvas.setting.found.present():
            return canvas, {name: framed(canvas, mask) for name, mask in truth.items()}
        seed += 100


def framed(canvas: Canvas, mask: np.ndarray) -> np.ndarray:
    shown = Canvas.of(np.rint(255 * mask).astype(np.uint8)[..., None].repeat(3, 2), canvas.framing)
    return shown.draw(still(1))[0, ..., 0] / 255


def still(count: int) -> Motion:
    return Motion.still(count, SIZE.width / SIZE.height)


def alive(names: tuple[str, ...], seconds: np.ndarray, level: float = STRONG, wind: tuple = (0.9, 0.8)) -> Motion:
    states = still(len(seconds))
    for name in names:
        states.levels[:, LEVELS.index(name)] = level
    states.wind[:] = wind
    states.clock[:, 0] = seconds
    states.clock[:, 1] = np.multiply(*wind) * seconds
    return states


REGION = {"ripple": "water", "sway": "foliage", "drift": "sky", "twinkle": "lamps"}


@pytest.fixture(scope="module", params=living.OFFERED)
def named(request) -> tuple[str, Canvas, dict[str, np.ndarray]]:
    return request.param, *canvas_of(4, REGION.get(request.param, "sky"))


def test_the_same_state_gives_the_same_pixels(named):
    name, canvas, _ = named
    states = alive((name,), np.array([7.3]))
    again = Canvas.of(canvas.levels[0], canvas.framing)
    assert np.array_equal(canvas.draw(states), again.draw(states))


def test_without_a_level_nothing_changes_whatever_the_clock_says(named):
    name, canvas, _ = named
    states = alive((name,), np.array([0.0, 3.0, 400.0]), level=0.0)
    assert np.array_equal(canvas.draw(states), canvas.draw(still(3)))


def test_what_is_asked_for_is_seen(named):
    name, canvas, _ = named
    first, later = canvas.draw(alive((name,), np.array([2.0, 3.1]))).astype(int)
    assert np.abs(first - later).max() > 8


@pytest.mark.parametrize("name", IN_PLACE)
def test_nothing_moves_outside_its_region(name):
    canvas, truth = canvas_of(4, REGION[name])
    frames = canvas.draw(alive((name,), np.linspace(1, 9, 5))).astype(int)
    change = np.abs(frames - canvas.draw(still(1))[0]).max((0, 3))
    reach = cv2.dilate(truth[REGION[name]], np.ones((13, 13), np.uint8))  # a mask's pixel is no frame's pixel
    assert (change[reach < 0.01] > 8).mean() < 0.01


def test_motion_is_continuous_in_time(named):
    """A thousandth of a second changes next to nothing, however late in the film."""
    name, canvas, _ = named
    begin = 613.0
    frames = canvas.draw(alive((name,), begin + np.array([0.0, 0.0005, 0.001]))).astype(float)
    assert np.abs(frames[1] - frames[0]).mean() < 0.4  # drops fall a sixteenth of a pixel at a time
    assert np.abs(frames[2] - frames[0]).mean() < 0.8


def test_a_level_that_rises_late_makes_nothing_jump(named):
    name, canvas, _ = named
    states = alive((name,), np.full(3, 977.0))
    states.levels[:, LEVELS.index(name)] = (0.0, 1e-4, 2e-4)
    frames = canvas.draw(states).astype(float)
    assert np.abs(np.diff(frames, axis=0)).mean() < 0.05
    assert np.abs(np.diff(frames, axis=0)).max() <= 12


def test_the_sky_goes_on_after_a_whole_cycle_without_a_jump():
    """Where one copy of the clouds ends its way it is not seen."""
    canvas, _ = canvas_of(4, "sky")
    period = living.CYCLE / living.CLOUD
    states = alive(("drift",), np.zeros(4))
    states.clock[:, 1] = period * np.array([0.4999, 0.5001, 0.9999, 1.0001])
    frames = canvas.draw(states).astype(int)
    assert np.abs(frames[0] - frames[1]).max() <= 2
    assert np.abs(frames[2] - frames[3]).max() <= 2


def test_clouds_go_with_the_wind():
    """The change between two moments is explained by a shift to the right when the wind blows to the right."""
    canvas, truth = canvas_of(4, "sky")
    for direction in (-1.0, 1.0):
        before, after = (
            canvas.draw(alive(("drift",), np.array([0.0, 1.0]), wind=(direction, 1.0))).astype(float).mean(-1)
        )
        sky = cv2.erode(truth["sky"], np.ones((25, 25), np.uint8)) > 0.99
        errors = {shift: np.abs(np.roll(before, shift, 1) - after)[sky].mean() for shift in (-3, 3)}
        assert errors[round(3 * direction)] < errors[round(-3 * direction)]


def test_the_skyline_does_not_tear():
    """What stands before the sky stays as it is while clouds pass behind it."""
    canvas, truth = canvas_of(4, "sky")
    frames = canvas.draw(alive(("drift",), np.linspace(0, 8, 5))).astype(int)
    ground = cv2.erode((truth["sky"] < 0.01).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert np.abs(frames - frames[0])[:, ground].mean() < 0.3


@pytest.mark.parametrize("name", ["snow", "rain"])
def test_what_falls_never_runs_out(name):
    canvas, _ = canvas_of(4, "sky")
    seconds = np.array([1.0, 60.0, 3600.0])
    change = np.abs(canvas.draw(alive((name,), seconds)).astype(int) - canvas.draw(still(1))[0]).mean((1, 2, 3))
    assert change.min() > 0.6 * change.max()


@pytest.mark.parametrize("name", ["snow", "rain", "haze"])
def test_more_of_a_level_is_more_of_it(name):
    canvas, _ = canvas_of(4, "sky")
    before = canvas.draw(still(1))[0].astype(int)
    amounts = [
        np.abs(canvas.draw(alive((name,), np.array([5.0]), level))[0] - before).mean() for level in (0.2, 0.6, 1.0)
    ]
    assert amounts[0] < amounts[1] < amounts[2]


def test_waves_stay_with_the_scene_when_the_camera_moves():
    """A camera that pans sees the same water, moved: the waves are no film over the lens."""
    canvas, _ = canvas_of(4, "water")
    states = alive(("ripple",), np.full(2, 5.0))
    pixels = 12
    states.camera[1, 0] = 2 * pixels / SIZE.width
    first, panned = canvas.draw(states).astype(float)
    assert np.abs(panned[:, :-pixels] - first[:, pixels:]).mean() < 0.5
    assert np.abs(panned - first).mean() > 1.0


def test_a_clip_that_follows_goes_on_where_the_last_one_ended():
    """One film of two clips is one film: a state is drawn alike whoever composed it."""
    canvas, _ = canvas_of(4, "water")
    whole = alive(("ripple", "drift", "snow"), np.arange(8) / 16)
    first, second = whole[:4], whole[4:]
    own = Motion(second.camera, second.light, second.levels, second.wind, second.clock - first.clock[3:], whole.aspect)
    composed = own.after(first[3:4])
    assert np.array_equal(canvas.draw(composed), canvas.draw(second))


def test_pictures_without_regions_still_take_what_falls():
    """A frame of one colour: nothing lives in it, snow and mist cover it, and the rest asks for nothing."""
    canvas = Canvas.of(np.full((96, 144, 3), 128, np.uint8), Framing.of(144, 96, SIZE))
    before = canvas.draw(still(1))
    assert np.array_equal(canvas.draw(alive(IN_PLACE, np.array([4.0]))), before)
    assert not np.array_equal(canvas.draw(alive(("snow",), np.array([4.0]))), before)


def test_a_handed_over_frame_lives_as_well():
    scene, _ = scenes.masked_landscape(np.random.default_rng(4), SIZE.height, SIZE.width)
    canvas = Canvas.of_frame(np.rint(255 * scene).astype(np.uint8))
    frames = canvas.draw(alive(living.OFFERED, np.array([0.0, 2.0])))
    assert frames.shape == (2, SIZE.height, SIZE.width, 3)
    assert not np.array_equal(frames[0], frames[1])


def test_every_offered_level_is_one_that_the_model_tells():
    assert set(living.OFFERED) < set(LEVELS)
