"""The closed form of every move, against a plain computation on pixels."""

import random

import numpy as np
import pytest

from engine.pocket import asked, pictures, world
from engine.pocket.motion import LUMA, Motion

NUM_FRAMES = 25
CODE = np.zeros(world.CODES)


@pytest.fixture(scope="module")
def smalls() -> list[np.ndarray]:
    """Small pixels (96, 144, 3) of procedural pictures, in [−1, 1]."""
    return [scene.permute(1, 2, 0).double().numpy() for scene in pictures.toy_scenes(6, 96, 144, seed=3)]


def perform(move: world.Move, small: np.ndarray, code=CODE) -> Motion:
    shares = world.progress(NUM_FRAMES)
    return world.perform(move, code, world.Statistics.of_small(small), shares, small.shape[1] / small.shape[0])


def by_hand(small: np.ndarray, name: str) -> np.ndarray:
    """A light move on pixels: mean and contrast to the light's, then its vertical gradient. Not clamped."""
    light = world.LIGHTS[name]
    luma = (small @ LUMA)[..., None]
    chroma = small - luma
    y = (2 * (np.arange(len(small)) + 0.5) / len(small) - 1)[:, None, None]
    spread = np.sqrt(np.square(chroma - chroma.mean((0, 1))).mean())
    gain = np.clip(light.contrast / luma.std(), *world.GAIN_RANGE)
    colour_gain = np.clip((light.saturation / spread) ** world.COLOUR_POWER, *world.GAIN_RANGE)
    tint, slope = (np.array(one) - LUMA @ one for one in (light.tint, light.tint_slope))
    bright = light.luma + gain * (luma - luma.mean()) + max(1 - gain, 0) * light.luma_slope * y
    return bright + tint + colour_gain * (chroma - chroma.mean((0, 1))) + max(1 - colour_gain, 0) * slope * y


@pytest.mark.parametrize("name", world.LIGHTS)
def test_a_light_in_closed_form_is_the_light_on_pixels(smalls, name):
    for small in smalls:
        motion = perform(world.Move(lights=((name, 1.0),)), small)
        assert np.abs(world.lit(small, motion.light[-1]) - by_hand(small, name).clip(-1, 1)).max() < 1e-9


@pytest.mark.parametrize("name", world.LIGHTS)
def test_a_light_done_again_changes_next_to_nothing(smalls, name):
    again = []
    for small in smalls:
        pixels, changes = small, []
        for _ in range(3):
            lit = world.lit(pixels, perform(world.Move(lights=((name, 1.0),)), pixels).light[-1])
            changes.append(np.sqrt(np.square(lit - pixels).mean()))
            pixels = lit
        again.append(changes[1:])
    second, third = np.transpose(again)
    assert np.median(second) < 0.063  # 30 dB of the range −1 … 1
    assert third.max() < 0.05  # colours go half of the way, so that a garish picture takes two clips


def test_less_of_a_light_lies_between():
    small = pictures.toy_scenes(1, 96, 144, seed=1)[0].permute(1, 2, 0).double().numpy()
    means = [
        world.lit(small, perform(world.Move(lights=(("night", share),)), small).light[-1]).mean()
        for share in (0.0, 0.3, 0.6, 1.0)
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx(small.mean())


def test_two_lights_meet_half_way():
    fog, night = world.LIGHTS["fog"], world.LIGHTS["night"]
    assert fog.mixed(night).luma == pytest.approx((fog.luma + night.luma) / 2)
    assert fog.mixed(night).tint == pytest.approx(tuple(np.add(fog.tint, night.tint) / 2))


def test_a_move_begins_and_ends_at_rest():
    assert world.ease(np.array([-1.0, 0.0, 0.5, 1.0, 2.0])).tolist() == [0, 0, 0.5, 1, 1]
    step = 1e-4
    assert world.ease(np.array([step]))[0] < 10 * step**2 * 3
    assert 1 - world.ease(np.array([1 - step]))[0] < 10 * step**2 * 3


@pytest.mark.parametrize("num_frames", [9, 25, 81, 121])
def test_time_for_a_move_is_after_the_motion_frames_and_ends_with_the_clip(num_frames):
    shares = world.progress(num_frames)
    assert len(shares) == (num_frames - 1) // 4 + 1
    assert shares[0] == shares[1] == 0 and shares[-1] == 1
    assert (np.diff(shares) >= 0).all()


def test_a_move_longer_than_its_time_is_none():
    for pace in ("free", "slow", "quick"):
        for early, late in [(-9, -9), (9, 9), (0, 0)]:
            begin, end = world.schedule(pace, early, late)
            assert 0 <= begin < end <= 1


def test_seeds_change_the_timing_but_not_the_end(smalls):
    rng = random.Random(0)
    move = world.Move(camera=world.CAMERAS["pan_left"], lights=(("night", 1.0),), levels=(("ripple", 0.6),))
    clips = [perform(move, smalls[0], [rng.gauss(0, 1) for _ in range(world.CODES)]) for _ in range(12)]
    ends = np.stack([np.concatenate([clip.camera[-1], clip.light[-1], clip.levels[-1]]) for clip in clips])
    assert np.abs(ends - ends[0]).max() < 1e-12
    middles = np.stack([clip.camera[len(clip) // 2, 0] for clip in clips])
    assert np.ptp(middles) > 0.03


def test_a_seed_decides_where_a_free_camera_wanders_and_which_way_the_wind_blows(smalls):
    wander = world.Move(free=(("wander", 1.0),))
    ends = [perform(wander, smalls[0], [0, 0, 0, 0, code, 0, 0, 0]).camera[-1, 0] for code in (-1.0, 0.5)]
    assert ends == pytest.approx([-world.WANDER, 0.5 * world.WANDER])
    drift = world.Move(levels=(("drift", 0.6),))
    ways = [perform(drift, smalls[0], [0, 0, 0, 0, 0, 0, code, 0]).wind[-1, 0] for code in (-0.01, 2.0)]
    assert ways == [-1.0, 1.0]


def test_a_hand_trembles_on_the_way_and_is_steady_at_both_ends(smalls):
    clip = perform(world.Move(free=(("handheld", 1.0),)), smalls[0], np.ones(world.CODES))
    assert np.abs(clip.camera[[0, -1]]).max() < 1e-12
    assert np.abs(clip.camera[:, :2]).max() > 0.003


@pytest.mark.parametrize("name", [*world.CAMERAS, *world.LIGHTS])
def test_every_clip_starts_from_its_first_frame(smalls, name):
    move = asked.of(name).move
    clip = perform(move, smalls[1])
    assert not clip.camera[0].any() and not clip.light[0].any()
    assert clip.camera[-1].any() or clip.light[-1].any()


def test_frames_pass_through_the_knots(smalls):
    knots = perform(world.Move(camera=world.CAMERAS["roll_left"], lights=(("fog", 1.0),)), smalls[2])
    frames = world.at_frames(knots)
    assert len(frames) == NUM_FRAMES
    assert np.allclose(frames.camera[:: world.GROUP], knots.camera)
    assert np.allclose(frames.light[:: world.GROUP], knots.light)


@pytest.mark.parametrize("num_latent_frames", [1, 2, 3, 7, 21])
def test_the_spline_keeps_straight_lines(num_latent_frames):
    knots = 4.0 * np.arange(num_latent_frames)
    assert np.allclose(world.spline(num_latent_frames) @ knots, np.arange(4 * num_latent_frames - 3))


@pytest.mark.parametrize("size", [(832, 480), (480, 832), (288, 192), (640, 640), (1920, 1080), (4000, 1000), (64, 48)])
def test_a_frame_has_about_as_many_tiles_whatever_its_size(size):
    rows, columns = world.grid_of(*size)
    assert 0.75 * world.TILES < rows * columns < 1.25 * world.TILES
    assert columns / rows == pytest.approx(size[0] / size[1], rel=0.25)
