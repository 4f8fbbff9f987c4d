"""Figures and verdicts from numbers that are known."""

import random

import numpy as np
import pytest

from engine.evaluation import drift_report
from engine.evaluation.arms import Arm
from engine.evaluation.bootstrap import Resampling
from engine.evaluation.chains import SOLO, balanced_moves
from engine.evaluation.drift import METRICS
from engine.evaluation.drift_report import Measured, Windows
from engine.evaluation.drift_tables import table
from engine.variants import SHOT

NUM_CLIPS, NUM_CHAINS = 50, 12
PICTURES = [f"picture {index}" for index in range(NUM_CHAINS)]


def films(*, start: float, loss: float, degree: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Films whose PSNR falls in a straight line by `loss` dB between the middles of the first and the last fifth."""
    rng = np.random.default_rng(seed)
    fall = loss * np.arange(NUM_CLIPS) / (NUM_CLIPS - 10)
    hardness = np.random.default_rng(99).normal(scale=2, size=(NUM_CHAINS, 1))  # the same for every arm
    values = {name: rng.normal(size=(NUM_CHAINS, NUM_CLIPS)) for name in METRICS}
    values["psnr"] = start + hardness - fall + 0.3 * rng.normal(size=(NUM_CHAINS, NUM_CLIPS))
    values["dynamic_degree"] = degree + 0.01 * rng.normal(size=(NUM_CHAINS, NUM_CLIPS))
    return values


def reported(erft: dict[str, np.ndarray]) -> dict:
    """The figures of a control that loses 10 dB, of a perfect model that loses 2, and of `erft`."""
    values = {
        "perfect": films(start=35, loss=2, degree=1.0, seed=3),
        "control": films(start=33, loss=10, degree=1.0, seed=1),
        "erft": erft,
    }
    arms = {role: Arm(f"shot {role}", role, SHOT) for role in values}
    measured = [Measured(arms[role], values[role]) for role in arms]
    resampling, windows = Resampling(PICTURES), Windows.of(NUM_CLIPS)
    setting = {"clips": NUM_CLIPS, "size": "96×64", "frames": 25, "steps": 4, "windows": windows.names(NUM_CLIPS)}
    return {
        "setting": setting | {"chains": NUM_CHAINS, "seeds": 1, "pictures": NUM_CHAINS, "resamples": 4000},
        "arms": {each.arm.name: drift_report.of_arm(each, resampling, windows) for each in measured},
        "verdicts": drift_report.verdicts(measured, resampling, windows),
        "left_out": {},
    }


def test_a_loss_is_the_first_fifth_less_the_last():
    figures = reported(films(start=33, loss=0.5, degree=1.0, seed=2))
    change = figures["arms"]["shot control"]["metrics"]["psnr"]["change"]
    assert change["value"] == pytest.approx(-10, abs=0.15)
    assert change["low"] < change["value"] < change["high"]
    assert figures["setting"]["windows"] == {"first": "1–10", "last": "41–50"}


@pytest.mark.parametrize(
    ("erft", "outcome"),
    [
        (films(start=33, loss=0.5, degree=1.0, seed=2), "met"),
        (films(start=33, loss=4, degree=1.0, seed=2), "not met"),
        (films(start=33, loss=1.0, degree=1.0, seed=2), "undecided"),
        (films(start=33, loss=0.5, degree=0.7, seed=2), "not met"),
        (films(start=12, loss=0.0, degree=0.0, seed=2), "not met"),
    ],
    ids=["proven", "refuted", "on the bar", "too still", "a standing picture"],
)
def test_the_verdict_line_says_what_the_figures_say(erft, outcome):
    figures = reported(erft)
    assert figures["verdicts"]["shot erft"]["outcome"] == outcome
    assert f"its dynamic degree is not below: {outcome}.**" in table(figures)


def test_what_a_perfect_model_loses_as_well_is_judged_apart():
    figures = reported(films(start=33, loss=2.4, degree=1.0, seed=2))
    verdict = figures["verdicts"]["shot erft"]
    assert verdict["outcome"] == "not met" and verdict["ratio"]["value"] == pytest.approx(0.24, abs=0.03)
    assert verdict["beyond_perfect"]["outcome"] == "met"
    assert verdict["beyond_perfect"]["ratio"]["value"] == pytest.approx(0.05, abs=0.03)
    assert "beyond_perfect" not in figures["verdicts"]["shot perfect"]
    assert "Beyond what a perfect model loses: met." in table(figures)


def test_without_a_control_nothing_is_judged():
    figures = reported(films(start=33, loss=0.5, degree=1.0))
    del figures["arms"]["shot control"]
    figures["verdicts"] = {}
    figures["left_out"] = {"shot control": "there is no shot-control.safetensors"}
    text = table(figures)
    assert "not judged.** Without shot control there is nothing to compare" in text
    assert "Left out: shot control (there is no shot-control.safetensors)." in text


def test_ablations_stand_beside_the_papers_figures():
    figures = reported(films(start=33, loss=0.5, degree=1.0, seed=2))
    assert "Table 4" not in table(figures) and "Table 8" not in table(figures)
    arm = figures["arms"]["shot erft"]
    for label in ("no-image", "bank-10", "bank-3"):
        figures["arms"][f"shot {label}"] = arm | {"label": label, "role": "ablation"}
    text = table(figures)
    rows = {line.split(" |")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert "73.82" in rows["– ✓ ✓"] and "not run" not in rows["– ✓ ✓"]
    assert "94.22" in rows["✓ – ✓"] and "not run" in rows["✓ – ✓"]
    assert "67.41" in rows["10"] and "not run" not in rows["10"]
    assert rows["3"].endswith("| – | – | – | – |")


def test_short_films_are_compared_by_their_first_and_last_clip():
    assert Windows.of(3) == Windows(slice(0, 1), slice(2, 3))
    assert len(balanced_moves(3, random.Random(0))) == 3 < len(SOLO)
