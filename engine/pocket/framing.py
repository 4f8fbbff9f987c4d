"""Which part of a picture is a film's frame, and how far the camera may go before the picture ends.

The frame is cut from the creator's picture with a small margin, so that there is something beyond it to move to; what
the film's shape cuts off is room as well. Moves shorten so that the frame never leaves the picture: nothing is
invented.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from engine.domain import Resolution
from engine.pocket.motion import Motion

MARGIN = 1.12  # the picture is so much larger than the frame, in the direction where it fits more tightly
LENDING = 1.2  # a move along a tight side may zoom in by so much to make room for itself
FINEST = 0.4  # pixels of the picture to a pixel of the film, at the deepest zoom
LEAST_DEEPEST = 2.0  # but a small picture may be magnified by so much
TOLERANCE = 1e-6
SLACK = 1e-3  # of half a frame: a move along an edge where the frame already rests is not told from rounding


@dataclass(frozen=True)
class Framing:
    """The frame's box in the picture, in pixels: left, top, width, height; the picture's size; the film's."""

    left: float
    top: float
    width: float
    height: float
    picture_width: int
    picture_height: int
    resolution: Resolution

    @classmethod
    def of(cls, width: int, height: int, resolution: Resolution, margin: float = MARGIN) -> "Framing":
        """The largest box of the film's shape in the middle of a picture of `width` × `height`, less the margin."""
        scale = max(resolution.width / width, resolution.height / height) * margin
        box_width, box_height = resolution.width / scale, resolution.height / scale
        left, top = (width - box_width) / 2, (height - box_height) / 2
        return cls(left, top, box_width, box_height, width, height, resolution)

    @property
    def aspect(self) -> float:
        return self.resolution.width / self.resolution.height

    @property
    def room(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom edge of the picture in half-frame units: −1, 1, −1, 1 without any room."""
        x = (2 * (0 - self.left) / self.width - 1, 2 * (self.picture_width - self.left) / self.width - 1)
        y = (2 * (0 - self.top) / self.height - 1, 2 * (self.picture_height - self.top) / self.height - 1)
        return (*x, *y)

    @property
    def deepest(self) -> float:
        """The largest log zoom: closer there is too little to see."""
        return math.log(max(LEAST_DEEPEST, self.width / self.resolution.width / FINEST))


def stay_inside(clip: Motion, start: Motion, framing: Framing) -> tuple[Motion, float]:
    """`clip`, relative to its first frame, with its camera shortened so that `clip.after(start)` keeps to the picture.

    Also the share of the move that is left, 1 when nothing had to give way. Every component is scaled as a whole, so
    that the move keeps its timing and comes to rest before the edge. A move along a side without room first zooms in.
    """
    wanted = clip.camera
    camera = wanted.copy()
    begin = start.camera[0]
    left, right, top, bottom = framing.room
    half_width, half_height = (right - left) / 2, (bottom - top) / 2
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    aspect = clip.aspect

    def reach(log_zoom: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Half extents (n, 2) of the turned frame."""
        cos, sin, zoom = np.abs(np.cos(angle)), np.abs(np.sin(angle)), np.exp(log_zoom)
        return np.stack([(cos + sin / aspect) / zoom, (cos + sin * aspect) / zoom], -1)

    # The turned frame must fit at all: first less zooming out, then a little zooming in.
    angle = begin[3] + camera[:, 3]
    fits = np.log((reach(0.0 * angle, angle) / [half_width, half_height]).max(-1))  # the smallest log zoom that does
    camera[:, 2] = _shortened(camera[:, 2], begin[2], np.minimum(fits, begin[2]), np.full(len(camera), framing.deepest))
    camera[:, 2] = np.maximum(camera[:, 2], fits - begin[2])
    # Then the way: the centre of the frame may go as far as the frame's edge meets the picture's.
    goal = replace(clip, camera=camera).after(start).camera[:, :2] - middle
    size = np.array([half_width, half_height])
    lacking = np.abs(goal) + reach(begin[2] + camera[:, 2], angle) - size
    if (lacking > TOLERANCE).any():
        camera[:, 2] += _loan(goal, reach(begin[2] + camera[:, 2], angle), size, wanted, framing.deepest - begin[2])
    free = np.maximum(size - reach(begin[2] + camera[:, 2], angle), 0.0)
    origin = begin[:2] - middle
    goal = replace(clip, camera=camera).after(start).camera[:, :2] - middle
    way = goal - origin
    for axis in range(2):
        way[:, axis] = _shortened(way[:, axis], origin[axis], -free[:, axis], free[:, axis], SLACK)
    final = np.clip(origin + way, -free, free) + middle
    limited = replace(start[np.zeros(len(camera), int)], camera=np.concatenate([final, begin[2:] + camera[:, 2:]], 1))
    camera[:, :2] = limited.since(start).camera[:, :2]
    asked, given = _length(wanted), _length(camera - (camera[:, 2:3] - wanted[:, 2:3]) * [0, 0, 1, 0])
    zoom_asked, zoom_given = (
        np.abs(wanted[:, 2]).max(),
        np.abs(np.minimum(np.abs(camera[:, 2]), np.abs(wanted[:, 2]))).max(),
    )
    shares = [given / asked if asked > 0.02 else 1.0, zoom_given / zoom_asked if zoom_asked > 0.02 else 1.0]
    return replace(clip, camera=camera), float(min(1.0, *shares))


def _shortened(path: np.ndarray, start: float, low: np.ndarray, high: np.ndarray, slack: float = 0.0) -> np.ndarray:
    """The path (n,) from 0, scaled so that start + path stays within low … high at every frame, or `slack` beyond."""
    ahead = np.where(path > 0, high - start, start - low)
    length = np.abs(path)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(length > TOLERANCE, (np.maximum(ahead, 0) + slack) / length, 1.0)
    return path * min(1.0, shares.min())


def _loan(goal: np.ndarray, reach: np.ndarray, size: np.ndarray, wanted: np.ndarray, most: float) -> np.ndarray:
    """Log zoom (n,) that is lent to a move: as much as it lacks room at its far end, in step with its own progress."""
    needed = reach / np.maximum(size - np.abs(goal), TOLERANCE)
    peak = min(math.log(LENDING), max(most, 0.0), max(float(np.log(needed.max())), 0.0))
    length = np.hypot(wanted[:, 0], wanted[:, 1]) + np.abs(wanted[:, 3])
    return peak * length / max(length.max(), TOLERANCE)


def _length(camera: np.ndarray) -> float:
    return float(np.hypot(camera[:, 0], camera[:, 1]).max())
