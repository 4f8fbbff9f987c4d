"""How far a clip has drifted from the anchor: seven figures from the frames in memory, cheap enough for every clip.

Prompts change light and colour on purpose, so only `colour_shift` and `change` see them. The others compare what light
leaves alone: where edges lie and which way they run, how fine detail stands to coarser detail, what stirs in places
that should be smooth. Frames are uint8 RGB (F, H, W, 3). Knows nothing of models, projects or the page.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from engine.domain import DriftReading

log = logging.getLogger(__name__)
LONGEST_SIDE = 96  # pixels, for structure: below the scale of grain and of a model's patches
NEIGHBOURHOOD = 9.0  # σ in those pixels, within which gradients are brought to one strength
CELLS = (12, 8)  # colours are compared in so many places
GRID = 8  # pixels: the stride of the codecs, and where their seams lie
GRID_WEIGHT = 4.0  # a regular pattern is seen before noise of the same energy
PAIRS, GAP_S = 4, 0.5  # motion is read off so many pairs of frames, half a second apart
LEAST_CONTRAST = 4.0  # of 255: in a flatter picture grain does not count for more
OWN_GRAIN = 1.5  # light alone raises what a picture has of its own by up to half (60 pictures, 8 lights, one outlier)
FAINT = 0.02  # mean energy of `edges`; photographs have 0.5 to 0.9
EVEN, FLOOR = 0.1, 1.0  # gradients below this share of the picture's, or these levels a pixel, stay weak

Level = Literal["steady", "drifting", "drifted"]
Cause = Literal["structure", "sharpness", "grain"]
Movement = Literal["none", "light", "things"]

# Where a figure begins to speak of drift, and of much of it. Measured at 288×192 beside the anchor, on 12 pictures:
# structure: a lamp in a dark scene 0.68 to 0.91; a quarter of the picture exchanged 0.56 to 0.82, half of it 0.37 to
#   0.63, bent by 8 pixels 0.36 to 0.62, another picture at most 0.16.
# sharpness: a clip of the pocket model 0.81 or more; blurred by σ = 0.7 pixels 0.51 to 0.67, by σ = 1 0.36 to 0.53.
# grain: noise of σ = 4 of 255 0.05 to 0.13, of σ = 8 0.09 to 0.26; in chains of the pocket model the 8-pixel grid is
#   just seen at 0.05, clear at 0.06 and all over the sky at 0.09.
# Eight true light moves on these and 48 drawn scenes: structure 0.91, sharpness 0.79, grain 0.03 at worst, no hint.
LIMITS: dict[Cause, tuple[float, float]] = {"structure": (0.65, 0.45), "sharpness": (0.65, 0.45), "grain": (0.06, 0.10)}
LEAST_MOTION = 0.02  # light 0.005, a pocket chain 0.017; a zoom of 2 % a second 0.02 to 0.05, a pan of 1 % 0.03 to 0.14
LEAST_CHANGE = 2.3  # a just visible difference (Mahy et al. 1994)
# Ripples and leaves stir a part of the picture. The five of 96 `CELLS` that move most have 0.006 on rippling water,
# 0.04 in swaying trees, 0 in a standing picture, up to 0.003 of grain of σ = 1. Light has up to 0.06, so this counts
# only where no pair of frames differs in colour by STEADY_LIGHT: rippling water 0.1, a tilt in brightness of 6 % 1.4.
MOST_CELLS, LEAST_STIRRING, STEADY_LIGHT = 5, 0.004, 1.0


@dataclass(frozen=True)
class Judgement:
    """`causes`: what is at fault at this level; none when steady."""

    level: Level
    causes: tuple[Cause, ...]
    movement: Movement


def measure(
    frames: np.ndarray, anchor: np.ndarray, *, overlap: int, fps: int, moved: np.ndarray | None = None
) -> DriftReading | None:
    """`read`, or None and a warning when that fails: a meter must not cost a clip."""
    try:
        return read(frames, anchor, overlap=overlap, fps=fps, moved=moved)
    except (cv2.error, ValueError, ArithmeticError, MemoryError) as err:
        log.warning("a clip's drift could not be measured: %s", err)
        return None


def read(
    frames: np.ndarray, anchor: np.ndarray, *, overlap: int, fps: int, moved: np.ndarray | None = None
) -> DriftReading:
    """Compare the last of `frames` with `anchor` (H, W, 3), and the frames after `overlap` with each other.

    moved: the picture as the last frame's camera should show it, where that is known: a pan is no lost background.
    """
    expected = anchor if moved is None else moved
    last, before = luma(frames[-1]), luma(expected)
    added = frames[max(overlap - 1, 0) :]
    places = places_of_pairs(len(added), fps)
    fields = {at: edges(luma(added[at])) for pair in places for at in pair}
    pairs = [(fields[at], fields[later]) for at, later in places]
    steady = all(colour_distance(added[at], added[later]) < STEADY_LIGHT for at, later in places)
    figures = {
        "colour_shift": colour_distance(frames[-1], expected),
        "sharpness": detail(last) / detail(before),
        "structure": similarity(edges(last), edges(before)),
        "grain": max(fine_noise(last) - OWN_GRAIN * fine_noise(before), 0.0) ** 0.5,
        "motion": motion(pairs),
        "change": colour_distance(added[-1], added[0]),
        "stirring": stirring(pairs) if steady else 0.0,
    }
    return DriftReading(**{name: round(float(value), 4) for name, value in figures.items()})


def judge(reading: DriftReading) -> Judgement:
    """What the figures say. Colour is not judged: prompts change it on purpose. Nor is a legitimate change of view told
    from a lost background, unless the clip was read beside the picture as its camera shows it.
    """
    passed = {cause: passed_limits(cause, getattr(reading, cause)) for cause in LIMITS}
    worst = max(passed.values())
    level: Level = ("steady", "drifting", "drifted")[worst]
    lit = reading.change >= LEAST_CHANGE
    things = reading.motion >= LEAST_MOTION or reading.stirring >= LEAST_STIRRING
    movement: Movement = "things" if things else "light" if lit else "none"
    return Judgement(level, tuple(cause for cause, count in passed.items() if worst and count == worst), movement)


def passed_limits(cause: Cause, figure: float) -> int:
    """How many of the two limits `figure` has passed; grain is bad when high, the others when low."""
    return sum(figure > limit if cause == "grain" else figure < limit for limit in LIMITS[cause])


def luma(picture: np.ndarray) -> np.ndarray:
    """float32 (H, W), 0 to 255."""
    return cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY).astype(np.float32)


def edges(plane: np.ndarray) -> np.ndarray:
    """Where edges lie and which way they run, whatever their strength and which side is the brighter one.

    Complex (h, w): the gradient at `LONGEST_SIDE` over its root mean square nearby, with its angle doubled.
    """
    scale = LONGEST_SIDE / max(plane.shape)
    size = tuple(max(2, round(side * scale)) for side in plane.shape[::-1])
    small = cv2.GaussianBlur(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), (0, 0), 0.8)
    gradient = (cv2.Sobel(small, cv2.CV_32F, 1, 0) + 1j * cv2.Sobel(small, cv2.CV_32F, 0, 1)) / 8
    energy = (gradient.real**2 + gradient.imag**2).astype(np.float32)
    nearby = cv2.GaussianBlur(energy, (0, 0), NEIGHBOURHOOD)
    even = gradient / np.sqrt(nearby + EVEN**2 * energy.mean() + FLOOR**2)
    return even**2 / (np.abs(even) + 1e-6)


def similarity(edges: np.ndarray, others: np.ndarray) -> float:
    """Correlation of two fields of `edges`: 1 the same, about 0 for different pictures.

    Fields weaker than `FAINT` a pixel count as equal: two flat pictures do not differ in their noise.
    """
    faint = FAINT * edges.size
    energies = [float(np.vdot(field, field).real) + faint for field in (edges, others)]
    return (float(np.vdot(edges, others).real) + faint) / float(np.sqrt(np.prod(energies)))


def places_of_pairs(num_frames: int, fps: int) -> list[tuple[int, int]]:
    """Up to `PAIRS` pairs of frames, `GAP_S` apart."""
    gap = min(max(1, round(GAP_S * fps)), num_frames - 1)
    if gap < 1:
        return []
    starts = np.linspace(0, num_frames - 1 - gap, PAIRS).round().astype(int)
    return [(at, at + gap) for at in starts.tolist()]


def motion(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Share of the structure that is elsewhere half a second later, averaged over the clip; light does not count."""
    return max(0.0, 1 - float(np.mean([similarity(*pair) for pair in pairs]))) if pairs else 0.0


def stirring(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The same of the `MOST_CELLS` of `CELLS` that move most."""
    if not pairs:
        return 0.0
    moved = np.mean([[1 - similarity(*cell) for cell in zip(*map(cells, pair), strict=True)] for pair in pairs], axis=0)
    return max(0.0, float(np.sort(moved)[-MOST_CELLS:].mean()))


def cells(field: np.ndarray) -> list[np.ndarray]:
    """The parts of a field that fall into `CELLS`, row by row."""
    columns, rows = CELLS
    return [part for band in np.array_split(field, rows) for part in np.array_split(band, columns, axis=1)]


def colour_distance(picture: np.ndarray, other: np.ndarray) -> float:
    """Mean distance in CIELAB (ΔE 1976; 2.3 is just visible) of the colours of `CELLS`."""
    cells = (cv2.resize(frame, CELLS, interpolation=cv2.INTER_AREA) for frame in (picture, other))
    first, second = (cv2.cvtColor(colours.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for colours in cells)
    return float(np.linalg.norm(first - second, axis=-1).mean())


def detail(plane: np.ndarray) -> float:
    """Strength of the finest edges over that of coarser ones: the same in any light, less in a blurred picture.

    95th percentiles, so that grain between the edges does not pass for sharpness.
    """
    near, far = cv2.GaussianBlur(plane, (0, 0), 1.0), cv2.GaussianBlur(plane, (0, 0), 3.0)
    fine, coarse = (float(np.percentile(np.abs(band), 95)) for band in (plane - near, near - far))
    return max(fine / max(coarse, 0.1), 0.05)


def fine_noise(plane: np.ndarray) -> float:
    """Fine energy in the smoothest quarter of the blocks over the picture's contrast, both squared.

    What repeats every `GRID` pixels counts `GRID_WEIGHT` times on top; the rounding to 8 bits does not count.
    """
    energy = blocks((plane - cv2.GaussianBlur(plane, (0, 0), 1.5)) ** 2).mean((2, 3)).ravel()
    smooth = np.sort(energy)[: max(1, len(energy) // 4)].mean() - 1 / 12
    contrast = max(float(blocks(plane).mean((2, 3)).std()), LEAST_CONTRAST)
    return max(float(smooth), 0.0) / contrast**2 * (1 + GRID_WEIGHT * grid_share(plane))


def grid_share(plane: np.ndarray) -> float:
    """Share of the fine energy that is one pattern repeated every `GRID` pixels: about 0.001 in photographs."""
    fine = plane - cv2.GaussianBlur(plane, (0, 0), 3.0)
    fine /= np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), 4.0) + 1.0)
    tiles = blocks(fine)
    return float((tiles.mean((0, 1)) ** 2).mean() / max(float((tiles**2).mean()), 1e-6))


def blocks(plane: np.ndarray) -> np.ndarray:
    """(rows, columns, 8, 8) of a plane (H, W) with sides of at least 8; what does not fill a block is left out."""
    rows, columns = (side // GRID for side in plane.shape)
    return plane[: rows * GRID, : columns * GRID].reshape(rows, GRID, columns, GRID).swapaxes(1, 2)
