import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.pocket import asked, clips, codec, world
from engine.pocket.layout import FIELDS, GROUPS, code_of, scales
from engine.pocket.motion import Motion
from engine.pocket.pictures import toy_scenes

ASPECT, FRAMES = 1.5, 25
CAMERA, LIGHT = GROUPS["camera"].channels, GROUPS["light"].channels
GIVEN = slice(GROUPS["clock"].start, None)


@pytest.fixture(scope="module")
def picture():
    """Small pixels (3, 32, 48) that no small change of light clamps."""
    return 0.6 * toy_scenes(1, 32, 48, seed=5)[0]


def drawn(picture, seed=0, *, num_frames=FRAMES, num_motion_frames=1, padding="zeros", earlier_moves=1):
    options = {"num_frames": num_frames, "num_motion_frames": num_motion_frames, "padding": padding}
    return clips.draw(picture, random.Random(seed), earlier_moves=earlier_moves, **options)


def mean_of(latents):
    return (
        codec.MEANS["picture"][:3]
        + latents[GROUPS["picture"].channels, 0, 0, 0].double().numpy()[:3] * (GROUPS["picture"].scale[:3])
    )


def told(latents):
    return codec.read(latents, mean_of(latents), ASPECT, quiet=False)


# Clips of the world


def test_the_same_seed_gives_the_same_clip(picture):
    first, second, third = (drawn(picture, seed, num_motion_frames=5) for seed in (1, 1, 2))
    assert first.text == second.text and torch.equal(first.latents, second.latents)
    assert torch.equal(first.condition, second.condition)
    assert not torch.equal(first.latents, third.latents)


@pytest.mark.parametrize("padding", ["zeros", "anchor"])
def test_condition_and_clip_agree_on_what_is_given_and_begin_with_the_first_frame(picture, padding):
    clip = drawn(picture, padding=padding)
    assert clip.latents.shape == clip.condition.shape == (scales().shape[1], 7, 2, 3)
    assert torch.equal(clip.latents[GIVEN], clip.condition[GIVEN])
    assert clip.condition[FIELDS, 0].abs().max() == 0
    for name in ("camera", "light", "levels", "wind", "local"):
        assert clip.latents[GROUPS[name].channels, 0].abs().max() == 0


@pytest.mark.parametrize("seed", range(6))
def test_the_known_frames_are_told_and_padding_says_that_nothing_changes(picture, seed):
    clip = drawn(picture, seed, num_motion_frames=5)
    for channels in (CAMERA, LIGHT):
        torch.testing.assert_close(clip.condition[channels, 1], clip.latents[channels, 1], rtol=0, atol=1e-5)
    assert clip.condition[FIELDS, 2:].abs().max() == 0


def test_anchor_padding_is_the_way_back_to_the_picture(picture):
    past = clips.draw_past(picture, random.Random(3), FRAMES, 1, 3)
    assert np.abs(past.state.camera).max() > 0.01 or np.abs(past.state.light).max() > 0.01
    code = [0.0] * world.CODES
    clip = clips.make(past, asked.draw(random.Random(0)).move, code, num_frames=FRAMES, padding="anchor")
    back = told(clip.condition)[1:].after(past.state)
    np.testing.assert_allclose(back.camera, 0, atol=1e-6)
    np.testing.assert_allclose(back.light, 0, atol=1e-6)


def test_the_code_of_a_clip_decides_what_its_prompt_leaves_open(picture):
    past = clips.draw_past(picture, random.Random(3), FRAMES, 1, 0)
    move = world.Move(free=(("wander", world.MUCH),), levels=(("drift", 0.6),))
    one, other = (
        clips.make(past, move, [value] * world.CODES, num_frames=FRAMES, padding="zeros").latents for value in (-1, 1)
    )
    assert (code_of(one[None]) == -1).all() and (code_of(other[None]) == 1).all()
    assert told(one).wind[-1, 0] == -told(other).wind[-1, 0] == -1.0
    assert not told(one).camera.any()  # a free path is none of these channels: the code says which, they how much
    assert codec.read_paths(one).tolist() == codec.read_paths(other).tolist() == [world.MUCH, 0.0]


# What was handed over with errors


def errors_of(*, frames=1, seed=0, size=0.1, slopes=True):
    """Errors (C, frames, 2, 3) of camera and light, in scaled units; alike in all frames but for a tenth."""
    generator = torch.Generator().manual_seed(seed)
    errors = torch.zeros(scales().shape[1], frames, 2, 3)
    for channels in (CAMERA, LIGHT):
        count = channels.stop - channels.start
        common = torch.randn(count, 1, 1, 1, generator=generator)
        own = torch.randn(count, frames, 1, 1, generator=generator)
        errors[channels] = size * (common + 0.1 * own)
    if not slopes:
        errors[LIGHT.start + 5 : LIGHT.stop] = 0
    return errors


def deviation_of(errors, latents):
    """The motion D that an error makes of the first frame."""
    return codec.read(torch.cat([0 * errors[:, :1], errors[:, :1]], 1), mean_of(latents), ASPECT, quiet=False)[1:]


def deviated(clip, errors, padding):
    latents, condition = clips.deviated(clip.latents[None], clip.condition[None], errors[None], padding)
    return latents[0], condition[0]


def test_clips_without_errors_are_left_alone(picture):
    clip = drawn(picture, num_motion_frames=5)
    latents, condition = deviated(clip, errors_of(frames=2, size=0), "zeros")
    assert torch.equal(latents, clip.latents) and torch.equal(condition, clip.condition)


def test_only_the_clips_with_errors_change(picture):
    pair = [drawn(picture, seed, padding="anchor") for seed in (0, 1)]
    latents, condition = (torch.stack([getattr(clip, name) for clip in pair]) for name in ("latents", "condition"))
    errors = torch.stack([errors_of(size=0), errors_of()])
    after = clips.deviated(latents, condition, errors, "anchor")
    for before, changed in zip((latents, condition), after, strict=True):
        assert torch.equal(before[0], changed[0]) and not torch.equal(before[1], changed[1])


@pytest.mark.parametrize("padding", ["zeros", "anchor"])
def test_the_content_is_that_of_the_frame_in_its_deviated_light(picture, padding):
    """Exact without slopes: the pixels are lit and described anew."""
    clip = drawn(picture, padding=padding, earlier_moves=0)
    errors = errors_of(slopes=False, size=0.2)
    light = deviation_of(errors, clip.latents).light[0]
    lit = torch.from_numpy(world.lit(picture.permute(1, 2, 0).double().numpy(), light)).float().permute(2, 0, 1)
    expected = codec.content(lit[None], FRAMES)[0, GIVEN]
    assert (expected - clip.latents[GIVEN]).abs().max() > 0.1
    for latents in deviated(clip, errors, padding):
        torch.testing.assert_close(latents[GIVEN], expected, rtol=0, atol=2e-3)


def test_slopes_are_right_to_first_order_but_for_the_spreads(picture):
    clip = drawn(picture, earlier_moves=0)
    errors = errors_of(size=0.05)
    light = deviation_of(errors, clip.latents).light[0]
    lit = torch.from_numpy(world.lit(picture.permute(1, 2, 0).double().numpy(), light)).float().permute(2, 0, 1)
    expected = codec.content(lit[None], FRAMES)[0]
    changed, _ = deviated(clip, errors, "zeros")
    means = slice(GROUPS["tile"].start, GROUPS["tile"].start + 3)
    torch.testing.assert_close(changed[means], expected[means], rtol=0, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("padding", ["zeros", "anchor"])
def test_the_condition_is_what_the_codec_says_of_the_deviated_frames(picture, padding, seed):
    """The deviated first frame, its state and that of the frame known besides it, told as they would be."""
    past = clips.draw_past(picture, random.Random(seed), FRAMES, 1, 1)  # so near that all of the way back is told
    known = Motion.still(5 if padding == "zeros" else 1, ASPECT)
    known.camera[1:], known.light[1:, :2] = 0.01 * (1 + seed), -0.02 * (1 + seed)
    move, code = asked.draw(random.Random(seed)).move, [0.3] * world.CODES
    clip = clips.make(replace(past, known=known), move, code, num_frames=FRAMES, padding=padding)
    errors = errors_of(frames=2, seed=seed)
    _, condition = deviated(clip, errors, padding)
    state = deviation_of(errors, clip.latents).after(past.state)
    if padding == "zeros":
        mean = np.exp(known.light[4, [0, 1, 1]]) * mean_of(clip.latents) + known.light[4, 2:5]
        own = codec.read(torch.cat([0 * errors[:, :1], errors[:, 1:2]], 1), mean, ASPECT, quiet=False)[1:]
        other = own.after(known[4:].after(past.state)).since(state)
        assert np.abs(other.light - known.light[4]).max() > 1e-3
        known.camera[4], known.light[4] = other.camera[0], other.light[0]
    expected = codec.condition_of(condition, known, state, mean_of(condition), padding)
    torch.testing.assert_close(condition[FIELDS], expected[FIELDS], rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_clip_to_aim_at_begins_with_what_there_is_and_ends_in_the_true_film(picture, seed):
    clip = drawn(picture, seed, padding="anchor", earlier_moves=2)
    errors = errors_of(seed=seed)
    latents, _ = deviated(clip, errors, "anchor")
    reached = told(latents)[-1:].after(deviation_of(errors, clip.latents))
    true = told(clip.latents)[-1:]
    np.testing.assert_allclose(reached.camera, true.camera, atol=1e-6)
    np.testing.assert_allclose(reached.light, true.light, atol=1e-6)
    unchanged = told(clip.latents)[-1:].after(deviation_of(errors, clip.latents))
    assert np.abs(unchanged.camera - true.camera).max() > 1e-3  # the same fields would hand the deviation on
    assert latents[CAMERA, 0].abs().max() == latents[LIGHT, 0].abs().max() == 0


def test_errors_are_undone_without_a_jump(picture):
    """No latent frame corrects more than a third of a deviation that stays."""
    past = clips.draw_past(picture, random.Random(0), FRAMES, 1, 0)
    clip = clips.make(past, world.Move(), [0.0] * world.CODES, num_frames=FRAMES, padding="anchor")
    errors = errors_of()
    latents, _ = deviated(clip, errors, "anchor")
    path = latents[CAMERA, :, 0, 0]
    assert (path[:, 1:] - path[:, :-1]).abs().max() < 0.34 * path[:, -1].abs().max()


def test_levels_wind_code_and_local_fields_stay_as_they_are(picture):
    move = world.Move(levels=(("calm", 1.0), ("snow", 0.7)), camera=(0.1, 0, 0, 0))
    past = clips.draw_past(picture, random.Random(0), FRAMES, 1, 0)
    clip = clips.make(past, move, [0.5] * world.CODES, num_frames=FRAMES, padding="anchor")
    latents, _ = deviated(clip, errors_of(), "anchor")
    for name in ("levels", "wind", "local", "code"):
        channels = GROUPS[name].channels
        torch.testing.assert_close(latents[channels], clip.latents[channels], rtol=0, atol=1e-6)
    assert latents[GROUPS["levels"].channels].abs().max() > 0.5
