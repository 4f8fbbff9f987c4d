"""What the drift benchmark found: figures with intervals and the verdicts, from the lines in its folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.config import Preset
from engine.errors import disk_errors_explained
from engine.evaluation import bootstrap
from engine.evaluation.arms import COMPOSED, EXACT, FOOLING, Arm, Settings, describe, find_arms
from engine.evaluation.bootstrap import Resampling, judge
from engine.evaluation.chains import Chain
from engine.evaluation.curves import PANELS, STYLES, Curve, draw_curves, write_sheet
from engine.evaluation.drift import METRICS, batches
from engine.evaluation.drift_tables import table
from engine.evaluation.journal import Journal

SMOOTHED = 9  # clips a point of the drawn curves averages: one round of moves


@dataclass(frozen=True)
class Measured:
    """Everything that was measured of one arm. values: metric -> (films, clips)."""

    arm: Arm
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Windows:
    """The clips that are compared: the first and the last fifth of a film."""

    first: slice
    last: slice
    every = slice(None)

    @classmethod
    def of(cls, num_clips: int) -> "Windows":
        fifth = max(1, num_clips // 5)
        return cls(slice(0, fifth), slice(num_clips - fifth, num_clips))

    def names(self, num_clips: int) -> dict[str, str]:
        return {"first": f"1–{self.first.stop}", "last": f"{self.last.start + 1}–{num_clips}"}


def report(preset: Preset, settings: Settings, folder: Path) -> dict:
    """The figures of what is in `folder` as plain values; writes table.md, curves.png, curves.json and sheet.png."""
    arms, missing = find_arms(preset, settings)
    chains = [chain for group in batches(settings) for chain in group]
    description = describe(preset, settings)
    with Journal.open(folder, description) as journal:
        measured = [Measured(arm, {m: journal.values(arm, chains, m) for m in METRICS}) for arm in arms]
    resampling = Resampling([chain.name for chain in chains])
    windows = Windows.of(settings.num_clips)
    figures = {
        "setting": description | counts(settings, chains) | {"windows": windows.names(settings.num_clips)},
        "arms": {each.arm.name: of_arm(each, resampling, windows) for each in measured},
        "verdicts": verdicts(measured, resampling, windows),
        "left_out": missing,
    }
    write_curves(measured, resampling, settings, folder)
    names = [each.arm.name for each in measured if each.arm.role in ("composed", "base", "control", "erft")]
    write_sheet(folder / "stills", names, settings.num_clips, folder / "sheet.png")
    with disk_errors_explained("the table"):
        (folder / "table.md").write_text(table(figures) + "\n", encoding="utf-8")
    return figures


def counts(settings: Settings, chains: Sequence[Chain]) -> dict:
    return {
        "chains": settings.num_chains,
        "seeds": settings.num_seeds,
        "pictures": len({chain.name for chain in chains}),
        "resamples": bootstrap.NUM_DRAWS,
    }


def of_arm(measured: Measured, resampling: Resampling, windows: Windows) -> dict:
    """Plain values: how the arm is made, and each metric in the first fifth, the last fifth, their change, and all."""
    arm = measured.arm
    by_metric = {}
    for metric, values in measured.values.items():
        parts = {name: resampling.mean(values[:, getattr(windows, name)]) for name in ("first", "last", "every")}
        parts["change"] = parts["last"] - parts["first"]
        by_metric[metric] = {name: part.as_dict() for name, part in parts.items()}
    return {
        "role": arm.role,
        "variant": arm.variant.name,
        "label": arm.label,
        "handover": None if arm.role in FOOLING else "states" if arm.is_composed else "frames",
        "lora": arm.lora.name if arm.lora else None,
        "strength": arm.strength if arm.lora else None,
        "metrics": by_metric,
    }


def verdicts(measured: Sequence[Measured], resampling: Resampling, windows: Windows) -> dict:
    """Every arm of a variant that has a control, judged against it: by what it loses, and by what it loses beyond the
    perfect model, whose loss no training can take away from a model that knows only the last frames."""
    summaries = {each.arm.name: summary(each, resampling, windows) for each in measured}
    judged = {}
    for each in measured:
        arm, variant = summaries[each.arm.name], each.arm.variant.name
        control, perfect = summaries.get(f"{variant} control"), summaries.get(f"{variant} perfect")
        if control is None or each.arm.role in ("exact", "control"):
            continue
        judged[each.arm.name] = judge(arm, control).as_dict()
        if perfect and each.arm.role not in (*EXACT, *COMPOSED):
            beyond = judge(arm.beyond(perfect), control.beyond(perfect))
            judged[each.arm.name]["beyond_perfect"] = beyond.as_dict()
    return judged


def summary(measured: Measured, resampling: Resampling, windows: Windows) -> bootstrap.Arm:
    psnr = measured.values["psnr"]
    last = resampling.mean(psnr[:, windows.last])
    degree = resampling.mean(measured.values["dynamic_degree"])
    return bootstrap.Arm(resampling.mean(psnr[:, windows.first]) - last, last, degree)


# ---- curves


def write_curves(measured: Sequence[Measured], resampling: Resampling, settings: Settings, folder: Path) -> None:
    """curves.json: every arm, clip by clip. curves.png: the main arms, smoothed."""
    data = {"clips": settings.num_clips, "metrics": PANELS, "arms": {}}
    for each in measured:
        lines = {metric: lines_of(curve_of(each, metric, resampling, 1)) for metric in PANELS}
        data["arms"][each.arm.name] = {"variant": each.arm.variant.name, "role": each.arm.role} | lines
    with disk_errors_explained("the curves"):
        (folder / "curves.json").write_text(json.dumps(data, ensure_ascii=False) + "\n", encoding="utf-8")
    around = SMOOTHED if settings.num_clips >= 2 * SMOOTHED else 1
    drawn = [each for each in measured if each.arm.role in STYLES]
    panels: dict[str, dict[str, list[Curve]]] = {
        variant: {
            metric: [curve_of(each, metric, resampling, around) for each in drawn if each.arm.variant.name == variant]
            for metric in PANELS
        }
        for variant in settings.variants
    }
    draw_curves(panels, around, folder / "curves.png")


def curve_of(measured: Measured, metric: str, resampling: Resampling, around: int) -> Curve:
    """A mean for each clip over the `around` clips about it, fewer at the ends."""
    values = measured.values[metric]
    reach = around // 2
    points = [resampling.mean(values[:, max(0, k - reach) : k + reach + 1]) for k in range(values.shape[1])]
    parts = [np.array([getattr(point, name) for point in points]) for name in ("value", "low", "high")]
    return Curve(measured.arm.role, measured.arm.label, *parts)


def lines_of(curve: Curve) -> dict[str, list[float | None]]:
    return {part: [bootstrap.rounded(value) for value in getattr(curve, part)] for part in ("mean", "low", "high")}
