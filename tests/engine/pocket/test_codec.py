"""Latents of fields: what is written can be read, and they say what the first frame looks like."""

import math

import numpy as np
import pytest
import torch

from engine.pocket import codec, world
from engine.pocket.codec import FieldCodec
from engine.pocket.layout import CHANNELS, FIELDS, GROUPS, code_of, scales, tied
from engine.pocket.motion import CAMERA, LEVELS, LIGHT, LOCAL, Motion
from tests.engine.pocket.test_render import textured

GRID, ASPECT, NUM_FRAMES = (6, 9), 1.5, 25
NUM_KNOTS = 7


@pytest.fixture
def first() -> torch.Tensor:
    return codec.first_frame(textured(GRID[1] * 16, GRID[0] * 16))


def asked(*, local: bool = False) -> Motion:
    """Knots of a clip in which everything changes, by much."""
    rng = np.random.default_rng(0)
    share = np.linspace(0, 1, NUM_KNOTS)[:, None]
    sizes = (len(CAMERA), len(LIGHT), len(LEVELS))
    signs = [rng.choice([-1.0, 1.0], size) for size in sizes]
    return Motion(
        share * signs[0] * [0.3, 0.3, 0.26, 0.087],
        share * signs[1] * 0.3,
        share * rng.uniform(0.3, 1, len(LEVELS)),
        share * [-0.7, 0.8],
        np.zeros((NUM_KNOTS, 2)),
        ASPECT,
        share[..., None, None] * rng.uniform(-0.2, 0.2, (NUM_KNOTS, LOCAL, *GRID)) if local else None,
    )


def written(motion: Motion, first: torch.Tensor) -> torch.Tensor:
    latents = codec.content(first, NUM_FRAMES)[0]
    codec.put(latents, motion, codec.mean_of(first))
    return latents


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("quiet", [False, True])
def test_a_motion_that_was_written_is_read(first, local, quiet):
    motion = asked(local=local)
    found = codec.read(written(motion, first), codec.mean_of(first), ASPECT, quiet=quiet)
    for name in ("camera", "light", "levels", "wind"):
        assert np.abs(getattr(found, name) - getattr(motion, name)).max() < 1e-5, name
    assert (found.local is None) == (motion.local is None)
    if local:
        assert np.abs(found.local - motion.local).max() < 1e-5


def test_what_is_too_small_to_have_been_asked_for_is_read_as_nothing(first):
    motion = asked()
    faint = Motion(*(0.01 * getattr(motion, name) for name in ("camera", "light", "levels", "wind", "clock")), ASPECT)
    found = codec.read(written(faint, first), codec.mean_of(first), ASPECT)
    assert not found.camera.any() and not found.light[:, :2].any() and not found.levels.any()


def test_levels_and_wind_are_read_within_their_range(first):
    latents = written(asked(), first)
    latents[GROUPS["levels"].channels] *= 5
    latents[GROUPS["wind"].channels] *= 5
    found = codec.read(latents, codec.mean_of(first), ASPECT)
    assert found.levels.min() >= 0 and found.levels.max() == 1
    assert np.abs(found.wind).max() == 1 and found.wind[:, 1].min() >= 0


def test_the_first_frame_is_its_own_base_whatever_latents_say(first):
    found = codec.read(torch.randn(CHANNELS, NUM_KNOTS, *GRID), codec.mean_of(first), ASPECT)
    assert not found.camera[0].any() and not found.light[0].any() and not found.local[0].any()


def test_an_offset_is_stored_as_what_becomes_of_the_mean(first):
    """A light move is then the same for a picture of any contrast."""
    statistics = world.Statistics.of_small(first[0].permute(1, 2, 0).double().numpy())
    light = world.LIGHTS["night"]
    motion = world.perform(
        world.Move(lights=(("night", 1.0),)), np.zeros(world.CODES), statistics, world.progress(NUM_FRAMES), ASPECT
    )
    latents = written(motion, first) * scales()[0]
    offset = latents[GROUPS["light"].channels][2, -1].mean().item()
    assert offset == pytest.approx(light.luma - statistics.mean[0], abs=1e-5)


def test_content_says_what_the_picture_looks_like(first):
    latents = codec.content(first, NUM_FRAMES)[0] * scales()[0]
    pixels = first[0].permute(1, 2, 0).double().numpy()
    statistics = world.Statistics.of_small(pixels)
    means = torch.tensor(codec.MEANS["picture"])
    whole = (latents[GROUPS["picture"].channels].mean((1, 2, 3)) + means).numpy()
    expected = [*statistics.mean, math.log(statistics.luma), math.log(statistics.colour), math.log(ASPECT)]
    assert whole == pytest.approx(expected, abs=1e-4)
    tile = latents[GROUPS["tile"].channels, 0, 1, 2].numpy() + codec.MEANS["tile"]
    own = world.Statistics.of_small(pixels[16:32, 32:48])
    assert tile[:3] == pytest.approx(own.mean, abs=1e-4)
    assert tile[3] == pytest.approx(math.log(own.luma), abs=1e-2)


def test_content_moves_nothing_and_is_the_same_in_every_frame(first):
    latents = codec.content(first, NUM_FRAMES)[0]
    assert not latents[FIELDS].any()
    for name in ("place", "picture", "tile"):
        group = latents[GROUPS[name].channels]
        assert torch.equal(group, group[:, :1].expand_as(group)), name


def test_the_clock_runs_from_the_first_latent_frame_to_the_last(first):
    clock = codec.content(first, NUM_FRAMES)[0, GROUPS["clock"].channels, :, 0, 0]
    assert clock[0].tolist() == pytest.approx((2 * world.progress(NUM_FRAMES) - 1).tolist())
    assert clock[2].tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_brightness_along_a_tile_is_told_by_its_cosines():
    ramp = torch.linspace(-0.5, 0.5, 16).repeat(GRID[1]).expand(1, 3, GRID[0] * 16, -1)
    tile = codec.content(ramp.contiguous(), 9)[0, GROUPS["tile"].channels, 0]
    along_x, along_y = tile[6], tile[5]
    assert along_x.abs().min() > 1 and along_y.abs().max() < 1e-4


def test_a_written_clip_holds_the_last_frame_of_each_latent_frame(first):
    motion = world.at_frames(asked())
    latents = codec.write(motion, first)
    assert latents.shape == (1, CHANNELS, NUM_KNOTS, *GRID)
    found = codec.read(latents[0], codec.mean_of(first), ASPECT)
    assert np.abs(found.camera - motion.camera[:: world.GROUP]).max() < 1e-5


def test_pixels_are_encoded_as_the_light_that_falls_on_them():
    frame = textured(144, 96)
    share = np.linspace(0, 1, 9)[:, None, None, None]
    frames = (frame * (1 - 0.5 * share)).round().astype(np.uint8)  # half as bright at the end
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    latents = FieldCodec().encode(pixels)
    grid = world.grid_of(144, 96)
    assert latents.shape == (1, CHANNELS, 3, *grid)
    found = codec.read(latents[0], codec.mean_of(codec.first_frame(frame)), ASPECT)
    assert np.exp(found.light[-1, :2]) == pytest.approx([0.5, 0.5], abs=0.02)
    assert np.abs(found.camera).max() < 1e-3


def test_anchored_padding_is_the_way_back(first):
    state = asked()[-1:]
    state.light[:, 5:] = 0.0  # slopes as steep as these no move has
    mean = codec.mean_of(first)
    condition = codec.condition_of(codec.content(first, NUM_FRAMES)[0], Motion.still(1, ASPECT), state, mean, "anchor")
    assert not condition[FIELDS, 0].any()
    back = codec.read(condition, mean, ASPECT)[-1:].after(state)
    assert np.abs(back.camera).max() < 1e-4 and np.abs(back.light).max() < 1e-3


def test_the_way_back_is_told_no_further_than_training_has_shown_it(first):
    far, still, mean = Motion.still(1, ASPECT), Motion.still(1, ASPECT), codec.mean_of(first)
    far.light[:], far.camera[:] = 9.0, 3.0
    told = codec.condition_of(codec.content(first, NUM_FRAMES)[0], still, far, mean, "anchor")
    known = codec.read(told, mean, ASPECT, quiet=False)
    assert (np.abs(known.light[1:]) <= codec.WAY_LIGHT + 1e-4).all() and np.abs(known.light[1:]).max() > 1
    assert (np.abs(known.camera[1:]) <= codec.WAY_CAMERA + 1e-4).all() and np.abs(known.camera[1:]).max() > 0.5


def test_grey_padding_is_nothing_changes(first):
    mean = codec.mean_of(first)
    state = asked()[-1:]
    condition = codec.condition_of(codec.content(first, NUM_FRAMES)[0], Motion.still(1, ASPECT), state, mean, "zeros")
    assert not condition[FIELDS].any()


def test_noise_of_a_value_for_the_whole_frame_is_one_number():
    noise = tied(torch.randn(2, CHANNELS, NUM_KNOTS, *GRID))
    for name in ("camera", "light", "levels", "wind"):
        group = noise[:, GROUPS[name].channels]
        assert torch.equal(group, group[..., :1, :1].expand_as(group)), name
        assert group[:, :, 0, 0, 0].std() > 0
    local = noise[:, GROUPS["local"].channels]
    assert local.std((3, 4)).min() > 0.3
    code = noise[:, GROUPS["code"].channels]
    assert torch.equal(code, code_of(noise)[:, :, None, None, None].expand_as(code))


def test_noise_can_share_its_code_with_the_data():
    code = torch.randn(2, world.CODES)
    assert torch.equal(code_of(tied(torch.randn(2, CHANNELS, NUM_KNOTS, *GRID), code)), code)


def test_a_camera_that_nearly_reaches_an_amount_ends_there_and_others_are_left_alone():
    knots = Motion.still(5, ASPECT)
    knots.camera[:, 0] = np.linspace(0, 1.1 * world.PAN, 5)
    knots.camera[:, 1] = np.linspace(0, -0.7 * world.PAN, 5)
    knots.camera[:, 2] = np.linspace(0, 0.9 * world.MUCH * world.ZOOM_OUT, 5)
    ends = codec.settled(knots).camera
    assert ends[-1, :3] == pytest.approx([world.PAN, -0.7 * world.PAN, world.MUCH * world.ZOOM_OUT])
    assert ends[2] == pytest.approx(ends[-1] / 2)


def test_what_follows_known_frames_begins_where_they_end():
    known = Motion.still(5, ASPECT)
    known.camera[:, 0] = np.linspace(0, 0.004, 5)
    latents = torch.zeros(CHANNELS, NUM_KNOTS, *GRID)
    onward = codec.follow(latents, np.zeros(3), known, [1.0] * world.CODES)
    assert len(onward) == 4 * (NUM_KNOTS - 2) + 1
    assert np.abs(onward.camera).max() == 0


@pytest.mark.parametrize("told, taken", [(0.1, 0.0), (0.45, 0.5), (1.2, 1.0), (1.9, world.MUCH)])
def test_a_free_path_is_the_seeds_and_comes_in_amounts(told, taken):
    code = [1.0, 0.0, 0.0, 0.0, 0.5, -1.0, 2.0, 0.3]
    latents = torch.zeros(CHANNELS, NUM_KNOTS, *GRID)
    codec.put_paths(latents, np.array([told, 0.0]))
    onward = codec.follow(latents, np.zeros(3), Motion.still(1, ASPECT), code)
    path = world.path(np.array([taken, 0.0]), code, world.progress(world.GROUP * (NUM_KNOTS - 1) + 1))
    np.testing.assert_allclose(onward.camera[:: world.GROUP], path, atol=1e-9)


def test_a_light_is_heard_as_a_whole(first):
    motion = asked()
    motion.light[:] = 0.0
    motion.light[:, 0] = np.linspace(0, 0.4, len(motion))
    motion.light[:, 10] = np.linspace(0, 0.002, len(motion))  # by itself too little to have been asked for
    found = codec.read(written(motion, first), codec.mean_of(first), ASPECT)
    assert found.light[-1, 10] == pytest.approx(0.002, abs=1e-5)
