"""Clips of the embedded model's world to train on: latents, condition and caption, in closed form, no pixel moved.

A clip begins somewhere in a film: earlier moves have changed the picture's light and led the camera away from it. Where
frames are handed over, it also begins with what the clips before got wrong: `deviated`.
"""

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine.pocket import asked, codec, world
from engine.pocket.layout import FIELDS, GROUPS
from engine.pocket.motion import Motion
from engine.pocket.world import Move
from engine.variants import Padding


@dataclass(frozen=True)
class WorldClip:
    """latents and condition (C, f, h, w); text: what was asked for, in tokens."""

    latents: Tensor
    condition: Tensor
    text: str


@dataclass(frozen=True)
class Past:
    """What came before a clip. state: of its first frame, relative to the picture. known: of the frames it shares with
    the clip before, relative to the first. first, last: small pixels (h, w, 3) of the first and last known frame."""

    state: Motion
    known: Motion
    first: np.ndarray
    last: np.ndarray


def draw(
    picture: Tensor,
    rng: random.Random,
    *,
    num_frames: int,
    num_motion_frames: int,
    padding: Padding,
    earlier_moves: int,
) -> WorldClip:
    """A random clip that starts from small pixels `picture` (3, 16 h, 16 w) after so many earlier moves."""
    past = draw_past(picture, rng, num_frames, num_motion_frames, earlier_moves)
    wish = asked.draw(rng)
    code = [rng.gauss(0, 1) for _ in range(world.CODES)]
    return make(past, wish.move, code, num_frames=num_frames, padding=padding, text=asked.spelt(wish))


def draw_past(picture: Tensor, rng: random.Random, num_frames: int, num_motion_frames: int, earlier_moves: int) -> Past:
    base = picture.permute(1, 2, 0).double().numpy()
    aspect = base.shape[1] / base.shape[0]
    state = Motion.still(1, aspect)
    path = state
    for _ in range(earlier_moves):
        before = world.Statistics.of_small(world.lit(base, state.light[0]))
        code = [rng.gauss(0, 1) for _ in range(world.CODES)]
        shares = ((np.arange(num_frames) - world.HOLD) / (num_frames - 1 - world.HOLD)).clip(0, 1)
        path = world.perform(asked.draw(rng).move, code, before, shares, aspect).after(state)
        state = path[-1:]
    begin = path[[len(path) - num_motion_frames]] if len(path) >= num_motion_frames else path[-1:]
    known = path[-num_motion_frames:].since(begin) if len(path) >= num_motion_frames else Motion.still(1, aspect)
    return Past(begin, known, world.lit(base, begin.light[0]), world.lit(base, state.light[0]))


def make(
    past: Past, asked_for: Move, code: list[float], *, num_frames: int, padding: Padding, text: str = ""
) -> WorldClip:
    """The clip that a move and the seed's `code` lead to, as latents, and what the model is told of it."""
    first = torch.from_numpy(past.first).float().permute(2, 0, 1)[None]
    mean = codec.mean_of(first)
    content = codec.content(first, num_frames)[0]
    shares = world.progress(num_frames)
    move = world.perform(asked_for.led, code, world.Statistics.of_small(past.last), shares, past.state.aspect)
    motion = move.after(past.known[-1:])
    motion = replace(motion, levels=move.levels, wind=move.wind)  # own ones: what was there before stays untold
    motion.camera[0] = motion.light[0] = 0.0
    latents = content.clone()
    codec.put(latents, motion, mean)
    codec.put_paths(latents, world.path_amounts(asked_for))
    latents[GROUPS["code"].channels] = torch.tensor(code)[:, None, None, None]
    condition = codec.condition_of(content, past.known, past.state, mean, padding)
    return WorldClip(latents, condition, text)


def deviated(latents: Tensor, condition: Tensor, errors: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
    """Clips and what the model is told of them, when their first frames were handed over with errors (paper, Eq. 3).

    latents, condition: (B, C, f, h, w), the latter without its mask. errors (B, C, k, h, w): of the latent frames that
    become the clip's first ones. Clips without errors are returned as they are.

    An error of a latent frame is a motion: instead of X the clip begins with X' = D X. Fields tell how frames are made
    of the first one, so what told M X must now tell M D⁻¹ X' (`Motion.since`). In the condition the way back to the
    anchor, W, becomes W D⁻¹ and so contains the deviation; a known frame K X, itself off by E, becomes E K D⁻¹; grey
    padding says nothing and stays. The target changes as well, since the same fields would hand D on for ever: it is
    the true film, reached gently. Frame t is D^(1 − s) M, with s from 0 to 1 as moves ease, so that a clip still begins
    with its own first frame (D M D⁻¹ = 1 there; without D^(1 − s) every clip would begin with a jump) and ends rightly.

    The frame's content changes with D's light, a value v to g v + o. What camera errors move within tiles, what slopes
    do to spreads, and clamping are left out. The true motion before the frame is unknown and taken for little.
    """
    pairs = [
        _deviated(*clip, padding) if clip[2].any() else clip[:2]
        for clip in zip(latents, condition, errors, strict=True)
    ]
    return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])


def _deviated(latents: Tensor, condition: Tensor, errors: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
    mean, aspect = _seen(condition)
    motion = replace(codec.read(latents, mean, aspect, quiet=False), local=None)
    done = world.ease(world.progress(world.GROUP * (len(motion) - 1) + 1))
    left = torch.from_numpy(1 - done).to(errors).view(1, -1, 1, 1) * errors[:, :1]
    remaining = _lost(left, motion, mean)
    deviation = remaining[:1]
    aim = remaining.after(motion).since(deviation)
    told = replace(codec.read(condition, mean, aspect, quiet=False), local=None)
    if padding == "anchor":
        moved, frames = codec.told_back(told[1:].since(deviation)), slice(1, None)
    else:  # a known frame at rest looks like padding, and like it stays
        known = int(condition[FIELDS, 1 : errors.shape[1]].abs().amax((0, 2, 3)).gt(1e-4).sum())
        frames = slice(1, 1 + known)
        moved = _lost(errors[:, frames], told[frames], mean).after(told[frames]).since(deviation)
    latents, condition = _relit(latents, deviation.light[0]), _relit(condition, deviation.light[0])
    mean, _ = _seen(condition)
    codec.put(latents, replace(aim, levels=motion.levels, wind=motion.wind), mean)
    codec.put(condition, replace(moved, levels=told.levels[frames], wind=told.wind[frames]), mean, frames)
    return latents, condition


def _lost(errors: Tensor, true: Motion, mean: np.ndarray) -> Motion:
    """Errors (C, n, h, w) of n latent frames as motions relative to the `true` frames; mean: of their base."""
    means = np.exp(true.light[:, [0, 1, 1]]) * mean + true.light[:, 2:5]
    before = errors.new_zeros(len(errors), 1, *errors.shape[2:])  # `read` takes the first entry for the base
    lost = codec.read(torch.cat([before, errors], 1), np.concatenate([mean[None], means]), true.aspect, quiet=False)[1:]
    return replace(lost, levels=0 * lost.levels, wind=0 * lost.wind, local=None)


def _seen(content: Tensor) -> tuple[np.ndarray, float]:
    """Mean of L, B − L, R − L and the aspect of the first frame, as the latents (C, f, h, w) tell them."""
    group = GROUPS["picture"]
    values = content[group.channels, 0, 0, 0].double().cpu().numpy() * group.scale + codec.MEANS["picture"]
    return values[:3], math.exp(values[5])


def _relit(content: Tensor, light: np.ndarray) -> Tensor:
    """A copy of latents (C, f, h, w) whose first frame stands in `light` (11,)."""
    content = content.clone()
    light = torch.from_numpy(light).to(content).view(-1, 1, 1, 1)
    gains = light[[0, 1, 1]].exp()
    x, y = content[GROUPS["place"].channels]
    picture, tiles = _values("picture", content), _values("tile", content)
    picture[:3] = gains * picture[:3] + light[2:5]
    picture[3:5] += light[:2]
    tiles[:3] = gains * tiles[:3] + light[2:5] + light[5:8] * x + light[8:11] * y
    variances = ((2 * tiles[3:5]).exp() - codec.LEAST_VARIANCE).clamp(min=0)
    tiles[3:5] = (gains[:2].square() * variances + codec.LEAST_VARIANCE).log() / 2
    tiles[5:] *= gains[0]
    for name, values in (("picture", picture), ("tile", tiles)):
        scale, means = _units(name, content)
        content[GROUPS[name].channels] = (values - means) / scale
    return content


def _values(name: str, content: Tensor) -> Tensor:
    """What a group of content (C, f, h, w) tells, in its own units."""
    scale, means = _units(name, content)
    return content[GROUPS[name].channels] * scale + means


def _units(name: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and mean of a group of what is given, (size, 1, 1, 1) each."""
    numbers = (GROUPS[name].scale, codec.MEANS[name])
    return tuple(torch.tensor(values).to(like).view(-1, 1, 1, 1) for values in numbers)
