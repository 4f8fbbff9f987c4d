"""Clips of the embedded model without a film around them: for its gates, benchmarks and training."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from engine.diffusion.conditioning import mask_first
from engine.diffusion.flow import euler_step, sigma_schedule, velocity_from_latents
from engine.models.components import Components
from engine.pocket import codec, world
from engine.pocket.layout import code_of
from engine.pocket.motion import Motion, joined
from engine.variants import Padding


@torch.no_grad()
def generate(
    components: Components,
    frames: Sequence[np.ndarray],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    num_frames: int,
    num_inference_steps: int = 1,
    shift: float = 5.0,
    padding: Padding = "zeros",
    known: Sequence[Motion] | None = None,
    states: Sequence[Motion] | None = None,
) -> list[Motion]:
    """How the model moves each of `frames` (H, W, 3) uint8, all of one size, relative to it and at every frame.

    known: of the frames that a clip shares with the one before; states: of each first frame. Without them a clip is the
    first of its film.
    """
    aspect = frames[0].shape[1] / frames[0].shape[0]
    still = Motion.still(1, aspect)
    small = torch.cat([codec.first_frame(frame) for frame in frames])
    means = [codec.mean_of(picture[None]) for picture in small]
    content = codec.content(small, num_frames)
    condition = torch.stack(
        [
            codec.condition_of(
                content[i], known[i] if known else still, states[i] if states else still, means[i], padding
            )
            for i in range(len(frames))
        ]
    )
    grid = tuple(content.shape[3:])
    noise = torch.cat([codec.noise_of(seed, num_frames, grid) for seed in seeds])
    latents = sample(components, mask_first(condition, world.GROUP), noise, prompts, num_inference_steps, shift)
    moved = []
    for i in range(len(frames)):
        given = known[i] if known else still
        onward = codec.follow(latents[i], means[i], given, code_of(noise)[i].tolist())
        moved.append(joined(given, onward.after(given[-1:])[1:]) if len(given) > 1 else onward)
    return moved


@torch.no_grad()
def sample(
    components: Components,
    condition: Tensor,
    noise: Tensor,
    prompts: Sequence[str],
    num_inference_steps: int = 1,
    shift: float = 5.0,
) -> Tensor:
    """Latents (B, C, f, h, w) from a condition (B, 4 + C, f, h, w) and noise."""
    embeds, latents = components.encode_text(list(prompts), 0), noise
    for sigma, next_sigma in pairwise(sigma_schedule(num_inference_steps, shift)):
        timestep = torch.full((len(latents),), 1000 * sigma)
        clean = components.transformer(torch.cat([latents, condition], 1), timestep, embeds, return_dict=False)[0]
        latents = euler_step(latents, velocity_from_latents(latents, clean, sigma), sigma, next_sigma)
    return latents
