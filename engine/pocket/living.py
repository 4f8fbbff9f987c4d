"""Living motion, drawn from the picture's own pixels: water, foliage, clouds, mist, lamps, and what falls.

Where is told by the picture's regions, how much by a state's levels, when by its clock: the same state gives the same
pixels, and a film goes on over its clips without a seam. No speed is ever multiplied with the clock, only phases and
bounded ways are, so that a level or a wind that changes late in a film makes nothing jump. Positions are in half-frame
units of the creator's picture (see `motion`); waves and ways are told in half frame heights. Numpy and OpenCV.
"""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from engine.pocket import regions
from engine.pocket.motion import LEVELS, Motion

OFFERED = ("ripple", "sway", "drift", "haze", "snow", "rain", "twinkle")  # what convinces by eye; others are not drawn
NORMAL = 0.6  # the level of what a prompt asks for without an adverb

RIPPLE, DEPTH = 0.011, 0.12  # way of the water near the viewer; how far from the eye the horizon still is
WAVES = (  # share, along depth, across, radians a second, radians a unit that the wind has blown
    (0.40, 52.0, 5.0, 2.9, 1.0),
    (0.30, 31.0, -9.0, 2.3, -1.5),
    (0.25, 73.0, 13.0, 3.7, 2.0),
    (0.30, 19.0, 3.0, 1.7, 0.6),
    (0.20, 44.0, -17.0, 3.3, -2.5),
)
GLINT = 0.06  # share of its light that water gains and loses with the waves

SWAY, STEM = 0.02, 0.6  # way of a crown; height over the ground from which on it sways in full
GUSTS = ((0.3, 2.3, 0.9, 2.6), (0.2, 4.1, -1.7, 4.3))  # share, along x and y, radians a unit that the wind has blown
FLUTTERS = ((0.5, 9.0, 5.0, 3.1), (0.35, -16.0, 11.0, 4.7), (0.25, 27.0, -19.0, 6.9))  # the last: a second

CYCLE = 0.45  # way of a cloud from where it fades in to where it is gone
CLOUD = 0.055  # way of a cloud at the top of the sky for each unit that the wind has blown
FAR = 0.4  # share of it at the horizon

HAZE, DENSEST, MIST = 1.2, 0.7, 0.16  # how dense mist is, at most; its way for each unit that the wind has blown
TILE = 256  # pixels of the noise that mist is made of
SNOW, RAIN = 420, 1100  # flakes and drops of a frame at the normal level


@dataclass(frozen=True)
class Setting:
    """What of a picture can live. box: left, right, top and bottom of the picture in half-frame units.

    found: its regions. stems (h, w): how far foliage gives way, 0 … 1. clouds: float32 (H, W, 3), how the sky differs
    from the mean of its row, going on behind what stands before it; cover: uint8 (H, W), where it is seen. waterline,
    horizon: where water begins and the sky ends. lamps: int32 (h, w), the nearest lamp. mist: its colour.
    """

    box: tuple[float, float, float, float]
    aspect: float
    found: regions.Regions
    stems: np.ndarray
    clouds: np.ndarray
    cover: np.ndarray
    waterline: float
    horizon: float
    lamps: np.ndarray
    mist: tuple[int, int, int]

    @classmethod
    def of(cls, picture: np.ndarray, box: tuple[float, float, float, float], aspect: float) -> "Setting":
        """Of a picture uint8 (H, W, 3) that fills `box`; aspect: width / height of the frame."""
        found = regions.find(picture)
        clouds, cover = _clouds(picture, found.masks["sky"])
        masks = found.masks
        top, bottom = box[2:]
        waterline = top + (bottom - top) * _first_row(masks["water"])
        horizon = top + (bottom - top) * (1 - _first_row(masks["sky"][::-1]) if masks["sky"].any() else 0.5)
        colour = picture.reshape(-1, 3).mean(0) if not masks["sky"].any() else picture[cover > 128].mean(0)
        mist = tuple(int(value) for value in 0.6 * 235 + 0.4 * colour)
        stems = _stems(masks["foliage"], (bottom - top) / len(masks["foliage"]))
        return cls(box, aspect, found, stems, clouds, cover, waterline, horizon, _nearest(masks["lamps"]), mist)

    def at(self, plane: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
        """What `plane`, spread over the box, holds at positions across and down (H, W); its edge goes on."""
        columns, rows = self.pixels(plane, across, down)
        return cv2.remap(plane, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def pixels(self, plane: np.ndarray, across: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The positions as columns and rows of `plane`, which is spread over the box."""
        left, right, top, bottom = self.box
        scale_x, scale_y = plane.shape[1] / (right - left), plane.shape[0] / (bottom - top)
        return across * scale_x - (left * scale_x + 0.5), down * scale_y - (top * scale_y + 0.5)


def acting(state: Motion) -> dict[str, float]:
    """What lives in one state, and how much: 1 is normal."""
    levels = {name: float(state.levels[0, LEVELS.index(name)]) / NORMAL for name in OFFERED}
    return {name: level for name, level in levels.items() if level > 0}


def displacement(
    setting: Setting, state: Motion, alive: dict[str, float], across: np.ndarray, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """How far from positions across and down (H, W) to look, in half-frame units; None where nothing gives way."""
    ways = []
    if alive.get("ripple") and setting.found.masks["water"].any():
        water = setting.at(setting.found.masks["water"], across, down)
        waves, crossing, depth = _waves(setting, state, across, down)
        amount = RIPPLE * alive["ripple"] * np.minimum(depth, 1) * water
        ways.append((amount * waves, 0.6 * amount * crossing))
    if alive.get("sway") and setting.stems.any():
        ways.append(_sway(setting, state, alive["sway"], across, down))
    if not ways:
        return None
    return sum(x for x, _ in ways) / setting.aspect, sum(y for _, y in ways)


def _waves(
    setting: Setting, state: Motion, across: np.ndarray, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two sums of waves that come towards the viewer, shorter the farther off, and the depth below the horizon."""
    seconds, blown = state.clock[0].tolist()
    depth = np.maximum(down - np.float32(setting.waterline), 0) + np.float32(DEPTH)
    far, aside = np.log(depth), across * np.float32(setting.aspect) / depth
    waves, crossing = np.zeros_like(depth), np.zeros_like(depth)
    for share, along, sideways, speed, drag in WAVES:
        phase = along * far + sideways * aside - (speed * seconds + drag * blown) % (2 * math.pi)
        waves += share * np.sin(phase)
        crossing += share * np.cos(phase)
    return waves, crossing, depth


def _sway(
    setting: Setting, state: Motion, amount: float, across: np.ndarray, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Foliage leans as gusts pass over it with the wind, and flutters the more."""
    (seconds, blown), (direction, strength) = state.clock[0].tolist(), state.wind[0].tolist()
    x, y = across * np.float32(setting.aspect), down
    gust = np.full_like(x, 0.5)
    for share, along_x, along_y, speed in GUSTS:
        gust += share * np.sin(along_x * x + along_y * y - speed * blown % (2 * math.pi))
    flutter, nod = np.zeros_like(x), np.zeros_like(x)
    for share, along_x, along_y, speed in FLUTTERS:
        phase = along_x * x + along_y * y + speed * seconds % (2 * math.pi)
        flutter += share * np.sin(phase)
        nod += share * np.cos(phase)
    yielding = np.float32(SWAY * amount) * setting.at(setting.stems, across, down)
    lively = 0.25 + 0.5 * gust
    lean = np.float32(direction * strength) * gust
    return -yielding * (lean + lively * flutter), -0.35 * yielding * lively * nod


def over(
    frame: np.ndarray, setting: Setting, state: Motion, alive: dict[str, float], across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """The frame uint8 (H, W, 3), not yet lit, with all that is no way of its pixels; positions as it was drawn."""
    present = setting.found.masks
    if alive.get("drift") and present["sky"].any():
        frame = _drift(frame, setting, state, alive["drift"], across, down)
    if alive.get("ripple") and present["water"].any():
        frame = _glint(frame, setting, state, alive["ripple"], across, down)
    if alive.get("twinkle") and present["lamps"].any():
        frame = _twinkle(frame, setting, state, alive["twinkle"], across, down)
    if alive.get("haze"):
        frame = _haze(frame, setting, state, alive["haze"], across, down)
    if alive.get("snow"):
        frame = _snow(frame, state, alive["snow"])
    if alive.get("rain"):
        frame = _rain(frame, state, alive["rain"])
    return frame


def _drift(
    frame: np.ndarray, setting: Setting, state: Motion, amount: float, across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """The sky moves on for ever: two copies of it, half a cycle apart, each on its way while it is seen (Vlachos, Water
    Flow in Portal 2, 2010). Only what changes in the sky alone is added, so that nothing tears at the skyline."""
    cover = setting.at(setting.cover, across, down)
    rows = np.flatnonzero(cover.max(1))
    if not len(rows):
        return frame
    part = slice(rows[0], rows[-1] + 1)
    across, down, cover = across[part], down[part], cover[part]
    cycles = CLOUD * float(state.clock[0, 1]) / CYCLE
    share = 1 - (1 - FAR) * ((down - setting.box[2]) / max(setting.horizon - setting.box[2], 1e-3)).clip(0, 1)
    columns, lines = setting.pixels(setting.clouds, across, down)
    scale = setting.clouds.shape[1] / (setting.box[1] - setting.box[0]) / setting.aspect
    moved = -_seen(setting.clouds, columns, lines)
    for start in (0.5, 0.0):
        phase = (cycles + start) % 1.0
        way = np.float32(scale * CYCLE * min(amount, 2.0) * (phase - 0.5)) * share
        moved = cv2.scaleAdd(_seen(setting.clouds, columns - way, lines), 1 - abs(2 * phase - 1), moved)
    result = frame.copy()
    moved *= (cover.astype(np.float32) * np.float32(1 / 255))[..., None]
    result[part] = cv2.add(frame[part], moved, dtype=cv2.CV_8U)
    return result


def _seen(clouds: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return cv2.remap(clouds, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _glint(
    frame: np.ndarray, setting: Setting, state: Motion, amount: float, across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """Waves turn to the sky and away from it."""
    size = frame.shape[1::-1]
    half = (max(2, size[0] // 2), max(2, size[1] // 2))
    x, y = (cv2.resize(plane, half, interpolation=cv2.INTER_AREA) for plane in (across, down))
    water = setting.at(setting.found.masks["water"], x, y)
    _, crossing, depth = _waves(setting, state, x, y)
    light = 1 + np.float32(GLINT * amount) * water * crossing * np.minimum(depth * 3, 1)
    return _lit(frame, cv2.resize(light, size))


def _lit(frame: np.ndarray, light: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(np.abs(light - 1).max(1) > 1e-4)
    if not len(rows):
        return frame
    part, result = slice(rows[0], rows[-1] + 1), frame.copy()
    result[part] = cv2.multiply(frame[part], cv2.merge([light[part]] * 3), dtype=cv2.CV_8U)
    return result


def _twinkle(
    frame: np.ndarray, setting: Setting, state: Motion, amount: float, across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """Every lamp has its own flicker."""
    seconds = float(state.clock[0, 0])
    number = np.arange(setting.lamps.max() + 1)
    wave = np.sin(seconds * (1.9 + 0.37 * (number * 7 % 5)) + number * 2.4)
    wave = 0.6 * wave + 0.4 * np.sin(seconds * (4.3 + 0.53 * (number * 3 % 7)) + number * 1.1)
    light = (0.3 * amount * (wave - 0.4)).clip(-0.7, 0.6).astype(np.float32)
    glow = cv2.GaussianBlur(cv2.dilate(setting.found.masks["lamps"], np.ones((5, 5), np.uint8)), (0, 0), 1.5)
    return _lit(frame, 1 + setting.at(light[setting.lamps] * glow, across, down))


def _haze(
    frame: np.ndarray, setting: Setting, state: Motion, amount: float, across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """Two layers of mist, the near one faster, thickest about the horizon."""
    (seconds, blown), size = state.clock[0].tolist(), frame.shape[1::-1]
    x, y = (cv2.resize(plane, (size[0] // 4, size[1] // 4), interpolation=cv2.INTER_AREA) for plane in (across, down))
    x = x * np.float32(setting.aspect)
    far = _mist_at(0.36 * x - 0.36 * MIST * blown, 0.9 * y + 0.013 * seconds)
    near = _mist_at(0.21 * x - 0.34 * MIST * blown + 0.4, 0.5 * y - 0.017 * seconds + 0.3)
    height = (y - np.float32(setting.horizon)) / np.where(y < setting.horizon, 0.45, 0.9).astype(np.float32)
    dense = (1.6 * far * near + 0.25 * near) * np.exp(-height * height)
    share = cv2.resize(DENSEST * (1 - np.exp(np.float32(-HAZE * amount) * dense)), size)
    return cv2.blendLinear(np.full_like(frame, setting.mist), frame, share, 1 - share)


def _mist_at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The mist at x, y (h, w), which repeats after a unit of both."""
    tile = _mist()
    columns, rows = ((plane % 1.0 * TILE).astype(np.float32) for plane in (x, y))
    return cv2.remap(tile, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


@cache
def _mist() -> np.ndarray:
    """Noise float32 (TILE, TILE) in [0, 1] that goes on at its edges, clear in places."""
    rng = np.random.default_rng(20)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE) * TILE, np.fft.rfftfreq(TILE) * TILE, indexing="ij"))
    spectrum = np.exp(2j * math.pi * rng.random(frequency.shape)) / np.maximum(frequency, 1) ** 1.9
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(TILE, TILE))
    share = (noise / noise.std() * 0.3 + 0.45).clip(0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


@cache
def _particles(count: int, seed: int) -> np.ndarray:
    """(count, 6) uniform numbers in [0, 1): x, y, nearness, two phases, spare; sorted from far to near."""
    numbers = np.random.default_rng(seed).random((count, 6))
    return numbers[np.argsort(numbers[:, 2], kind="stable")]


def _visible(order: np.ndarray, amount: float) -> np.ndarray:
    """How much of each particle is seen, (n,) in [0, 1]: one after the other they come as the amount grows."""
    return (12 * (amount / 2 - order)).clip(0, 1)


def _snow(frame: np.ndarray, state: Motion, amount: float) -> np.ndarray:
    """Flakes at all distances fall, swing and go with the wind; near ones are large and out of focus."""
    height, width = frame.shape[:2]
    (seconds, blown), aspect = state.clock[0].tolist(), width / height
    flakes = _particles(2 * SNOW, 3)
    near = flakes[:, 2] ** 2.2
    seen = _visible(flakes[:, 5], amount)
    swing = (0.01 + 0.03 * near) * np.sin(seconds * (0.8 + flakes[:, 3]) + 6.28 * flakes[:, 4])
    way = blown * (0.04 + 0.14 * near) - state.camera[0, 0] * (0.1 + 0.4 * near) + swing
    x = (flakes[:, 0] + way / aspect) % 1.0 * 1.1 - 0.05
    y = (flakes[:, 1] + seconds * (0.05 + 0.16 * near)) % 1.0 * 1.1 - 0.05
    centres = np.rint(16 * np.stack([x * width, y * height], 1)).astype(int)
    radius = (16 * height / 480 * (0.8 + 4.2 * near)).astype(int)
    light = (seen * (230 - 90 * near)).astype(int)
    plane = np.zeros((height, width), np.uint8)
    for layer, blur in ((near < 0.25, 0.6), ((near >= 0.25) & (near < 0.6), 1.2), (near >= 0.6, 2.4)):
        drawn = np.zeros_like(plane)
        for index in np.flatnonzero(layer & (seen > 0)):
            cv2.circle(drawn, centres[index].tolist(), int(radius[index]), int(light[index]), -1, cv2.LINE_AA, 4)
        plane = cv2.max(plane, cv2.GaussianBlur(drawn, (0, 0), blur * height / 480))
    return _brightened(frame, plane, 248)


def _brightened(frame: np.ndarray, plane: np.ndarray, white: int) -> np.ndarray:
    """The frame, as far towards white as `plane` uint8 (H, W) says."""
    missing = cv2.subtract(np.full_like(frame, white), frame)
    return cv2.add(frame, cv2.multiply(missing, cv2.merge([plane] * 3), scale=1 / 255))


def _rain(frame: np.ndarray, state: Motion, amount: float) -> np.ndarray:
    """Streaks as long as a drop falls while a frame is exposed, aslant in the wind."""
    height, width = frame.shape[:2]
    (seconds, blown), (direction, strength) = state.clock[0].tolist(), state.wind[0].tolist()
    drops = _particles(2 * RAIN, 4)
    near = drops[:, 2] ** 3
    seen = _visible(drops[:, 5], amount)
    speed = 0.9 + 1.6 * near  # heights a second
    slope, length = 0.45, 0.035 * speed
    y = (drops[:, 1] + seconds * speed) % 1.3 - 0.15
    way = slope * speed * blown - state.camera[0, 0] * (0.1 + 0.3 * near)
    x = (drops[:, 0] + way * height / width) % 1.2 - 0.1
    lean = slope * direction * strength * length
    ends = np.stack([x * width, y * height, x * width + lean * height, (y + length) * height], 1)
    ends, light = np.rint(16 * ends).astype(int), (seen * (38 + 52 * near)).astype(int)
    plane = np.zeros((height, width), np.uint8)
    for index in np.flatnonzero(seen > 0):
        cv2.line(plane, ends[index, :2].tolist(), ends[index, 2:].tolist(), int(light[index]), 1, cv2.LINE_AA, 4)
    return _brightened(frame, cv2.GaussianBlur(plane, (3, 3), 0.6), 235)


def _clouds(picture: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clouds: how the sky differs from the mean of its row, float32 (H, W, 3), gone on with behind everything else;
    and where it is seen, uint8 (H, W)."""
    height, width = picture.shape[:2]
    if not mask.any():
        return np.zeros((2, 2, 3), np.float32), np.zeros((2, 2), np.uint8)
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    small = cv2.resize(luma, mask.shape[::-1], interpolation=cv2.INTER_AREA)
    lines = regions.guided_line(small, mask, regions.RADIUS, regions.EPSILON)
    slope, offset = (cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in lines)
    cover = regions.sharpened(slope * luma + offset)
    pure = cv2.erode(((cover > 0.97) & ~_specks(luma)).astype(np.float32), np.ones((5, 5), np.uint8))
    soft = cv2.GaussianBlur(pure, (0, 0), max(height, width) / 120, borderType=cv2.BORDER_REPLICATE)
    known = (2 * soft - 1).clip(0, 1) * pure
    mean = (picture * known[..., None]).sum(1) / np.maximum(known.sum(1), 1e-3)[:, None]
    clouds = _filled((picture - mean[:, None]).astype(np.float32), known)
    return clouds, np.rint(255 * cover).astype(np.uint8)


def _specks(luma: np.ndarray) -> np.ndarray:
    """Small dark things (H, W), as birds and wires: a cloud that carried them would show two of each."""
    side = 2 * (max(luma.shape) // 160) + 3
    dark = cv2.morphologyEx(luma, cv2.MORPH_BLACKHAT, np.ones((side, side), np.uint8))
    return cv2.dilate((dark > 0.2).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)


def _filled(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A picture float32 (H, W, 3), what is not `known` (H, W) made up from what is around it, coarser the farther away
    (Gortler et al., The Lumigraph, 1996: push and pull)."""
    colours, weights = [picture * known[..., None]], [known]
    while min(weights[-1].shape) > 2:
        size = tuple((side + 1) // 2 for side in weights[-1].shape[::-1])
        colours.append(cv2.resize(colours[-1], size, interpolation=cv2.INTER_AREA))
        weights.append(cv2.resize(weights[-1], size, interpolation=cv2.INTER_AREA))
    below = colours[-1] / np.maximum(weights[-1], 1e-6)[..., None]
    for colour, weight in zip(colours[-2::-1], weights[-2::-1], strict=True):
        below = cv2.resize(below, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        sure = weight.clip(0, 1)[..., None]
        below = colour + (1 - sure) * below
    return below


def _stems(foliage: np.ndarray, row: float) -> np.ndarray:
    """How far foliage (h, w) gives way, in [0, 1]: little at the ground, more the higher; `row`: height of a row."""
    height = np.zeros(foliage.shape[1], np.float32)
    result = np.zeros_like(foliage)
    for index in range(len(foliage) - 1, -1, -1):
        height = (height + np.float32(row)) * (foliage[index] > 0.5)
        result[index] = foliage[index] * (0.12 + 0.88 * np.minimum(height / np.float32(STEM), 1))
    return cv2.GaussianBlur(result, (0, 0), 2.0)


def _first_row(mask: np.ndarray) -> float:
    """Share of the height at which a mask (h, w) begins over some width; 0 for an empty one."""
    share = (mask > 0.5).mean(1)
    return float((share > 0.25 * share.max()).argmax() / len(mask)) if share.any() else 0.0


def _nearest(lamps: np.ndarray) -> np.ndarray:
    """Number (h, w) of the lamp that is nearest to each pixel, from 1; all 0 without any."""
    spots = (lamps > 0.4).astype(np.uint8)
    if not spots.any():
        return np.zeros(lamps.shape, np.int32)
    _, labels = cv2.distanceTransformWithLabels(1 - spots, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    return labels
