"""Numbers about pictures. Each metric is a function of frames; pixels are float in [−1, 1]."""

import torch
from torch import Tensor


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each item of a batch (B, …) in [−1, 1], after clamping: (B,), at most 100."""
    error = (pictures.clamp(-1, 1) - truth.clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=4e-10))


def affine_fit(inputs: Tensor, targets: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Weights (D, E) and bias (E,) of the least-squares map from rows `inputs` (N, D) to rows `targets` (N, E)."""
    inputs, targets = inputs.double(), targets.double()
    input_mean, target_mean = inputs.mean(0), targets.mean(0)
    centred = inputs - input_mean
    gram = centred.T @ centred
    damping = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + damping, centred.T @ (targets - target_mean))
    return weights, target_mean - input_mean @ weights
