"""Which parts of a picture can live: sky, water, foliage, lamps. Soft masks from classical cues; numpy and OpenCV.

A mask is rather empty than wrong: a region that fails one of its checks is left out as a whole. Edges follow the
picture by a guided filter (He, Sun and Tang, Guided Image Filtering, 2010), so that nothing leaks over a tower.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from engine.pocket.motion import LUMA

SIDE = 416  # longest side of the masks, in pixels
NAMES = ("sky", "water", "foliage", "lamps")
LEAST_AREA = {"sky": 0.04, "water": 0.055, "foliage": 0.03, "lamps": 0.0002}  # of the picture; less is none
RADIUS, EPSILON = 4, 4e-4  # of the guided filter, pixels of a mask and squared luma
STEEP = 0.033  # luma a pixel at which a sky ends: clouds are softer, walls and masts are not
EVEN = 0.02  # colour of a smooth sky may differ by so much from one pixel to the next
LEAST_PLANT = 0.006  # share of the picture of one tree or meadow
MIRROR = 0.6  # correlation of still water with what it mirrors
DROP = 0.06  # of luma from a hazy sky to what is below it
GLARE = 0.85  # the brightest channel of a lamp
DARK = 0.42  # mean luma of what is around a lamp


@dataclass(frozen=True)
class Regions:
    """masks: float32 (h, w) in [0, 1] for each of NAMES, all zero where there is none; the longest side is SIDE."""

    masks: dict[str, np.ndarray]

    def area(self, name: str) -> float:
        """Share of the picture."""
        return float(self.masks[name].mean())

    def present(self) -> tuple[str, ...]:
        """What the picture has, largest first."""
        names = (name for name in NAMES if self.area(name) >= LEAST_AREA[name])
        return tuple(sorted(names, key=self.area, reverse=True))


def find(picture: np.ndarray) -> Regions:
    """The regions of a picture uint8 (H, W, 3)."""
    scale = SIDE / max(picture.shape[:2])
    size = tuple(max(8, round(side * scale)) for side in picture.shape[1::-1])
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    pixels = small.astype(np.float32) / 255
    exposure = np.float32(np.clip(0.75 / max(np.percentile(pixels, 90), 0.3), 1, 2.5))  # a night, exposed for longer
    look = _Look.of((pixels * exposure).clip(0, 1))
    sky = _sky(look)
    foliage = _foliage(look) & ~sky
    water = _water(look, sky, foliage)
    sky = sky & ~water
    lamps = _lamps(_Look.of(pixels), sky)
    masks = {}
    for name, found in zip(NAMES, (sky, water, foliage, lamps), strict=True):
        mask = found.astype(np.float32)
        if name == "lamps":
            mask = cv2.GaussianBlur(mask, (0, 0), 0.8)
        elif found.any():
            mask = guided(look.luma, mask, RADIUS, EPSILON)
        masks[name] = mask if mask.mean() >= LEAST_AREA[name] else np.zeros_like(mask)
    return Regions(masks)


def guided(guide: np.ndarray, mask: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """`mask` float32 (h, w), made locally linear in `guide` (h, w), clipped to [0, 1] with a little contrast."""
    slope, offset = guided_line(guide, mask, radius, epsilon)
    return sharpened(slope * guide + offset)


def guided_line(guide: np.ndarray, mask: np.ndarray, radius: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset (h, w) of the guided filter: mask ≈ slope · guide + offset, at any size."""

    def mean(plane: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(plane, -1, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_mask = mean(guide), mean(mask)
    slope = (mean(guide * mask) - mean_guide * mean_mask) / (mean(guide * guide) - mean_guide**2 + epsilon)
    return mean(slope), mean(mean_mask - slope * mean_guide)


def sharpened(mask: np.ndarray) -> np.ndarray:
    """What a guided filter leaves of certainty, 0.15 … 0.85, stretched to 0 … 1."""
    return ((mask - 0.15) / 0.7).clip(0, 1)


@dataclass(frozen=True)
class _Look:
    """What the cues see: float32 planes (h, w) of a small picture in [0, 1]."""

    red: np.ndarray
    green: np.ndarray
    blue: np.ndarray
    luma: np.ndarray
    across: np.ndarray  # derivative of blurred luma along x
    down: np.ndarray  # along y
    steep: np.ndarray  # the largest gradient of any channel
    rough: np.ndarray  # local deviation of luma
    grey: np.ndarray  # 1 − saturation
    light: np.ndarray  # the brightest channel, as sharp as it is

    @classmethod
    def of(cls, pixels: np.ndarray) -> "_Look":
        soft = cv2.GaussianBlur(pixels, (0, 0), 1.0)
        red, green, blue = (np.ascontiguousarray(soft[..., index]) for index in range(3))
        luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        x, y = cv2.Sobel(soft, -1, 1, 0, scale=1 / 8), cv2.Sobel(soft, -1, 0, 1, scale=1 / 8)
        blurred = cv2.boxFilter(luma, -1, (9, 9))
        rough = np.sqrt(np.maximum(cv2.boxFilter(luma * luma, -1, (9, 9)) - blurred * blurred, 0))
        high, low = soft.max(-1), soft.min(-1)
        steep = np.sqrt((x * x + y * y).max(-1))
        across, down = x @ LUMA.astype(np.float32), y @ LUMA.astype(np.float32)
        grey = 1 - (high - low) / (high + 1e-3)
        return cls(red, green, blue, luma, across, down, steep, rough, grey, pixels.max(-1))


def _sky(look: _Look) -> np.ndarray:
    """Even or clouded, blue or bright, from the top edge down to where something steep begins."""
    bluish = (look.blue > look.red + 0.03) & (look.blue > look.green - 0.02)
    pale = (look.luma > 0.62) & (look.grey > 0.72) & (look.blue > look.red - 0.06)
    sky = _from_the_top(_opened((bluish | pale) & (look.steep < STEEP), 5))
    if not sky.any():
        return sky
    sky &= look.luma > 0.45 * np.median(look.luma[sky])
    if not _is_sky(look, sky):
        return np.zeros_like(sky)
    like = look.luma > 0.7 * look.luma[sky].mean()
    like &= (look.green < np.maximum(look.red, look.blue) + 0.01) & (look.steep < EVEN)
    for row in range(1, len(sky)):  # straight down, as far as it stays even: from blue to an evening's yellow
        sky[row] |= sky[row - 1] & like[row]
    sky = _with_clouds(look, _closed(_opened(sky, 3), 7))
    sky[_horizon(look.luma, sky) :] = False
    return sky


def _with_clouds(look: _Look, sky: np.ndarray) -> np.ndarray:
    """The sky with those of its holes that are small, bright and grey."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~sky).astype(np.uint8), connectivity=4)
    height, width = sky.shape
    left, right, bottom = stats[:, 0], stats[:, 0] + stats[:, 2], stats[:, 1] + stats[:, 3]
    inside = (left > 0) & (right < width) & (bottom < 0.9 * height) & (stats[:, cv2.CC_STAT_AREA] < 0.02 * sky.size)
    share = np.bincount(labels.ravel(), (look.grey * look.luma).ravel()) / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    inside &= share > 0.8 * float((look.grey * look.luma)[sky].mean())
    inside[0] = False
    return sky | inside[labels]


def _horizon(luma: np.ndarray, sky: np.ndarray) -> int:
    """The row below which a hazy sky stays darker, where land or water begins; the picture's height if none."""
    height, width = sky.shape
    count = sky.sum(1)
    rows = np.where(sky, luma, 0).sum(1) / np.maximum(count, 1)
    for row in range(int(0.25 * height), height - 12):
        if count[row - 4] < 0.2 * width or count[row + 4 : row + 12].min() < 0.1 * width:
            continue
        below = rows[row + 4 : row + 36][count[row + 4 : row + 36] > 0]
        if rows[row - 10 : row - 3].mean() - below.max() > DROP:
            return row
    return height


def _is_sky(look: _Look, sky: np.ndarray) -> bool:
    """Blue, or bright, even and above the rest; a backdrop is neither blue enough nor ends anywhere."""
    red, green, blue = (plane[sky] for plane in (look.red, look.green, look.blue))
    if ((blue > red + 0.06) & (blue > 1.12 * green)).mean() > 0.35:
        return True
    red, green, blue = (float(plane.mean()) for plane in (red, green, blue))
    ends = sky[-max(2, len(sky) // 40) :].mean() < 0.05
    return ends and blue > red - 0.02 and min(red, green, blue) > 0.68 and float(look.rough[sky].mean()) < 0.03


def _from_the_top(free: np.ndarray) -> np.ndarray:
    """The parts of `free` that touch the top edge over some width, all together."""
    _, labels = cv2.connectedComponents(free.astype(np.uint8), connectivity=4)
    top = labels[: max(2, len(labels) // 50)].max(0)
    wide = [label for label in np.unique(top) if label and (top == label).mean() > 0.04]
    return np.isin(labels, wide)


def _reached(free: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The connected parts of `free` that hold a pixel of `start`."""
    _, labels = cv2.connectedComponents(free.astype(np.uint8), connectivity=4)
    return free & np.isin(labels, np.unique(labels[start & free]))


def _opened(mask: np.ndarray, size: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel).astype(bool)


def _closed(mask: np.ndarray, size: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel).astype(bool)


def _water(look: _Look, sky: np.ndarray, foliage: np.ndarray) -> np.ndarray:
    """Cool in colour, under a sky and below a straight level line; in level streaks, or mirroring what is above."""
    nothing = np.zeros_like(sky)
    if not sky.any():
        return nothing
    height, width = sky.shape
    span = (width // 10, 1)
    step = cv2.boxFilter(look.down, -1, span)
    level = (np.abs(step) > 0.85 * cv2.boxFilter(np.hypot(look.down, look.across), -1, span)) & (np.abs(step) > 0.003)
    best, strongest, shore = nothing, 0.0, 0
    cool = (look.blue > look.red - 0.03) & (look.blue > look.green - 0.05) & ~foliage
    strength = np.where(level, np.abs(step), 0).mean(1)
    for row in _lines(level.mean(1), height):
        below = cool.copy()
        below[:row] = False
        below = _opened(below, 5)
        start = np.zeros_like(below)
        start[row : row + 6] = level[max(row - 2, 0) : row + 3].any(0)
        found = _reached(below, start)
        if (found & sky).sum() > 0.2 * found.sum() and _mirrored(look.luma, found, row) < MIRROR:
            continue  # a bank of haze, or the edge of a cloud
        if strength[row] > strongest and found.mean() > LEAST_AREA["water"] and _is_water(look, found, row):
            best, strongest, shore = found, strength[row], row
    return _with_mirrored(look, _closed(best, 9), shore) & ~foliage


def _with_mirrored(look: _Look, water: np.ndarray, shore: int) -> np.ndarray:
    """Water with those of its holes that have the colours of what stands as far above the shore: mirrored houses."""
    count, labels = cv2.connectedComponents((~water).astype(np.uint8), connectivity=4)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    tint = np.stack([look.red - look.blue, look.green - look.blue], -1)
    rows = np.abs(2 * shore - np.arange(len(water)))
    water = water.copy()
    for label in set(range(1, count)) - set(edge.tolist()):
        hole = labels == label
        down, across = np.nonzero(hole)
        if np.abs(tint[hole].mean(0) - tint[rows[down].clip(0, shore), across].mean(0)).max() < 0.15:
            water |= hole
    return water


def _lines(share: np.ndarray, height: int) -> list[int]:
    """Rows in which level edges take most of the width, best first, some distance from each other."""
    rows: list[int] = []
    for row in np.argsort(-share, kind="stable"):
        if share[row] < 0.28 or len(rows) == 6:
            break
        if 0.3 * height < row < 0.88 * height and all(abs(row - other) > 5 for other in rows):
            rows.append(int(row))
    return rows


def _is_water(look: _Look, found: np.ndarray, row: int) -> bool:
    """Whether what was found below a row begins there, is blue, and lies in streaks or mirrors."""
    straight = float((np.abs(found.argmax(0) - row) <= 5)[found.any(0)].mean())
    cool = float((look.blue - look.red)[found].mean())
    streaks = float(np.abs(look.down[found]).mean() / np.abs(look.across[found]).mean())
    mirror = _mirrored(look.luma, found, row)
    return straight > 0.6 and cool > 0.05 and (streaks > 1.55 or mirror > MIRROR)


def _mirrored(luma: np.ndarray, found: np.ndarray, row: int) -> float:
    """Correlation of what is found below a row with what stands above it."""
    depth = min(row, len(luma) - row, len(luma) // 4)
    there = found[row : row + depth]
    above, under = luma[row - depth : row][::-1][there], luma[row : row + depth][there]
    return float(np.corrcoef(above, under)[0, 1]) if len(above) > 50 and min(above.std(), under.std()) > 1e-3 else 0.0


def _foliage(look: _Look) -> np.ndarray:
    """Green or olive, not bright, and rough."""
    green = (look.green > look.blue + 0.02) & (look.green > 0.96 * look.red) & (look.blue < look.red + 0.06)
    green &= (look.grey < 0.93) & (look.luma > 0.13) & (look.luma < 0.75)
    found = _opened(_closed(green & (look.rough > 0.02), 5), 5)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8))
    large = stats[:, cv2.CC_STAT_AREA] > LEAST_PLANT * found.size  # smaller ones are more often tiles and signs
    return found & large[labels]


def _lamps(look: _Look, sky: np.ndarray) -> np.ndarray:
    """Small and bright in the dark: under a dim sky, or where nearly all is black."""
    dusk = sky.mean() > 0.3 and look.luma[sky].mean() < 0.62
    if not dusk and look.luma.mean() > 0.2:
        return np.zeros_like(sky)
    around = cv2.boxFilter(look.luma, -1, (41, 41), borderType=cv2.BORDER_REFLECT)
    peak = look.luma - cv2.morphologyEx(look.luma, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    found = (peak > 0.22) & (look.luma > 0.5) & (around < DARK) & (look.red > look.blue - 0.15)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8))
    small = (stats[:, cv2.CC_STAT_AREA] < 0.002 * found.size) & (stats[:, 2:4].max(1) < 3 * stats[:, 2:4].min(1))
    light = np.zeros(len(small))
    np.maximum.at(light, labels.ravel(), look.light.ravel())
    small &= light > GLARE
    small[0] = False
    return small[labels]
