"""Rectified flow: how latents, noise and velocity are tied together. Knows nothing of models or videos.

The path is x_σ = (1 − σ)·latents + σ·noise, with σ = 1 pure noise and σ = 0 data, and velocity = noise − latents
(diffusers' sign; the paper's V is −velocity, its t is 1 − σ). Every `sigma` broadcasts: a number or (B, 1, 1, 1, 1).
"""

import torch
from torch import Tensor


def add_noise(latents: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """The point of the path at noise level `sigma`."""
    return (1 - sigma) * latents + sigma * noise


def to_velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """The derivative of `add_noise` with respect to sigma; it is the same along the whole path."""
    return noise - latents


def to_latents(noisy_latents: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """Integrate in one step from `sigma` to clean latents (paper §4.2). Undoes `add_noise` with the true velocity."""
    return noisy_latents - sigma * velocity


def to_noise(noisy_latents: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """Integrate in one step from `sigma` to pure noise (paper §4.2). Undoes `add_noise` with the true velocity."""
    return noisy_latents + (1 - sigma) * velocity


def velocity_from_latents(noisy_latents: Tensor, latents: Tensor, sigma: Tensor | float) -> Tensor:
    """The velocity that leads from `noisy_latents` to a prediction of the clean latents. Needs sigma > 0."""
    return (noisy_latents - latents) / sigma


def euler_step(noisy_latents: Tensor, velocity: Tensor, sigma: Tensor | float, next_sigma: Tensor | float) -> Tensor:
    """Follow the velocity from `sigma` to `next_sigma`; exact for any step when the velocity is the true one."""
    return noisy_latents + (next_sigma - sigma) * velocity


def shift_sigma(sigma: Tensor | float, shift: float) -> Tensor | float:
    """Move noise levels towards 1: σ' = sσ / (1 + (s − 1)σ) (Wan uses s = 5). Keeps 0 and 1, inverse at 1/s."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigma_schedule(num_inference_steps: int, shift: float) -> list[float]:
    """Noise levels of an Euler run, from 1 to 0: `num_inference_steps` + 1 falling values."""
    even = torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64)
    return shift_sigma(even, shift).tolist()
