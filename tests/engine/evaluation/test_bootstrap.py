import numpy as np
import pytest

from engine.evaluation import bootstrap
from engine.evaluation.bootstrap import Estimate, Resampling, judge

PICTURES = [f"picture {index}" for index in range(20)]


def estimate(value: float, spread: float = 0.1, seed: int = 0) -> Estimate:
    """A value whose draws scatter around it."""
    return Estimate(value, value + spread * np.random.default_rng(seed).normal(size=2000))


def arm(loss: float, *, last: float = 30.0, degree: float = 1.0, spread: float = 0.1) -> bootstrap.Arm:
    return bootstrap.Arm(
        estimate(loss, spread), estimate(last, spread, 1), estimate(degree, 0.002, seed=round(1000 * degree))
    )


CONTROL = arm(10.0, last=22.0)


@pytest.mark.parametrize("num_units", [8, 20])
def test_intervals_hold_the_truth_about_as_often_as_they_say(num_units):
    rng = np.random.default_rng(0)
    resampling = Resampling(PICTURES[:num_units])
    held = 0
    for _ in range(1000):
        mean = resampling.mean(rng.normal(3.0, 1.0, size=(num_units, 2)))
        held += mean.low <= 3.0 <= mean.high
    assert 0.92 <= held / 1000 <= 0.98  # three standard errors are 0.02, and the draws have their own


def test_chains_from_one_photograph_are_drawn_together():
    values = np.repeat(np.random.default_rng(0).normal(size=(5, 1)), 4, axis=0)
    names = [f"photo {index // 4}" for index in range(20)]
    together, apart = (Resampling(pictures).mean(values) for pictures in (names, PICTURES))
    assert together.value == pytest.approx(apart.value)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_arms_are_paired():
    chains = np.random.default_rng(0).normal(scale=5, size=(20, 1))
    resampling = Resampling(PICTURES)
    difference = resampling.mean(chains + 0.5) - resampling.mean(chains)
    assert difference.low == pytest.approx(0.5) and difference.high == pytest.approx(0.5)


def test_numbers_that_a_clip_cannot_have_are_left_out():
    values = np.array([[1.0, np.nan], [3.0, 5.0]])
    assert Resampling(["a", "b"]).mean(values).value == 3.0
    assert np.isnan(Resampling(["a", "b"]).mean(np.full((2, 2), np.nan)).value)


def test_the_same_seed_gives_the_same_intervals():
    values = np.random.default_rng(0).normal(size=(20, 3))
    assert Resampling(PICTURES).mean(values).as_dict() == Resampling(PICTURES).mean(values).as_dict()


@pytest.mark.parametrize(
    ("judged", "outcome", "reason"),
    [
        (arm(0.5), "met", None),
        (arm(-0.2), "met", None),
        (arm(2.0), "not met", "at most a tenth"),
        (arm(1.0), "undecided", "at most a tenth"),
        (arm(0.5, degree=0.9), "not met", "dynamic degree"),
        (arm(0.0, last=12.0, degree=0.0), "not met", "dynamic degree"),
        (arm(0.5, last=15.0), "not met", "ends better"),
        (arm(0.5, degree=0.982), "undecided", "dynamic degree"),
        (arm(10.0, last=22.0), "not met", "at most a tenth"),
    ],
    ids=[
        "a tenth",
        "a gain",
        "a fifth",
        "on the bar",
        "slow",
        "static",
        "bad from the start",
        "hardly slower",
        "the control itself",
    ],
)
def test_the_bar_is_met_refuted_or_left_open(judged, outcome, reason):
    verdict = judge(judged, CONTROL)
    assert verdict.outcome == outcome
    assert reason is None or any(reason in told for told in verdict.reasons), verdict.reasons


def test_nothing_is_proven_against_a_control_that_does_not_drift():
    verdict = judge(arm(0.0), arm(0.1, spread=1.0))
    assert verdict.outcome == "undecided"
    assert verdict.ratio is None
    assert "the control drifts: undecided" in verdict.reasons


def test_overshooting_is_no_dynamic_degree_to_keep_up_with():
    assert judge(arm(0.5, degree=1.0), arm(10.0, last=22.0, degree=1.3)).outcome == "met"


def test_the_ratio_of_losses_has_an_interval():
    ratio = judge(arm(0.5, spread=0.2), CONTROL).ratio
    assert ratio.value == pytest.approx(0.05)
    assert ratio.low < 0.05 < ratio.high < 0.1
