"""Error recycling (arXiv 2510.09212, Eqs. 3–6) as pure functions: what is injected, integrated and kept.

The names and signs are those of `engine.diffusion.flow`: sigma = 1 − t, velocity = −V. Latents are (B, C, f, h, w);
conditions are (B, 4 + C, f, h, w), a mask of four channels before the latents. Knows nothing of models or banks.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.diffusion.flow import add_noise, to_latents, to_noise, to_velocity

MASK_CHANNELS = 4
Reference = Literal["recycled", "clean"]


@dataclass(frozen=True)
class Errors:
    """What a step leaves for the banks: latent_errors (the paper's E_vid) and noise_errors (E_noi)."""

    latents: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Chances:
    """Probabilities of the three injections and of a clean step, where all of them are off (paper §4.1)."""

    noise: float = 0.01
    latents: float = 0.9
    image: float = 0.9
    clean: float = 0.5


@dataclass(frozen=True)
class Flags:
    """Which sample of a batch gets which injection: bool (B,)."""

    noise: Tensor
    latents: Tensor
    image: Tensor
    clean: Tensor


@dataclass(frozen=True)
class Injected:
    """One training example after Eq. 3: the model sees `noisy_latents` and `condition`, and learns `velocity`.

    latents: the clean ones that the velocity aims at.
    """

    noisy_latents: Tensor
    condition: Tensor
    velocity: Tensor
    latents: Tensor


def draw_flags(count: int, chances: Chances, generator: torch.Generator) -> Flags:
    """Independent draws per sample; a clean sample has no injection at all."""
    noise, latents, image, clean = torch.rand(4, count, generator=generator)
    dirty = clean >= chances.clean
    return Flags(
        (noise < chances.noise) & dirty, (latents < chances.latents) & dirty, (image < chances.image) & dirty, ~dirty
    )


def inject(
    latents: Tensor,
    noise: Tensor,
    condition: Tensor,
    sigma: Tensor,
    *,
    latent_errors: Tensor | None = None,
    noise_errors: Tensor | None = None,
    image_errors: Tensor | None = None,
) -> Injected:
    """Add errors to latents, noise and condition (Eq. 3) and aim back at the clean latents (Eq. 6).

    image_errors (B, C, k, h, w) goes onto the first k latent frames of the condition, padding included; the mask stays.
    An error that is None, or zero for a sample, is not injected. sigma broadcasts, (B, 1, 1, 1, 1).
    """
    errored_latents = latents if latent_errors is None else latents + latent_errors
    errored_noise = noise if noise_errors is None else noise + noise_errors
    if image_errors is not None:
        condition = condition.clone()
        condition[:, MASK_CHANNELS:, : image_errors.shape[2]] += image_errors
    noisy_latents = add_noise(errored_latents, errored_noise, sigma)
    return Injected(noisy_latents, condition, to_velocity(latents, errored_noise), latents)  # clean, errored noise


def integrate_both_ways(noisy_latents: Tensor, velocity: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """One-step integration to clean latents and to pure noise (Eq. 4)."""
    return to_latents(noisy_latents, velocity, sigma), to_noise(noisy_latents, velocity, sigma)


def residual_errors(
    noisy_latents: Tensor,
    predicted: Tensor,
    velocity: Tensor,
    sigma: Tensor,
    *,
    clean_latents: Tensor | None = None,
) -> Errors:
    """What the predicted velocity adds to the integrated ends (Eq. 4).

    The reference is the same integration with the recycled `velocity`, as the authors' code computes it for every case:
    latents −sigma·(predicted − velocity), noise (1 − sigma)·(predicted − velocity). The paper's case c (video error)
    takes the clean latents instead: give `clean_latents` for that. Without an injected latent error both agree.
    """
    reached_latents, reached_noise = integrate_both_ways(noisy_latents, predicted, sigma)
    recycled_latents, recycled_noise = integrate_both_ways(noisy_latents, velocity, sigma)
    reference = recycled_latents if clean_latents is None else clean_latents
    return Errors(reached_latents - reference, reached_noise - recycled_noise)


def window(errors: Tensor, num_frames: int, start: Tensor) -> Tensor:
    """`num_frames` consecutive latent frames of each item (B, C, f, h, w) from its own `start` (B,): Unif_T, Eq. 5."""
    return torch.stack([error[:, at : at + num_frames] for error, at in zip(errors, start.tolist(), strict=True)])


def modulate(errors: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Each item times its own uniform draw from [1 − factor, 1 + factor] (upstream `--error_modulate_factor`)."""
    if factor == 0:
        return errors
    scale = 1 + factor * (2 * torch.rand(len(errors), generator=generator) - 1)
    return errors * scale.view(-1, *[1] * (errors.dim() - 1)).to(errors)


def timestep_weight(sigma: Tensor, shift: float = 5.0, num_train_timesteps: int = 1000) -> Tensor:
    """Loss weight by noise level, mean 1 over the training timesteps (upstream's scheduler, svi_wan training).

    exp(−2((τ − 500)/1000)²) less its smallest value: 0 at τ = 1000, 2.08 near 500. Returned in the shape of `sigma`.
    """
    levels = 1 - torch.arange(num_train_timesteps, dtype=torch.float64) / num_train_timesteps
    levels = shift * levels / (1 + (shift - 1) * levels)
    bell = _bell(levels)
    return ((_bell(sigma.double()) - bell.min()).clamp(min=0) / (bell - bell.min()).mean()).to(sigma.dtype)


def _bell(sigma: Tensor) -> Tensor:
    return torch.exp(-2 * (sigma - 0.5).square())
