"""The denoise loop: Euler steps along a rectified flow, one `Step` at a time. Closing the generator stops it.

Knows nothing about guidance, conditions or videos; `flow.py` has the formulas.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from engine.diffusion import flow
from engine.models.components import Prediction


@dataclass(frozen=True)
class Step:
    """Step `index` (from 1) is done. `latents`: where the path stands; `clean`: where it leads from here."""

    index: int
    latents: Tensor
    clean: Tensor


def draw_noise(shape: tuple[int, ...], seed: int, device: torch.device) -> Tensor:
    """Standard normal float32 numbers from a CPU generator: the same on every device."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)


def sample(
    predict: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    sigmas: Sequence[float],
    *,
    prediction: Prediction = "velocity",
) -> Iterator[Step]:
    """Follow the flow from `noise` at sigmas[0] = 1 to latents at sigmas[-1] = 0, yielding every step.

    predict(latents, sigma) returns noise − latents ("velocity") or the clean latents ("sample"). Sigma is never rounded
    to an integer timestep. Latents stay in float32 whatever the model computes in.
    """
    latents = noise
    for index, (sigma, next_sigma) in enumerate(pairwise(sigmas), start=1):
        predicted = predict(latents, sigma).float()
        if prediction == "sample":
            predicted = flow.velocity_from_latents(latents, predicted, sigma)
        clean = flow.to_latents(latents, predicted, sigma)
        latents = flow.euler_step(latents, predicted, sigma, next_sigma)
        yield Step(index, latents, clean)
