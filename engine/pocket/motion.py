"""Camera, light and living motion as numbers: how a frame is made of a picture, and how such descriptions combine.

Everything is relative: a `Motion` tells how each of n frames is made of one other picture, its base. Of a clip the base
is its first frame; of a film it is the creator's picture, and then it is called a state. `after` puts one behind the
other, so that a film of any length is rendered from the picture in one resampling (arXiv 2510.09212 hands over frames;
SVI 2.0 Pro hands over latents; this hands over states).

Positions (x, y) are in half-frame units: the frame spans [−1, 1] in both. Camera: tx, ty, log zoom, angle in radians; a
point p of the frame shows the base at A p + t, A a rotation divided by the zoom (First Order Motion Model, 2019, with
one similarity). Similarities compose to similarities, so camera moves are exact however many there are. Light: pixels
in [−1, 1] split into luma L and chroma B − L, R − L; log gains of luma and chroma, then for each of the three an offset
and its slopes along x and y (the affine colour of HDRnet, 2017, over the whole frame). Living motion: LEVELS of what
moves in the picture, each in [0, 1], and the wind. Local: a flow and offsets on a coarse grid, for what is none of
these.
"""

from dataclasses import dataclass, replace

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])
CAMERA = ("tx", "ty", "log zoom", "angle")
LIGHT = (
    "gain L",
    "gain C",
    "L",
    "B",
    "R",
    "L along x",
    "B along x",
    "R along x",
    "L along y",
    "B along y",
    "R along y",
)
LEVELS = ("ripple", "sway", "drift", "haze", "snow", "rain", "twinkle", "calm")
CALM = LEVELS.index("calm")
WIND = ("direction", "strength")
CLOCK = ("seconds", "blown")  # of living motion since the film began, and how far the wind has carried things meanwhile
MOST = 1e6  # larger numbers are no motion
LOCAL = 5  # flow x, y; offsets L, B, R
_GAINS = [0, 1, 1]  # which gain belongs to each of L, B, R


@dataclass(frozen=True)
class Motion:
    """n frames relative to their base; float64. camera (n, 4), light (n, 11), levels (n, 8), wind (n, 2), clock (n, 2),
    local (n, 5, h, w) or None; aspect: width / height of the frame."""

    camera: np.ndarray
    light: np.ndarray
    levels: np.ndarray
    wind: np.ndarray
    clock: np.ndarray
    aspect: float
    local: np.ndarray | None = None

    @classmethod
    def still(cls, count: int, aspect: float) -> "Motion":
        """`count` frames that are their base."""
        sizes = (len(CAMERA), len(LIGHT), len(LEVELS), len(WIND), len(CLOCK))
        return cls(*(np.zeros((count, size)) for size in sizes), aspect)

    def __len__(self) -> int:
        return len(self.camera)

    def __getitem__(self, frames: slice | np.ndarray) -> "Motion":
        """Some of the frames, still `n`-dimensional: use a slice or indices."""
        local = None if self.local is None else self.local[frames]
        parts = (self.camera, self.light, self.levels, self.wind, self.clock)
        return Motion(*(part[frames] for part in parts), self.aspect, local)

    def after(self, before: "Motion") -> "Motion":
        """These frames relative to the base of `before`, one frame that is their own base."""
        matrix, shift = linear(before.camera, self.aspect)
        own, own_shift = linear(self.camera, self.aspect)
        camera = before.camera + self.camera
        camera[:, :2] = shift + (matrix @ own_shift[..., None])[..., 0]
        light = np.broadcast_to(before.light, self.light.shape)
        moved = _moved(light, own, own_shift)
        whole = self.light + moved
        whole[:, 2:] = self.light[:, 2:] + _spread(np.exp(self.light[:, :2])) * moved[:, 2:]
        levels = np.maximum(before.levels * (1 - self.levels[:, CALM : CALM + 1]), self.levels)
        levels[:, CALM] = 0.0
        return replace(
            self,
            camera=camera,
            light=whole,
            levels=levels,
            wind=self._wind_after(before),
            clock=before.clock + self.clock,
            local=_local_after(before, self, matrix, own, own_shift),
        )

    def since(self, before: "Motion") -> "Motion":
        """The reverse of `after`: these frames relative to `before`, one frame with the same base.

        Camera and light; what is alive is told by levels, which need no reverse, and the local part is left out.
        """
        matrix, shift = linear(before.camera, self.aspect)
        inverse = np.linalg.inv(matrix)
        camera = self.camera - before.camera
        camera[:, :2] = (inverse @ (self.camera[:, :2] - shift)[..., None])[..., 0]
        own, own_shift = linear(camera, self.aspect)
        moved = _moved(np.broadcast_to(before.light, self.light.shape), own, own_shift)
        light = self.light - moved
        light[:, 2:] = self.light[:, 2:] - _spread(np.exp(light[:, :2])) * moved[:, 2:]
        return replace(self, camera=camera, light=light, clock=self.clock - before.clock, local=None)

    def _wind_after(self, before: "Motion") -> np.ndarray:
        """The wind that blows: the one that was there gives way as far as this clip brings another."""
        share = np.clip(self.wind[:, 1:], 0, 1)
        direction = (1 - share) * before.wind[:, :1] + share * self.wind[:, :1]
        return np.concatenate([direction, np.maximum(before.wind[:, 1:], self.wind[:, 1:])], axis=1)


def joined(earlier: Motion, later: Motion) -> Motion:
    """The frames of both, one after the other; they have the same base."""
    names = ("camera", "light", "levels", "wind", "clock")
    parts = (np.concatenate([getattr(earlier, name), getattr(later, name)]) for name in names)
    local = None
    if earlier.local is not None or later.local is not None:
        shape = (later.local if earlier.local is None else earlier.local).shape[1:]
        halves = (np.zeros((len(one), *shape)) if one.local is None else one.local for one in (earlier, later))
        local = np.concatenate(list(halves))
    return Motion(*parts, later.aspect, local)


def linear(camera: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """A (n, 2, 2) and t (n, 2) of cameras (n, 4): the frame's point p shows the base at A p + t."""
    zoom, angle = np.exp(camera[:, 2]), camera[:, 3]
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    matrix = np.stack([np.stack([cos, -sin / aspect], -1), np.stack([sin * aspect, cos], -1)], 1)
    return matrix, camera[:, :2]


def _moved(light: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Light (n, 11) of a picture as seen at A p + t: its slopes turn and its offsets change with the place."""
    slopes = np.stack([light[:, 5:8], light[:, 8:11]], -1)  # (n, 3, xy)
    moved = light.copy()
    moved[:, 2:5] += (slopes * shift[:, None]).sum(-1)
    turned = slopes @ matrix
    moved[:, 5:8], moved[:, 8:11] = turned[..., 0], turned[..., 1]
    return moved


def _spread(gains: np.ndarray) -> np.ndarray:
    """Gains (n, 2) beside each offset and slope they scale: (n, 9)."""
    return np.tile(gains[:, _GAINS], 3)


def _local_after(
    before: Motion, own: Motion, matrix: np.ndarray, own_matrix: np.ndarray, own_shift: np.ndarray
) -> np.ndarray | None:
    if before.local is None and own.local is None:
        return None
    shape = (before.local if own.local is None else own.local).shape[2:]
    y, x = (2 * (np.arange(size) + 0.5) / size - 1 for size in shape)
    places = np.stack(np.meshgrid(x, y))  # (2, h, w)
    flow = np.zeros((len(own), LOCAL, *shape)) if own.local is None else own.local
    result = np.empty((len(own), LOCAL, *shape))
    for index in range(len(own)):
        at = np.einsum("ij,jhw->ihw", own_matrix[index], places) + own_shift[index][:, None, None] + flow[index, :2]
        below = np.zeros((LOCAL, *shape)) if before.local is None else sample_grid(before.local[0], at)
        result[index, :2] = np.einsum("ij,jhw->ihw", matrix[0], flow[index, :2]) + below[:2]
        gains = np.exp(own.light[index, :2])[_GAINS]
        result[index, 2:] = flow[index, 2:] + gains[:, None, None] * below[2:]
    return result


def sample_grid(grid: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values (c, …) of `grid` (c, h, w), bilinear at `places` (2, …) in half-frame units; the edge goes on outside."""
    _, height, width = grid.shape
    x = ((places[0] + 1) * width / 2 - 0.5).clip(0, width - 1)
    y = ((places[1] + 1) * height / 2 - 0.5).clip(0, height - 1)
    left, top = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    dx, dy = x - left, y - top
    upper = grid[:, top, left] * (1 - dx) + grid[:, top, right] * dx
    lower = grid[:, bottom, left] * (1 - dx) + grid[:, bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def to_arrays(motion: Motion) -> dict[str, np.ndarray]:
    """Plain float32 arrays to be stored; `from_arrays` reads them back."""
    parts = {name: getattr(motion, name) for name in ("camera", "light", "levels", "wind", "clock")}
    if motion.local is not None:
        parts["local"] = motion.local
    arrays = {name: np.ascontiguousarray(part, dtype=np.float32) for name, part in parts.items()}
    return arrays | {"aspect": np.array([motion.aspect], np.float32)}


def last_of(arrays: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """The last `count` of the states that a clip keeps: what the next one is handed."""
    return {name: part if part.ndim == 1 else part[-count:] for name, part in arrays.items()}


def from_arrays(arrays: dict[str, np.ndarray]) -> Motion:
    """Raises KeyError or ValueError for arrays that are no motion."""
    sizes = {"camera": len(CAMERA), "light": len(LIGHT), "levels": len(LEVELS), "wind": len(WIND), "clock": len(CLOCK)}
    count, aspect = len(arrays["camera"]), float(arrays["aspect"][0])
    if not count or not 0.01 < aspect < 100:
        raise ValueError(f"{count} frames of aspect {aspect} are no motion")
    for name, size in sizes.items():
        array = arrays[name]
        if array.shape != (count, size) or array.dtype.kind != "f" or not (np.abs(array) < MOST).all():
            raise ValueError(f"{name} {array.shape} is not ({count}, {size}) numbers")
    local = arrays.get("local")
    if local is not None and (local.ndim != 4 or local.shape[:2] != (count, LOCAL) or not np.isfinite(local).all()):
        raise ValueError(f"local {local.shape} is not ({count}, {LOCAL}, h, w)")
    parts = [arrays[name].astype(np.float64) for name in sizes]
    return Motion(*parts, aspect, None if local is None else local.astype(np.float64))
