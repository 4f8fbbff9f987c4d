"""Motion found again in pixels: clips are drawn from photographs, fitted, and drawn again."""

import time
from dataclasses import replace

import numpy as np
import pytest

from engine.domain import Resolution
from engine.pocket import gates, world
from engine.pocket.encode import fit_clip, fit_frame, unexplained
from engine.pocket.framing import Framing, stay_inside
from engine.pocket.motion import Motion
from engine.pocket.pictures import toy_scenes
from engine.pocket.render import Canvas
from tests.engine.pocket.test_render import psnr, textured

SIZE = Resolution(288, 192)
NUM_FRAMES = 25
GRID = world.grid_of(SIZE.width, SIZE.height)
CODE = np.linspace(-1, 1, world.CODES)
MOVES = {
    **{name: world.Move(camera=camera) for name, camera in world.CAMERAS.items()},
    **{name: world.Move(lights=((name, 1.0),)) for name in world.LIGHTS},
    "pan_left+night": world.Move(camera=world.CAMERAS["pan_left"], lights=(("night", 1.0),)),
    "pan_right+sunset": world.Move(camera=world.CAMERAS["pan_right"], lights=(("sunset", 1.0),)),
    "zoom_out+winter": world.Move(camera=world.CAMERAS["zoom_out"], lights=(("winter", 1.0),)),
}


@pytest.fixture(scope="module")
def stages() -> list[gates.Stage]:
    """Three photographs, or scenes where the packages that hold them are not installed."""
    photos = gates.held_out_stages((SIZE.height, SIZE.width))[:3]
    drawn = ((scene + 1) * 127.5 for scene in toy_scenes(3, 480, 640, seed=5))
    scenes = [scene.round().byte().permute(1, 2, 0).numpy() for scene in drawn]
    return photos or [gates.Stage.of("scene", scene, (SIZE.height, SIZE.width)) for scene in scenes]


def true_clip(stage: gates.Stage, move: world.Move) -> Motion:
    shares = world.progress(NUM_FRAMES)
    knots = world.perform(move, CODE, stage.statistics, shares, SIZE.width / SIZE.height)
    inside, _ = stay_inside(world.at_frames(knots), stage.start, stage.canvas.framing)
    return inside


@pytest.mark.parametrize("name", MOVES)
def test_a_drawn_clip_is_found_again(stages, name):
    stage = stages[list(MOVES).index(name) % len(stages)]
    true = true_clip(stage, MOVES[name])
    frames = stage.canvas.draw(true)
    found = fit_clip(frames, GRID)
    # a twentieth of a pixel; a light as exact as eight bits tell it
    assert np.abs(found.camera[-1] - true.camera[-1]).max() < 3e-4
    assert np.abs(found.light[-1] - true.light[-1]).max() < 0.02
    assert found.local is None
    floor = 60 if name in world.LIGHTS else 48
    assert psnr(stage.canvas.draw(found, [NUM_FRAMES - 1])[0], frames[-1]) > floor


def test_a_far_frame_is_found_in_one_leap(stages):
    """As for the way back to the anchor, with nothing known of the frames between."""
    for stage in stages:
        for name in ("zoom_out", "roll_left", "tilt_up", "pan_left+night"):
            true = true_clip(stage, MOVES[name])[-1:]
            [last] = stage.canvas.draw(true)
            found = fit_frame(stage.first, last)
            assert psnr(stage.canvas.draw(found)[0], last) > 45, (stage.name, name)


def test_five_handed_over_frames_tell_the_motion_between_them(stages):
    for stage in stages:
        true = true_clip(stage, MOVES["pan_left+night"])[10:15]
        five = stage.canvas.draw(true)
        found, wanted = fit_clip(five, GRID), true.since(true[:1])
        assert np.abs(found.camera[-1] - wanted.camera[-1]).max() < 1e-3
        assert np.abs(found.light[-1] - wanted.light[-1]).max() < 0.03


def test_frames_that_stand_still_have_not_moved(stages):
    still = fit_clip(np.repeat(stages[0].first[None], 9, 0), GRID)
    assert len(still) == 9 and still.local is None
    assert not still.camera.any() and not still.light.any()
    assert not fit_frame(stages[0].first, stages[0].first).camera.any()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_colour_tells_no_camera(level):
    flat = np.full((96, 144, 3), level, np.uint8)
    darker = np.full((96, 144, 3), max(level - 60, 0), np.uint8)
    found = fit_clip(np.stack([flat, *[darker] * 4]), (6, 9))
    assert np.abs(found.camera).max() < 1e-3
    assert unexplained(flat, darker, found[-1:]) < 1e-3


def test_noise_is_survived():
    frames = np.random.default_rng(0).integers(0, 256, (5, 96, 144, 3), dtype=np.uint8)
    found = fit_clip(frames, (6, 9))
    assert np.isfinite(found.camera).all() and np.isfinite(found.light).all()
    assert unexplained(frames[0], frames[4], found[-1:]) > 0.1  # and said so


@pytest.mark.parametrize("size", [(64, 64), (256, 64), (64, 256), (16, 16), (2, 2)])
def test_small_and_narrow_frames_are_fitted(size):
    width, height = size
    frame = textured(width + 8, height + 8)
    found = fit_frame(frame[4 : 4 + height, 4 : 4 + width], frame[4 : 4 + height, 5 : 5 + width])
    assert np.isfinite(found.camera).all()
    if min(size) >= 64:
        assert found.camera[0, :2] == pytest.approx([2 / width, 0], abs=0.4 / width)


def test_something_that_moves_by_itself_does_not_pull_the_camera(stages):
    stage = stages[0]
    true = true_clip(stage, MOVES["pan_left"])
    [last] = stage.canvas.draw(true[-1:])
    last[60:150, 90:200] = stage.first[60:150, 90:200]  # a sixth of the frame stays where it was
    found = fit_frame(stage.first, last)
    assert np.abs(found.camera - true.camera[-1:]).max() < 2e-4  # plain least squares: 6e-4


def test_a_local_part_is_fitted_where_it_explains_what_is_left(stages):
    stage = stages[0]
    y, x = np.mgrid[-1 : 1 : GRID[0] * 1j, -1 : 1 : GRID[1] * 1j]
    bend = np.stack([0.06 * np.sin(3 * y), 0.06 * np.sin(3 * x), 0 * x, 0 * x, 0 * x])
    knots = replace(Motion.still(3, 1.5), local=np.array([0, 0.5, 1])[:, None, None, None] * bend)
    frames = stage.canvas.draw(world.at_frames(knots))
    found = fit_clip(frames, GRID)
    assert found.local is not None
    without = unexplained(stage.first, frames[-1], fit_frame(stage.first, frames[-1]))
    assert unexplained(stage.first, frames[-1], found[-1:]) < 0.3 * without


@pytest.mark.slow
def test_a_frame_costs_less_than_a_third_of_a_second():
    picture = textured(1600, 1000)
    canvas = Canvas.of(picture, Framing.of(1600, 1000, Resolution(832, 480)))
    true = Motion.still(5, 832 / 480)
    true.camera[:, 0] = np.linspace(0, 0.1, 5)
    true.light[:, 2] = np.linspace(0, 0.2, 5)
    frames = canvas.draw(true)
    began = time.process_time()
    fit_clip(frames, (6, 10))
    assert time.process_time() - began < 0.3
