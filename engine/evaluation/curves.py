"""The pictures of the drift benchmark: curves with intervals, and a contact sheet of last frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from engine.errors import disk_errors_explained
from engine.evaluation.chains import Chain

SHOWN_CHAINS = (0, 1)  # a photograph and a scene, of the first seed
SHOWN_CLIPS = (1, 5, 10, 20, 30, 40, 50)
STYLES = {
    "composed": ("#a142f4", "-"),
    "perfect": ("#5f6368", (0, (5, 2))),
    "base": ("#0072b2", "-"),
    "control": ("#d55e00", "-"),
    "erft": ("#009e73", "-"),
}
PANELS = {
    "psnr": "PSNR of the last frame, dB",
    "colour_shift": "Colour shift of the last frame, of 255",
    "dynamic_degree": "Dynamic degree: share of the asked change",
}
MARGIN = 170  # pixels left of the contact sheet's pictures
HEAD = 26


@dataclass(frozen=True)
class Curve:
    """One arm in one panel: a mean a clip, and its interval. NaN where there is none."""

    role: str
    label: str
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def draw_curves(panels: dict[str, dict[str, list[Curve]]], around: int, path: Path) -> None:
    """Write a PNG: a column for each variant, a row for each metric of `PANELS`.

    panels: variant -> metric -> curves. around: how many clips a point averages.
    """
    figure = Figure(figsize=(1.2 + 5.6 * len(panels), 8.4), dpi=110, layout="constrained")
    axes = figure.subplots(len(PANELS), len(panels), squeeze=False, sharex=True, sharey="row")
    for column, (variant, by_metric) in enumerate(panels.items()):
        for row, (metric, title) in enumerate(PANELS.items()):
            draw_panel(axes[row, column], by_metric[metric])
            axes[row, column].set_title(f"{variant.capitalize()} · {title}", fontsize=10, loc="left")
        axes[-1, column].set_xlabel("clip" if around == 1 else f"clip (mean of {around} around it)")
    with disk_errors_explained("the curves"):
        figure.savefig(path)


def draw_panel(axes: Axes, curves: Sequence[Curve]) -> None:
    """Lines with shaded intervals, each named at its right end."""
    axes.grid(axis="y", color="#e8eaed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for curve in curves:
        colour, dashes = STYLES[curve.role]
        clips = np.arange(1, len(curve.mean) + 1)
        axes.fill_between(clips, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(clips, curve.mean, color=colour, linestyle=dashes, linewidth=1.8)
    axes.margins(x=0.01)
    ends = [(known[-1], curve) for curve in curves if len(known := curve.mean[~np.isnan(curve.mean)])]
    low, high = axes.get_ylim()
    places = spread([end for end, _ in ends], least=0.065 * (high - low), low=low)
    for (_, curve), place in zip(ends, places, strict=True):
        text = {"color": STYLES[curve.role][0], "fontsize": 9, "va": "center", "annotation_clip": False}
        axes.annotate(curve.label, (1.015, place), xycoords=("axes fraction", "data"), **text)


def spread(values: Sequence[float], *, least: float, low: float) -> list[float]:
    """The values moved apart until neighbours are `least` apart, none below `low`, in the order given."""
    order = np.argsort(values)
    places = np.array(values, float)
    for before, after in zip([None, *order[:-1]], order, strict=True):
        floor = low if before is None else places[before] + least
        places[after] = max(places[after], floor)
    shift = (places - np.array(values, float)).mean() / 2 if len(values) else 0.0
    return (places - shift).tolist()


# ---- the contact sheet


def shown(chain: Chain) -> bool:
    """Whether the contact sheet has a row of this film."""
    return chain.seed == 0 and chain.index in SHOWN_CHAINS


def save_strip(pictures: Sequence[np.ndarray], path: Path) -> None:
    """Write pictures, uint8 (H, W, 3), side by side."""
    with disk_errors_explained("the contact sheet"):
        Image.fromarray(np.concatenate(pictures, axis=1)).save(path)


def write_sheet(stills: Path, names: Sequence[str], num_clips: int, path: Path) -> None:
    """Stack the strips of `names` ("truth" first) for every chain that is shown, with their names."""
    rows = [(name, stills / f"{name} {chain}.png") for chain in SHOWN_CHAINS for name in ("truth", *names)]
    strips = [(name, Image.open(file)) for name, file in rows if file.is_file()]
    if not strips:
        return
    marks = [clip for clip in SHOWN_CLIPS if clip <= num_clips]
    width, height = strips[0][1].size
    sheet = Image.new("RGB", (MARGIN + width, HEAD + height * len(strips)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, clip in enumerate(marks):
        draw.text((MARGIN + place * width // len(marks) + 6, 4), f"clip {clip}", fill="black", font=font)
    for row, (name, strip) in enumerate(strips):
        top = HEAD + row * height
        with strip:
            sheet.paste(strip, (MARGIN, top))
        draw.text((8, top + height // 2 - 9), name, fill="black", font=font)
    with disk_errors_explained("the contact sheet"):
        sheet.save(path)
