"""The world of the embedded model: what a move does to any picture, exactly, in closed form.

A camera move is a similarity that eases in and out. A light move is a transfer of statistics (after Reinhard et al.,
Color Transfer between Images, 2001): brightness and colour take the move's mean, and what differs from the mean is
scaled to the move's contrast, leaving room for the move's own vertical gradient; done again it changes next to nothing.
Living motion sets levels. What a prompt leaves open (when, which way, how a hand shakes) a seed's code decides. So any
chain of prompts and seeds has one true film. Plain numpy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import cv2
import numpy as np

from engine.pocket.motion import LEVELS, LUMA, Motion

GROUP = 4  # pixel frames to a latent frame, as in Wan
HOLD = 4  # a move starts after this frame, so that five motion frames and one give the same move
TILES = 56  # about so many tiles has a frame, whatever its size
TILE_SIDE = 16  # pixels to a tile of the small picture that a frame's statistics are taken from
CODES = 8  # numbers that a seed gives a clip, standard normal
GAIN_RANGE = (0.3, 2.5)  # of one light move: weaker would erase the picture for later clips
COLOUR_POWER = 0.5  # colours go half of the way (as a ratio): all of it makes pale photographs garish
LITTLE, MUCH = 0.5, 1.6  # how much more or less of a move an adverb asks for
AMOUNTS = (LITTLE, 1.0, MUCH)
PAN, ZOOM_IN, ZOOM_OUT, ROLL = 0.3, math.log(1.3), math.log(0.75), math.radians(5.0)
WANDER, SHAKE, TREMBLE = 0.12, 0.022, math.radians(0.3)  # a free camera's way, a hand's
PATHS = ("wander", "handheld")  # free moves whose whole path is the seed's

CAMERAS: dict[str, tuple[float, float, float, float]] = {
    "pan_left": (-PAN, 0, 0, 0),
    "pan_right": (PAN, 0, 0, 0),
    "tilt_up": (0, -PAN, 0, 0),
    "tilt_down": (0, PAN, 0, 0),
    "zoom_in": (0, 0, ZOOM_IN, 0),
    "zoom_out": (0, 0, ZOOM_OUT, 0),
    "roll_left": (0, 0, 0, -ROLL),  # the camera turns counterclockwise
    "roll_right": (0, 0, 0, ROLL),
}
NONE = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Light:
    """Target statistics in units of pixels in [−1, 1]; slopes go from the top (−1) to the bottom (+1)."""

    luma: float
    luma_slope: float
    contrast: float
    tint: tuple[float, float, float]
    tint_slope: tuple[float, float, float]
    saturation: float

    def mixed(self, other: "Light") -> "Light":
        """Half way between two: fog at night."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in Light.__dataclass_fields__]
        return Light(*(tuple(np.mean(pair, axis=0)) if isinstance(pair[0], tuple) else sum(pair) / 2 for pair in pairs))


LIGHTS = {
    "night": Light(-0.62, 0.10, 0.24, (-0.08, -0.02, 0.20), (0.02, 0.0, -0.06), 0.05),
    "sunrise": Light(0.14, 0.10, 0.38, (0.15, 0.02, -0.22), (0.08, 0.0, -0.12), 0.11),
    "noon": Light(0.12, 0.0, 0.44, NONE, NONE, 0.16),
    "sunset": Light(-0.22, -0.18, 0.36, (0.22, -0.05, -0.28), (0.12, -0.05, -0.10), 0.12),
    "fog": Light(0.40, -0.10, 0.16, (-0.02, 0.0, 0.04), NONE, 0.02),
    "storm": Light(-0.38, 0.16, 0.28, (-0.07, 0.02, 0.04), NONE, 0.035),
    "autumn": Light(-0.04, 0.0, 0.38, (0.17, 0.0, -0.36), (0.0, 0.02, -0.06), 0.14),
    "winter": Light(0.32, 0.10, 0.32, (-0.12, 0.01, 0.24), NONE, 0.03),
}


@dataclass(frozen=True)
class Move:
    """What a prompt asks for. camera: tx, ty, log zoom, angle at the end. free: of PATHS, and how much. lights: at most
    two, with how much of each is done (0 … 1). levels: of living motion. wind: −1 left, 1 right, 0 open.
    """

    camera: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    free: tuple[tuple[str, float], ...] = ()
    lights: tuple[tuple[str, float], ...] = ()
    levels: tuple[tuple[str, float], ...] = ()
    wind: float = 0.0
    pace: str = "free"  # slow: the whole clip; quick: a third of it; free: the seed decides when

    @property
    def led(self) -> "Move":
        """Without free paths."""
        return replace(self, free=())

    @property
    def is_still(self) -> bool:
        return not (any(self.camera) or self.free or self.lights or self.levels)


@dataclass(frozen=True)
class Statistics:
    """What a light move needs to know of a picture: mean of L, B − L, R − L, spread of luma and of colour."""

    mean: np.ndarray = field(repr=False)
    luma: float
    colour: float

    @classmethod
    def of(cls, frame: np.ndarray) -> "Statistics":
        """Of a frame (H, W, 3), uint8, or float in [−1, 1], seen at `TILE_SIDE` pixels to a tile."""
        return cls.of_small(shrunk(frame))

    @classmethod
    def of_small(cls, pixels: np.ndarray) -> "Statistics":
        """Of float pixels (H, W, 3) in [−1, 1] that are small already."""
        luma = pixels @ LUMA
        chroma = pixels - luma[..., None]
        mean = np.array([luma.mean(), chroma[..., 2].mean(), chroma[..., 0].mean()])
        spread = math.sqrt(np.square(chroma - chroma.mean((0, 1))).mean())
        return cls(mean, max(float(luma.std()), 1e-3), max(spread, 1e-3))


def grid_of(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of tiles of a frame: about TILES, nearly square, never less than two."""
    rows = max(2, round(math.sqrt(TILES * height / width)))
    return rows, max(2, round(rows * width / height))


def shrunk(frame: np.ndarray) -> np.ndarray:
    """The frame as float (h, w, 3) in [−1, 1], with `TILE_SIDE` pixels to a tile."""
    rows, columns = grid_of(frame.shape[1], frame.shape[0])
    small = cv2.resize(frame, (columns * TILE_SIDE, rows * TILE_SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float64) / 127.5 - 1 if frame.dtype == np.uint8 else small.astype(np.float64)


def progress(num_frames: int, num_latent_frames: int | None = None) -> np.ndarray:
    """How much of the time for a move has passed, 0 … 1, at the last frame of each latent frame."""
    frames = GROUP * np.arange(num_latent_frames or (num_frames - 1) // GROUP + 1)
    return ((frames - HOLD) / max(num_frames - 1 - HOLD, 1)).clip(0, 1)


def ease(share: np.ndarray) -> np.ndarray:
    """From 0 to 1 with rest at both ends."""
    share = share.clip(0, 1)
    return share * share * (3 - 2 * share)


def uniform(code: float) -> float:
    """A standard normal number as one in (0, 1)."""
    return 0.5 * (1 + math.erf(code / math.sqrt(2)))


def schedule(pace: str, early: float, late: float) -> tuple[float, float]:
    """When a move begins and ends, as shares of the clip; two codes decide what the pace leaves open."""
    if pace == "slow":
        return 0.0, 1.0
    if pace == "quick":
        begin = 0.05 + 0.45 * uniform(early)
        return begin, begin + 0.35
    begin = 0.3 * uniform(early)
    return begin, 1.0 - 0.3 * uniform(late)


def perform(move: Move, code: Sequence[float], before: Statistics, shares: np.ndarray, aspect: float) -> Motion:
    """The move as a motion relative to the frame before it, at each of `shares` (see `progress`).

    code: CODES numbers. before: of the frame that the move starts from.
    """
    motion = Motion.still(len(shares), aspect)
    begin, end = schedule(move.pace, code[0], code[1])
    done = ease((shares - begin) / (end - begin))
    motion.camera[:] = done[:, None] * np.array(move.camera)
    motion.camera[:] += path(path_amounts(move), code, shares)
    if move.lights:
        begin, end = schedule(move.pace, code[2], code[3])
        _light(motion, move, before, ease((shares - begin) / (end - begin)))
    risen = ease(shares / 0.4)
    for name, level in move.levels:
        motion.levels[:, LEVELS.index(name)] = level * risen
    if any(name != "calm" for name, _ in move.levels):
        motion.wind[:, 0] = (move.wind or math.copysign(1.0, code[6])) * risen
        motion.wind[:, 1] = (0.4 + 0.6 * uniform(code[7])) * risen
    return motion


def path_amounts(move: Move) -> np.ndarray:
    """How much of each of PATHS a move asks for."""
    return np.array([sum(amount for name, amount in move.free if name == path) for path in PATHS])


def path(amounts: np.ndarray, code: Sequence[float], shares: np.ndarray) -> np.ndarray:
    """The camera (n, 4) on so much of each of PATHS. Wandering goes somewhere and stays there; a hand's path is a few
    waves that begin and end at rest."""
    wander, handheld = amounts
    camera = np.zeros((len(shares), 4))
    somewhere = [WANDER * np.clip(code[4], -2, 2), WANDER * np.clip(code[5], -2, 2), 0.3 * ZOOM_IN * math.tanh(code[6])]
    camera[:, :3] = wander * ease(shares)[:, None] * somewhere
    waves = np.sin(math.pi * shares) ** 2 * np.stack([np.cos(2 * math.pi * k * shares) for k in (1, 2, 3, 4)])
    camera[:, 0] += handheld * SHAKE * (code[4] * waves[1] + code[5] * waves[3])
    camera[:, 1] += handheld * SHAKE * (code[6] * waves[0] + code[7] * waves[2])
    camera[:, 3] += handheld * TREMBLE * (code[5] * waves[0] + code[6] * waves[3])
    return camera


def _light(motion: Motion, move: Move, before: Statistics, done: np.ndarray) -> None:
    names = [name for name, _ in move.lights]
    light = LIGHTS[names[0]] if len(names) == 1 else LIGHTS[names[0]].mixed(LIGHTS[names[1]])
    share = done * min(1.0, max(amount for _, amount in move.lights))
    gain_luma = _gain(light.contrast, before.luma, 1.0)
    gain_colour = _gain(light.saturation, before.colour, COLOUR_POWER)
    tint, slope = _without_luma(light.tint), _without_luma(light.tint_slope)
    target = np.array([light.luma, tint[2], tint[0]])
    slopes = np.array(
        [
            max(1 - gain_luma, 0) * light.luma_slope,
            max(1 - gain_colour, 0) * slope[2],
            max(1 - gain_colour, 0) * slope[0],
        ]
    )
    gains = np.stack([1 + share * (gain_luma - 1), 1 + share * (gain_colour - 1)], -1)
    motion.light[:, :2] = np.log(gains)
    # out = mean + gain (value − mean) + share (target − mean), so the constant is what the gain leaves out
    motion.light[:, 2:5] = before.mean * (1 - gains[:, [0, 1, 1]]) + share[:, None] * (target - before.mean)
    motion.light[:, 8:11] = share[:, None] * slopes


def _gain(wanted: float, own: float, power: float) -> float:
    return min(max((wanted / own) ** power, GAIN_RANGE[0]), GAIN_RANGE[1])


def _without_luma(colour: tuple[float, float, float]) -> np.ndarray:
    return np.asarray(colour) - LUMA @ colour


def lit(small: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Small pixels (h, w, 3) in [−1, 1] in a light (11,), clamped: what a later clip starts from."""
    height, width = small.shape[:2]
    x, y = 2 * (np.arange(width) + 0.5) / width - 1, 2 * (np.arange(height) + 0.5) / height - 1
    luma = small @ LUMA
    planes = np.stack([luma, small[..., 2] - luma, small[..., 0] - luma])
    gains = np.exp(light[[0, 1, 1]])[:, None, None]
    planes = gains * planes + (
        light[2:5, None, None] + light[5:8, None, None] * x + light[8:11, None, None] * y[:, None]
    )
    blue, red = planes[0] + planes[1], planes[0] + planes[2]
    green = planes[0] - (LUMA[0] * planes[2] + LUMA[2] * planes[1]) / LUMA[1]
    return np.stack([red, green, blue], -1).clip(-1, 1)


@cache
def spline(num_latent_frames: int) -> np.ndarray:
    """(4 (f − 1) + 1, f): the natural cubic spline through knots at frames 0, 4, 8, …"""
    if num_latent_frames == 1:
        return np.ones((1, 1))
    knots = GROUP * np.arange(num_latent_frames)
    frames = np.arange(knots[-1] + 1)
    if num_latent_frames == 2:
        return np.stack([1 - frames / GROUP, frames / GROUP], 1)
    from scipy.interpolate import CubicSpline  # half of what the command line takes to start

    return CubicSpline(knots, np.eye(num_latent_frames), bc_type="natural")(frames)


def at_frames(knots: Motion) -> Motion:
    """The motion of every frame from that of each latent frame's last one."""
    matrix = spline(len(knots))
    parts = (matrix @ part for part in (knots.camera, knots.light, knots.levels, knots.wind, knots.clock))
    local = None if knots.local is None else np.einsum("tk,kchw->tchw", matrix, knots.local)
    return Motion(*parts, knots.aspect, local)
