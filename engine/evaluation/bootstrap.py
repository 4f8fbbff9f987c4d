"""Means of chains with their uncertainty, and whether error recycling kept its promise.

The unit that is drawn again is the picture: all chains that start from one photograph, with all their seeds, go
together, and every arm gets the same draw, so that differences between arms are paired. Intervals of 95 % from
percentiles, expanded for few units (Hesterberg 2015: plain ones are too narrow for a dozen). They speak about other
pictures and prompts, not about another training run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, stdtrit

LEVEL = 0.95
NUM_DRAWS = 4000
ALLOWED_SHARE = 0.1  # of the control's loss; the paper: 0.63 points against 7.03 (Table 1, consistent, 50 s to 250 s)
MARGIN = 0.02  # of the true change: a smaller difference in dynamic degree is none
Outcome = Literal["met", "not met", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """A number from the chains as they are (`value`), the same number from every draw, and the share of draws that the
    interval leaves out on each side."""

    value: float
    draws: np.ndarray
    tail: float = (1 - LEVEL) / 2

    @property
    def low(self) -> float:
        return quantile(self.draws, self.tail)

    @property
    def high(self) -> float:
        return quantile(self.draws, 1 - self.tail)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.draws - other.draws, self.tail)

    def __rmul__(self, factor: float) -> "Estimate":
        return Estimate(factor * self.value, factor * self.draws, self.tail)

    def at_most(self, bound: float) -> "Estimate":
        return Estimate(min(self.value, bound), np.minimum(self.draws, bound), self.tail)

    def over(self, other: "Estimate") -> "Estimate | None":
        """The ratio, or None when the denominator's interval holds zero: then it may be anything."""
        if not other.low > 0:
            return None
        draws = self.draws / np.where(other.draws > 0, other.draws, np.nan)
        return Estimate(self.value / other.value, draws, self.tail)

    def as_dict(self) -> dict[str, float | None]:
        """Plain values; None where there is none."""
        return {name: rounded(getattr(self, name)) for name in ("value", "low", "high")}


class Resampling:
    """Draws of pictures, made once and used for every arm. `pictures`: the unit of each row of values."""

    def __init__(self, pictures: Sequence[str], seed: int = 0, num_draws: int = NUM_DRAWS) -> None:
        names = sorted(set(pictures))
        self.unit_of_row = np.array([names.index(picture) for picture in pictures])
        self.num_units = len(names)
        self.tail = expanded_tail(len(names))
        shares = np.full(self.num_units, 1 / self.num_units)
        self.counts = np.random.default_rng(seed).multinomial(self.num_units, shares, size=num_draws)

    def mean(self, values: np.ndarray) -> Estimate:
        """The mean of `values` (rows, …), NaN left out; NaN when nothing is left."""
        rows = values.reshape(len(values), -1)
        present = ~np.isnan(rows)
        sums = np.bincount(self.unit_of_row, np.where(present, rows, 0.0).sum(1), self.num_units)
        sizes = np.bincount(self.unit_of_row, present.sum(1), self.num_units)
        with np.errstate(invalid="ignore", divide="ignore"):
            return Estimate(float(sums.sum() / sizes.sum()), self.counts @ sums / (self.counts @ sizes), self.tail)


@dataclass(frozen=True)
class Arm:
    """What the verdict reads of an arm: PSNR lost from the first to the last fifth, PSNR of the last fifth (dB), and
    the share of the asked changes that was performed."""

    loss: Estimate
    last: Estimate
    dynamic_degree: Estimate

    def beyond(self, floor: "Arm") -> "Arm":
        """The same arm with only what it loses more than `floor`."""
        return Arm(self.loss - floor.loss, self.last, self.dynamic_degree)


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    reasons: tuple[str, ...]
    ratio: Estimate | None  # of the losses; None when the control's may be zero

    def as_dict(self) -> dict:
        ratio = self.ratio.as_dict() if self.ratio else None
        return {"outcome": self.outcome, "reasons": list(self.reasons), "ratio": ratio}


def judge(arm: Arm, control: Arm) -> Verdict:
    """Whether `arm` lost at most a tenth of what the control lost, without standing still and without being worse.

    The bar on losses is judged on loss − 0.1 · control's loss, which needs no division. Dynamic degree beyond 1 is an
    overshoot, so the control's counts as 1 at most. One claim refuted refutes the whole; one open leaves it open.
    """
    excess = arm.loss - ALLOWED_SHARE * control.loss
    stillness = control.dynamic_degree.at_most(1.0) - arm.dynamic_degree
    claims = [
        ("the control drifts", outcome_of(-1.0 * control.loss, 0.0, refutes=False)),
        ("its loss is at most a tenth of the control's", outcome_of(excess, 0.0)),
        ("its dynamic degree is not below the control's", outcome_of(stillness, MARGIN)),
        ("it ends better than the control", outcome_of(control.last - arm.last, 0.0)),
    ]
    outcomes = [outcome for _, outcome in claims]
    outcome: Outcome = "not met" if "not met" in outcomes else "undecided" if "undecided" in outcomes else "met"
    reasons = tuple(f"{claim}: {told}" for claim, told in claims if told != "met")
    return Verdict(outcome, reasons, arm.loss.over(control.loss))


def outcome_of(excess: Estimate, bound: float, *, refutes: bool = True) -> Outcome:
    """Whether `excess` is at most `bound`: the interval lies below it, above it, or on both sides."""
    if excess.high <= bound:
        return "met"
    return "not met" if refutes and excess.low > bound else "undecided"


def expanded_tail(num_units: int) -> float:
    """The share to leave out on each side so that the mean of few normal units is covered as often as `LEVEL` says."""
    if num_units < 2:
        return 0.0
    t = stdtrit(num_units - 1, (1 + LEVEL) / 2)
    return float(ndtr(-np.sqrt(num_units / (num_units - 1)) * t))


def quantile(draws: np.ndarray, share: float) -> float:
    known = draws[~np.isnan(draws)]
    return float(np.quantile(known, share)) if len(known) else float("nan")


def rounded(value: float) -> float | None:
    """Five significant digits; None for NaN, which JSON does not have."""
    return None if np.isnan(value) else float(f"{value:.5g}")
