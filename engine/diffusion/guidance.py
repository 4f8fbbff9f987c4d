"""Classifier-free guidance for any number of terms. Knows nothing about what the terms are.

Drop the terms one after another: v_0 sees them all, v_i lacks the first i, v_n lacks every one. Then

    v = v_n + Σ s_i (v_{i−1} − v_i),  i = 1 … n

One term is classic guidance, v_u + s (v_c − v_u). n terms cost n + 1 passes.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from torch import Tensor


def weights(scales: Sequence[float]) -> list[float]:
    """The factor of each v_i in the formula: s_{i+1} − s_i, with s_0 = 0 and s_{n+1} = 1. They add up to 1."""
    steps = [0.0, *scales, 1.0]
    return [after - before for before, after in pairwise(steps)]


def passes(scales: Sequence[float]) -> list[int]:
    """The branches i whose v_i the formula needs: scale 1 cancels the pass without its term."""
    return [i for i, weight in enumerate(weights(scales)) if weight != 0.0]


def guide(predictions: Iterable[Tensor], scales: Sequence[float]) -> Tensor:
    """The guided prediction. predictions: v_i of each of `passes(scales)`, in that order; a generator is drawn from one
    at a time, so memory stays that of one pass."""
    factors = weights(scales)
    guided: Tensor | None = None
    for branch, predicted in zip(passes(scales), predictions, strict=True):
        term = factors[branch] * predicted
        guided = term if guided is None else guided + term
    return guided
