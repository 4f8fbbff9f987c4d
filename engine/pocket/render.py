"""Draws frames: the creator's pixels, moved once, then lit. Numpy and OpenCV, no model.

A frame's pixel shows the picture at one place, read with a bicubic kernel from the level of an image pyramid that is
nearest to the film's own scale, so that large uploads do not shimmer and small moves stay sharp.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from engine.domain import Resolution
from engine.pocket import living
from engine.pocket.framing import Framing
from engine.pocket.motion import LUMA, Motion, linear

VERSION = 1  # raised when the same state gives other pixels
STEP = math.sqrt(2.0)  # between two levels of the pyramid
_TO_RGB = np.array([[1.0, 0.0, 1.0], [1.0, -LUMA[2] / LUMA[1], -LUMA[0] / LUMA[1]], [1.0, 1.0, 0.0]])  # of L, B, R
EDGE = 0.25  # how far a picture without room goes on beyond its edge, softly, as a share of its sides


class Pyramid(Sequence[np.ndarray]):
    """A picture uint8 (H, W, 3) and smaller ones, each by STEP, down to the film's scale; made when first asked for.

    scale: pixels of the picture to a pixel of the film.
    """

    def __init__(self, picture: np.ndarray, scale: float) -> None:
        self._levels = {0: np.ascontiguousarray(picture)}
        self._count = 1 + max(0, math.floor(math.log(max(scale, 1e-9) / 0.99) / math.log(STEP)))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(self._count)[index]
        if index not in self._levels:
            height, width = self._levels[0].shape[:2]
            size = (max(1, round(width / STEP**index)), max(1, round(height / STEP**index)))
            self._levels[index] = cv2.resize(self._levels[0], size, interpolation=cv2.INTER_AREA)
        return self._levels[index]


@dataclass(frozen=True)
class Canvas:
    """A picture to draw from: levels uint8 (H, W, 3), each smaller by STEP; `framing` in pixels of the first.

    border: width in pixels of level 0 that lies outside the picture and was made up.
    """

    levels: Sequence[np.ndarray]
    framing: Framing
    border: int = 0

    @classmethod
    def of(cls, picture: np.ndarray, framing: Framing) -> "Canvas":
        """For films that are drawn from the whole picture (H, W, 3)."""
        return cls(Pyramid(picture, framing.width / framing.resolution.width), framing)

    @classmethod
    def of_frame(cls, frame: np.ndarray) -> "Canvas":
        """For clips that know no more than the frame (H, W, 3) that was handed over: around it the picture goes on,
        softer and softer, since what is really there is not known."""
        height, width = frame.shape[:2]
        border = int(EDGE * max(height, width))
        framing = Framing(
            border, border, width, height, width + 2 * border, height + 2 * border, Resolution(width, height)
        )
        return cls((soft_border(frame, border),), framing, border)

    def draw(self, states: Motion, frames: Sequence[int] | None = None) -> np.ndarray:
        """uint8 (n, H, W, 3): `states` are relative to the picture, or to the frame."""
        chosen = range(len(states)) if frames is None else frames
        return np.stack([self.draw_one(states[index : index + 1]) for index in chosen])

    def draw_one(self, state: Motion) -> np.ndarray:
        size = self.framing.resolution
        source = self.levels[self._level(state)]
        alive = living.acting(state)
        across, down = self._positions(state, (size.width, size.height))
        if alive:
            across, down = self._moved(state, alive, across, down)
        columns, rows = self._pixels(across, down, source)
        drawn = cv2.remap(source, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        if alive:
            drawn = living.over(drawn, self.setting, state, alive, across, down)
        if np.abs(state.light).max() < 1e-6 and state.local is None:
            return drawn
        return light_up(drawn, state, size)

    @cached_property
    def setting(self) -> living.Setting:
        """What of the picture can live, found when it is first asked for."""
        border, picture, box = self.border, self.levels[-1], self.framing.room
        if border:
            picture, box = picture[border:-border, border:-border], (-1.0, 1.0, -1.0, 1.0)
        return living.Setting.of(picture, box, self.framing.aspect)

    def invented(self, state: Motion) -> float:
        """Share of a frame's pixels whose place lies outside the picture."""
        size = self.framing.resolution
        columns, rows = self._pixels(*self._positions(state, (size.width, size.height)), self.levels[0])
        border, (height, width) = self.border, self.levels[0].shape[:2]
        outside = (columns < border - 0.5) | (columns > width - border - 0.5)
        return float((outside | (rows < border - 0.5) | (rows > height - border - 0.5)).mean())

    def _level(self, state: Motion) -> int:
        scale = self.framing.width / self.framing.resolution.width / math.exp(state.camera[0, 2])
        return max(0, min(len(self.levels) - 1, math.floor(math.log(max(scale, 1e-9)) / math.log(STEP) + 1e-6)))

    def _positions(self, state: Motion, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Where each of `size` (width, height) pixels of the frame looks, in half-frame units across and down, float32
        (H, W)."""
        x, y = axes(*size)
        matrix, shift = linear(state.camera, state.aspect)
        (a, b), (c, d) = matrix[0]
        across = np.add.outer((b * y).astype(np.float32), (a * x + shift[0, 0]).astype(np.float32))
        down = np.add.outer((d * y + shift[0, 1]).astype(np.float32), (c * x).astype(np.float32))
        if state.local is not None:
            flow = upsampled(state.local[0, :2], *size)
            across, down = across + flow[0], down + flow[1]
        return across, down

    def _moved(
        self, state: Motion, alive: dict[str, float], across: np.ndarray, down: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The positions, given way to water and wind: found for every second pixel."""
        size = self.framing.resolution
        half = (max(2, size.width // 2), max(2, size.height // 2))
        way = living.displacement(self.setting, state, alive, *self._positions(state, half))
        if way is None:
            return across, down
        x, y = (cv2.resize(plane, (size.width, size.height), interpolation=cv2.INTER_LINEAR) for plane in way)
        return across + x, down + y

    def _pixels(self, across: np.ndarray, down: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions as columns and rows of `source`, float32 (H, W)."""
        framing = self.framing
        zoom_x, zoom_y = source.shape[1] / self.levels[0].shape[1], source.shape[0] / self.levels[0].shape[0]
        half_width, half_height = framing.width / 2 * zoom_x, framing.height / 2 * zoom_y
        columns = across * np.float32(half_width) + np.float32(half_width + framing.left * zoom_x - 0.5)
        rows = down * np.float32(half_height) + np.float32(half_height + framing.top * zoom_y - 0.5)
        return columns, rows


def opening_frame(picture: np.ndarray, resolution: Resolution) -> np.ndarray:
    """The first frame (H, W, 3) of a film of `picture` (H, W, 3), both uint8: framed, nothing moved."""
    framing = Framing.of(picture.shape[1], picture.shape[0], resolution)
    return Canvas.of(picture, framing).draw_one(Motion.still(1, framing.aspect))


def light_up(frame: np.ndarray, state: Motion, size: Resolution) -> np.ndarray:
    """The frame uint8 (H, W, 3) in the light of `state`: L' = g L + o, and so for B − L and R − L."""
    gain_luma, gain_chroma = np.exp(state.light[0, :2])
    mixing = gain_chroma * np.eye(3) + (gain_luma - gain_chroma) * np.ones((3, 1)) * LUMA
    offset, along_x, along_y = (_TO_RGB @ state.light[0, first : first + 3] for first in (2, 5, 8))
    # levels of 255: v = p / 127.5 − 1
    constant = 127.5 * (offset + 1 - mixing.sum(1))
    lit = cv2.transform(frame.astype(np.float32), np.column_stack([mixing, constant]).astype(np.float32))
    if state.local is None and max(np.abs(along_x).max(), np.abs(along_y).max()) < 1e-6:
        return cv2.convertScaleAbs(cv2.max(lit, 0.0))
    x, y = axes(size.width, size.height)
    slope = (127.5 * along_x * x[:, None])[None] + (127.5 * along_y * y[:, None])[:, None]
    if state.local is not None:
        slope = slope + 127.5 * np.einsum(
            "ck,khw->hwc", _TO_RGB, upsampled(state.local[0, 2:], size.width, size.height)
        )
    return cv2.add(lit, slope.astype(np.float32), dtype=cv2.CV_8U)


def axes(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the frame's columns and rows in half-frame units."""
    return tuple(2 * (np.arange(count) + 0.5) / count - 1 for count in (width, height))


def upsampled(grid: np.ndarray, width: int, height: int) -> np.ndarray:
    """(c, h, w) tiles as (c, H, W) pixels: cubic between the tiles' centres."""
    size = (width, height)
    return np.stack([cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_CUBIC) for plane in grid])


def soft_border(frame: np.ndarray, border: int) -> np.ndarray:
    """The frame with `border` pixels around it: its edge, blurred more the farther out, without a visible mirror."""
    padded = cv2.copyMakeBorder(frame, border, border, border, border, cv2.BORDER_REPLICATE)
    height, width = frame.shape[:2]
    y = np.maximum(np.abs(np.arange(height + 2 * border) - border - (height - 1) / 2) - (height - 1) / 2, 0)
    x = np.maximum(np.abs(np.arange(width + 2 * border) - border - (width - 1) / 2) - (width - 1) / 2, 0)
    distance = np.maximum(y[:, None], x[None]).astype(np.float32)
    result, blurred = padded.astype(np.float32), padded.astype(np.float32)
    for radius in (4, 12, 36):
        blurred = cv2.GaussianBlur(blurred, (0, 0), radius, borderType=cv2.BORDER_REPLICATE)
        share = np.clip(distance / (2.0 * radius), 0, 1)[..., None]
        result += share * (blurred - result)
    result[border : border + height, border : border + width] = frame
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)
