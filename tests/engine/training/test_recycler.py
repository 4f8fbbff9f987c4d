"""The loop around the banks, on clips of the pocket's world and on plain latents."""

import random
from functools import partial

import pytest
import torch

from engine.diffusion.conditioning import mask_first
from engine.diffusion.flow import to_latents
from engine.pocket import clips, world
from engine.pocket.layout import GROUPS, scales, tied
from engine.pocket.pictures import toy_scenes
from engine.training.models import latent_weights
from engine.training.recipe import Recycling
from engine.training.recycler import Recycler
from engine.training.recycling import MASK_CHANNELS, Errors, Flags

FRAMES, COUNT = 13, 3
SETTINGS = Recycling(
    image=1.0,
    latents=0.0,
    noise=0.0,
    clean=0.0,
    image_frames=1,
    image_window="last",
    warmup_steps=0,
    bank={"num_grids": 4, "capacity": 4, "storage": "float32"},
)


@pytest.fixture(scope="module")
def resting():
    """Latents and condition (B, C, f, h, w), with their mask, of clips in which nothing is asked for: all the way back
    to the anchor is what has gone wrong."""
    made = []
    for seed in range(COUNT):
        picture = 0.6 * toy_scenes(1, 32, 32, seed=seed)[0]
        past = clips.draw_past(picture, random.Random(seed), FRAMES, 1, 0)
        still = world.Move()
        made.append(clips.make(past, still, [0.2] * world.CODES, num_frames=FRAMES, padding="anchor"))
    latents, condition = (torch.stack([getattr(clip, name) for clip in made]) for name in ("latents", "condition"))
    return latents, mask_first(condition, world.GROUP)


def recycler_with(errors, **changes):
    """A recycler whose banks hold nothing but `errors` (C, f, h, w)."""
    deviate = changes.pop("deviate", partial(clips.deviated, padding="anchor"))
    recycler = Recycler(SETTINGS.model_copy(update=changes), shift=5.0, seed=0, deviate=deviate)
    batch, never = errors[None].expand(4, *errors.shape), torch.zeros(4, dtype=torch.bool)
    sigma = torch.tensor([0.1, 0.5, 0.9, 1.0]).view(-1, 1, 1, 1, 1)
    for _ in range(8):
        recycler.keep(Errors(batch, 0 * batch), sigma, Flags(never, never, never, never), 1, lambda tensor: tensor)
    return recycler


def field_errors():
    """Errors (C, f, h, w) of light and of the camera's place; the last latent frame's are handed on."""
    errors = torch.zeros(scales().shape[1], 4, 2, 2)
    errors[GROUPS["light"].channels][:5] = torch.tensor([0.2, -0.1, 0.3, -0.2, 0.1]).view(-1, 1, 1, 1)
    errors[GROUPS["camera"].channels][:2] = torch.tensor([0.3, -0.2]).view(-1, 1, 1, 1)
    errors[:, :3] *= 0.5
    return errors


def linear_model(condition):
    """Reads the deviation from the padding and undoes it: clean latents (B, C, f, h, w) in one step, for clips that
    rest. What is given it repeats, the code too."""
    told = condition[:, MASK_CHANNELS:]
    fields = slice(0, GROUPS["code"].start)
    ease = torch.from_numpy(world.ease(world.progress(FRAMES))).to(told)
    clean = told.clone()
    clean[:, fields] = told[:, fields, -1:] * ease.view(1, 1, -1, 1, 1)
    clean[:, GROUPS["code"].channels] = 0.2
    return clean


def loss_of(predicted, target):
    return float((latent_weights(target.shape[2], 2.0) * (predicted - target).square()).sum(1).mean())


@pytest.mark.parametrize("draws", [1, 5])
def test_a_model_that_reads_the_deviation_from_the_condition_has_no_loss(resting, draws):
    """Light and place enter fields linearly, so that a linear model can be perfect; sums of errors are no exception."""
    latents, condition = resting
    recycler = recycler_with(field_errors(), image_draws=draws)
    sigma = torch.full((COUNT, 1, 1, 1, 1), 0.7)
    noise = tied(torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)))
    injected, flags = recycler.inject(latents, noise, condition, sigma)
    assert flags.image.all()
    target = to_latents(injected.noisy_latents, injected.velocity, sigma)
    torch.testing.assert_close(target, injected.latents)
    assert loss_of(linear_model(injected.condition), target) < 1e-10
    assert loss_of(linear_model(injected.condition), latents) > 1e-3  # the same fields would be another film


def test_what_such_a_model_gets_wrong_is_nothing_to_recycle(resting):
    latents, condition = resting
    for reference in ("recycled", "clean"):
        recycler = recycler_with(field_errors(), reference=reference)
        sigma = torch.full((COUNT, 1, 1, 1, 1), 1.0)
        injected, _ = recycler.inject(latents, torch.zeros_like(latents), condition, sigma)
        velocity = (injected.noisy_latents - injected.latents) / sigma
        errors = recycler.errors_of(injected, velocity, sigma)
        assert errors.latents.abs().max() < 1e-6 and errors.noise.abs().max() < 1e-6


def test_only_the_last_latent_frame_is_handed_on_where_the_recipe_says_so(resting):
    latents, condition = resting
    early = field_errors()
    early[:, -1] = 0
    recycler = recycler_with(early)
    injected, _ = recycler.inject(latents, 0 * latents, condition, torch.ones(COUNT, 1, 1, 1, 1))
    assert torch.equal(injected.condition, condition) and torch.equal(injected.latents, latents)


def test_without_the_picture_in_between_errors_are_added_and_the_aim_stays(resting):
    """Latents that are pixels in another form, as Wan's."""
    latents, condition = resting
    errors = field_errors()
    recycler = recycler_with(errors, deviate=None)
    injected, _ = recycler.inject(latents, 0 * latents, condition, torch.ones(COUNT, 1, 1, 1, 1))
    assert torch.equal(injected.latents, latents)
    torch.testing.assert_close(
        injected.condition[:, MASK_CHANNELS:, 0], condition[:, MASK_CHANNELS:, 0] + errors[None, :, -1]
    )
    assert torch.equal(injected.condition[:, :, 1:], condition[:, :, 1:])
