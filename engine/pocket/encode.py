"""From pixels to motion: how the frames of a clip are made of its first one. For handed-over frames and real videos.

Coarse to fine: a Gauss–Newton fit of the camera's similarity and the affine light over the whole frame (inverse problem
of `render`; Lucas and Kanade, 1981, with light as in HDRnet), robust against what moves by itself; then, where that
leaves much and it explains most of it, a damped flow and offsets on the coarse grid. Fitting the grid alone lets flat
skies drift. Plain numpy and OpenCV; frames are uint8 (H, W, 3); planes are L, B − L, R − L of pixels in [−1, 1].
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from engine.pocket import world
from engine.pocket.motion import CAMERA, LIGHT, LOCAL, LUMA, Motion, linear

FIT_SIDE = 320  # the fit looks at frames no larger than this
LEAST_SIDE = 16
ITERATIONS = 10
DOUBT = 0.04  # an error of so much counts a quarter, once most pixels fit better than that
HOLD = 1e-3  # in squared pixels: what a flat picture does not tell stays as it was
LOST = 0.03  # of the target's variance: a coarse fit that leaves more searches again from other places
WAYS, ZOOMS = (-0.5, -0.25, 0.0, 0.25, 0.5), (-0.35, 0.0, 0.35)  # where it searches: half-frame units, log zoom
CLIPPED = 0.05  # what a pixel counts that the light has pushed to black or white: its value says only "at least"
LOCAL_ERROR = 0.003  # mean square error from which on the local part is tried
LOCAL_GAIN = 0.5  # it must leave no more than so much of that
LOCAL_ROUNDS, LOCAL_LEVELS = 4, 3
LOCAL_STEP = 0.05  # of flow, half-frame units a round
LOCAL_DAMPING = (0.3, 0.3, 0.02, 0.02, 0.02)  # flow as mean squared gradient a half-frame unit; offsets
NUM_CAMERA = len(CAMERA)
NUM_FITTED = NUM_CAMERA + len(LIGHT)
_TO_PLANES = np.stack([LUMA, [0, 0, 1] - LUMA, [1, 0, 0] - LUMA]).astype(np.float32)
_TO_RGB = np.linalg.inv(_TO_PLANES.astype(np.float64)).astype(np.float32)
_OF_PLANE = [[0, 1, 2, 3, 4 + (plane > 0), *(6 + plane + 3 * k for k in range(3))] for plane in range(3)]
_LIMITS = np.array([0.15, 0.15, 0.15, 0.08, 0.7, 0.7, *[0.7] * 9])  # of one step


@dataclass(frozen=True)
class _Level:
    """planes float32 (h, w, 3); known (h, w): 1 where no pixel of the frame was clipped, CLIPPED where some were."""

    planes: np.ndarray
    known: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.planes.shape[:2]


def fit_clip(frames: np.ndarray, grid: tuple[int, int]) -> Motion:
    """The motion of every frame (F, H, W, 3) relative to frame 0; the local part, where there is one, on `grid`.

    Only the last frame of each latent frame is fitted, the others follow the spline. F = 4 n + 1.
    """
    knots = frames[:: world.GROUP]
    first, others = _pyramid(knots[0]), [_pyramid(knot) for knot in knots[1:]]
    fitted = [np.zeros(NUM_FITTED)]
    for index, other in enumerate(others, start=1):
        if np.array_equal(knots[index], knots[index - 1]):
            fitted.append(fitted[-1])
        else:
            fitted.append(_fit(first, other, fitted[-1]))
    values = np.stack(fitted)
    motion = Motion.still(len(knots), frames.shape[2] / frames.shape[1])
    motion.camera[:], motion.light[:] = values[:, :NUM_CAMERA], values[:, NUM_CAMERA:]
    local = _local(first, others, values[1:], grid)
    return world.at_frames(replace(motion, local=local))


def fit_frame(first: np.ndarray, other: np.ndarray) -> Motion:
    """How `other` is made of `first`: one entry, camera and light."""
    motion = Motion.still(1, first.shape[1] / first.shape[0])
    if not np.array_equal(first, other):
        values = _fit(_pyramid(first), _pyramid(other), np.zeros(NUM_FITTED))
        motion.camera[0], motion.light[0] = values[:NUM_CAMERA], values[NUM_CAMERA:]
    return motion


def unexplained(first: np.ndarray, other: np.ndarray, motion: Motion) -> float:
    """Mean square error, pixels in [−1, 1], that `motion` (one entry) leaves of `other` inside what `first` shows."""
    source, target = _pyramid(first)[-1], _pyramid(other)[-1]
    local = None if motion.local is None else motion.local[0]
    _, made, inside = _made(source, np.concatenate([motion.camera[0], motion.light[0]]), target.shape, local)
    return float(np.square(target.planes - made)[inside].mean()) if inside.any() else float("inf")


def _pyramid(frame: np.ndarray) -> list[_Level]:
    """The frame at FIT_SIDE, and halved again and again; the smallest first."""
    scale = min(1.0, FIT_SIDE / max(frame.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    clipped = ((frame == 0) | (frame == 255)).any(-1).astype(np.float32)
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    if (height, width) != frame.shape[:2]:
        small = cv2.resize(frame.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        clipped = cv2.resize(clipped, (width, height), interpolation=cv2.INTER_AREA)
    planes = cv2.transform(small / 127.5 - 1, _TO_PLANES)
    levels = [_Level(planes, np.where(clipped < 0.01, np.float32(1), np.float32(CLIPPED)))]
    while min(levels[0].shape) // 2 >= LEAST_SIDE:
        height, width = (side // 2 for side in levels[0].shape)
        planes = cv2.resize(levels[0].planes, (width, height), interpolation=cv2.INTER_AREA)
        known = cv2.resize(levels[0].known, (width, height), interpolation=cv2.INTER_AREA)
        levels.insert(0, _Level(planes, known))
    return levels


def _places(values: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """x, y of each pixel (h, w) and the places A p + t (n, h, w) that it shows, half-frame units."""
    height, width = shape
    x, y = np.meshgrid(2 * (np.arange(width) + 0.5) / width - 1, 2 * (np.arange(height) + 0.5) / height - 1)
    matrix, shift = linear(values[:, :NUM_CAMERA], width / height)
    a, b, c, d = (matrix[:, row, column, None, None] for row in (0, 1) for column in (0, 1))
    return x, y, a * x + b * y + shift[:, 0, None, None], c * x + d * y + shift[:, 1, None, None]


def _made(
    source: _Level, values: np.ndarray, shape: tuple[int, int], local: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `values` (15,) and a local part (5, rows, columns) make of `source`: its planes moved, and moved and lit
    (h, w, 3), clamped as pixels are, and which pixels (h, w) show a place inside the source."""
    warped, lit, inside = _all_made(source, values[None], shape, local)
    return warped[0], lit[0], inside[0]


def _all_made(
    source: _Level, values: np.ndarray, shape: tuple[int, int], local: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_made` for each of `values` (n, 15): all at once."""
    x, y, across, down = _places(values, shape)
    detail = None if local is None else _upsampled(local, shape)
    if detail is not None:
        across, down = across + detail[..., 0], down + detail[..., 1]
    rows, columns = source.shape
    warped = cv2.remap(
        source.planes,
        ((across + 1) * columns / 2 - 0.5).astype(np.float32).reshape(-1, shape[1]),
        ((down + 1) * rows / 2 - 0.5).astype(np.float32).reshape(-1, shape[1]),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    ).reshape(*across.shape, 3)
    inside = (np.abs(across) < 1 - 2 / columns) & (np.abs(down) < 1 - 2 / rows)
    light = values[:, NUM_CAMERA:, None, None]
    lit = warped * np.exp(values[:, None, None, [NUM_CAMERA, NUM_CAMERA + 1, NUM_CAMERA + 1]]).astype(np.float32)
    for plane in range(3):
        lit[..., plane] += (light[:, 2 + plane] + light[:, 5 + plane] * x + light[:, 8 + plane] * y).astype(np.float32)
    if detail is not None:
        lit = lit + detail[..., 2:]
    rgb = cv2.transform(lit.reshape(-1, shape[1], 3), _TO_RGB).clip(-1, 1)
    return warped, cv2.transform(rgb, _TO_PLANES).reshape(lit.shape), inside


def _fit(first: list[_Level], other: list[_Level], start: np.ndarray) -> np.ndarray:
    values = _descend(first[0], other[0], _relit(first[0], other[0], start[None])[0])
    if _left(first[0], other[0], values[None])[0] > LOST:
        values = _search(first[0], other[0], values)
    for source, target in zip(first[1:], other[1:], strict=True):
        values = _descend(source, target, values)
    return values


def _search(source: _Level, target: _Level, values: np.ndarray) -> np.ndarray:
    """The best of descents from the three most promising of many other cameras, and of `values`."""
    cameras = np.zeros((len(WAYS) ** 2 * len(ZOOMS), NUM_FITTED))
    cameras[:, :3] = [(x, y, zoom) for x in WAYS for y in WAYS for zoom in ZOOMS]
    starts = _relit(source, target, cameras)
    promising = np.argsort(_left(source, target, starts), kind="stable")[:3]
    found = np.stack([values, *(_descend(source, target, start) for start in starts[promising])])
    return found[np.argmin(_left(source, target, found))]


def _left(source: _Level, target: _Level, values: np.ndarray) -> np.ndarray:
    """Share of the target's variance that each of `values` (n, 15) leaves, of what lies inside; much of it must."""
    _, lit, inside = _all_made(source, values, target.shape)
    weight = inside * target.known
    error = np.square(target.planes - lit).sum(-1)
    spread = np.square(target.planes - target.planes.mean((0, 1))).sum(-1).mean()
    total = weight.sum((1, 2))
    shares = (weight * error).sum((1, 2)) / np.maximum(total, 1e-12) / max(float(spread), 1e-4)
    return np.where(total < 0.3 * max(float(target.known.sum()), 1e-6), np.inf, shares)


def _relit(source: _Level, target: _Level, values: np.ndarray) -> np.ndarray:
    """The cameras of `values` (n, 15) with gains and offsets, no slopes, that fit the moments of what both show: no
    other guess of a light is needed."""
    plain = np.concatenate([values[:, :NUM_CAMERA], np.zeros((len(values), len(LIGHT)))], axis=1)
    warped, _, inside = _all_made(source, plain, target.shape)
    weight = (inside * target.known + 1e-6)[..., None]
    weight = weight / weight.sum((1, 2), keepdims=True)
    mean, goal = ((weight * planes).sum((1, 2), keepdims=True) for planes in (warped, target.planes))
    spread = (weight * np.square(warped - mean)).sum((1, 2)) + 1e-6
    wanted = (weight * np.square(target.planes - goal)).sum((1, 2)) + 1e-6
    ratios = np.stack([wanted[:, 0] / spread[:, 0], wanted[:, 1:].sum(1) / spread[:, 1:].sum(1)], axis=1) ** 0.5
    plain[:, NUM_CAMERA : NUM_CAMERA + 2] = np.log(ratios)
    plain[:, NUM_CAMERA + 2 : NUM_CAMERA + 5] = goal[:, 0, 0] - ratios[:, [0, 1, 1]] * mean[:, 0, 0]
    return plain


def _descend(source: _Level, target: _Level, values: np.ndarray) -> np.ndarray:
    """Gauss–Newton steps (Levenberg–Marquardt's damping) until they are of no account."""
    damping, best, cost = 1e-4, values, np.inf
    normal = right = doubt = None
    for _ in range(ITERATIONS):
        warped, lit, inside = _made(source, values, target.shape)
        error = target.planes - lit
        square = np.square(error).sum(-1)
        open_ = inside * target.known + 1e-6
        if doubt is None:
            doubt = max(DOUBT**2, 3 * _mean(square, open_))
        # Geman and McClure's cost: bounded, so that what moves by itself has little say
        now = float((open_ * square / (1 + square / doubt)).sum() / open_.sum())
        if now > cost:
            damping *= 30
        else:
            damping, best, cost = max(damping / 10, 1e-7), values, now
            doubt = max(DOUBT**2, min(doubt, 3 * _mean(square, open_)))
            cost = float((open_ * square / (1 + square / doubt)).sum() / open_.sum())
            normal, right = _normal(warped, error, open_ / np.square(1 + square / doubt), values)
        step = np.linalg.solve(normal + np.diag(damping * normal.diagonal() + HOLD), right)
        step *= min(1.0, float((_LIMITS / np.maximum(np.abs(step), 1e-12)).min()))
        if np.abs(step[:NUM_CAMERA]).max() < 2e-5 and np.abs(step[NUM_CAMERA:]).max() < 1e-4:
            return best + step
        values = best + step
    return best


def _mean(values: np.ndarray, weight: np.ndarray) -> float:
    return float((weight * values).sum() / weight.sum())


def _normal(
    warped: np.ndarray, error: np.ndarray, weight: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normal matrix (15, 15) and right side (15,) of a step; each plane knows its own eight numbers."""
    height, width = weight.shape
    x, y, across, down = (part.astype(np.float32) for part in _places(values[None], (height, width)))
    across, down = across[0], down[0]
    matrix, shift = linear(values[None, :NUM_CAMERA], width / height)
    back = np.linalg.inv(matrix[0])  # the source's gradient of that of the moved picture
    from_x, from_y = across - np.float32(shift[0, 0]), down - np.float32(shift[0, 1])
    turned_x, turned_y = -from_y * (height / width), from_x * (width / height)
    one, flat = np.ones(x.size, np.float32), weight.astype(np.float32).ravel()
    normal, right = np.zeros((NUM_FITTED, NUM_FITTED)), np.zeros(NUM_FITTED)
    for plane, own in enumerate(_OF_PLANE):
        picture = np.ascontiguousarray(warped[..., plane])
        gain = np.float32(np.exp(values[NUM_CAMERA + (plane > 0)]))
        gradient = _gradient(picture)
        along_x = gain * (back[0, 0] * gradient[0] + back[1, 0] * gradient[1]).astype(np.float32)
        along_y = gain * (back[0, 1] * gradient[0] + back[1, 1] * gradient[1]).astype(np.float32)
        jacobian = np.stack(
            [
                along_x.ravel(),
                along_y.ravel(),
                -(along_x * from_x + along_y * from_y).ravel(),
                (along_x * turned_x + along_y * turned_y).ravel(),
                gain * picture.ravel(),
                one,
                x.ravel(),
                y.ravel(),
            ]
        )
        weighted = jacobian * flat
        normal[np.ix_(own, own)] += weighted @ jacobian.T
        right[own] += weighted @ error[..., plane].ravel()
    return normal, right


def _gradient(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a plane (h, w), along x and y, a half-frame unit."""
    height, width = picture.shape
    kernel = np.array([[-0.5, 0.0, 0.5]], np.float32)
    along_x = cv2.filter2D(picture, -1, kernel * (width / 2), borderType=cv2.BORDER_REPLICATE)
    return along_x, cv2.filter2D(picture, -1, kernel.T * (height / 2), borderType=cv2.BORDER_REPLICATE)


def _local(
    first: list[_Level], others: list[list[_Level]], values: np.ndarray, grid: tuple[int, int]
) -> np.ndarray | None:
    """The local part (f, 5, rows, columns), zero at frame 0, or None where it would not clearly help."""
    before = [_error(first[-1], other[-1], one, None) for other, one in zip(others, values, strict=True)]
    if not before or max(before) < LOCAL_ERROR:
        return None
    found = [np.zeros((LOCAL, *grid))]
    for other, one in zip(others, values, strict=True):
        local = found[-1]
        for source, target in zip(first[-LOCAL_LEVELS:], other[-LOCAL_LEVELS:], strict=True):
            local = _fit_local(source, target, one, local)
        found.append(local)
    after = [_error(first[-1], other[-1], *two) for other, *two in zip(others, values, found[1:], strict=True)]
    return np.stack(found) if sum(after) < LOCAL_GAIN * sum(before) else None


def _error(source: _Level, target: _Level, values: np.ndarray, local: np.ndarray | None) -> float:
    _, lit, inside = _made(source, values, target.shape, local)
    weight = inside * target.known + 1e-6
    return _mean(np.square(target.planes - lit).mean(-1), weight)


def _fit_local(source: _Level, target: _Level, values: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Flow and offsets (5, rows, columns) that explain what is left, from `local` on, held to zero."""
    grid = local.shape[1:]
    damping = np.diag(LOCAL_DAMPING)
    matrix, _ = linear(values[None, :NUM_CAMERA], target.shape[1] / target.shape[0])
    back = np.linalg.inv(matrix[0])
    gains = np.exp(values[[NUM_CAMERA, NUM_CAMERA + 1, NUM_CAMERA + 1]])
    for _ in range(LOCAL_ROUNDS):
        warped, lit, inside = _made(source, values, target.shape, local)
        error = target.planes - lit
        square = np.square(error).sum(-1)
        weight = inside * target.known + 1e-6
        weight = weight / np.square(1 + square / max(DOUBT**2, 3 * _mean(square, weight)))
        gradients = [_gradient(np.ascontiguousarray(warped[..., plane])) for plane in range(3)]
        slopes = np.einsum("ji,pjhw->iphw", back, np.array(gradients)) * gains[:, None, None]  # (2, 3, h, w)
        normal, right = np.zeros((*grid, LOCAL, LOCAL)), np.zeros((*grid, LOCAL))
        for a in range(2):
            right[..., a] = _tiles(weight * (slopes[a] * np.moveaxis(error, -1, 0)).sum(0), grid)
            for b in range(a, 2):
                normal[..., a, b] = normal[..., b, a] = _tiles(weight * (slopes[a] * slopes[b]).sum(0), grid)
            for plane in range(3):
                normal[..., a, 2 + plane] = normal[..., 2 + plane, a] = _tiles(weight * slopes[a, plane], grid)
        for plane in range(3):
            normal[..., 2 + plane, 2 + plane] = _tiles(weight, grid)
            right[..., 2 + plane] = _tiles(weight * error[..., plane], grid)
        right -= np.moveaxis(local, 0, -1) @ damping
        step = np.linalg.solve(normal + damping, right[..., None])[..., 0]
        step *= np.minimum(1, LOCAL_STEP / np.maximum(np.abs(step[..., :2]).max(-1, keepdims=True), 1e-12))
        local = local + np.moveaxis(step, -1, 0)
    return local


def _tiles(plane: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Means over windows of two tiles around each of the grid's tiles."""
    height, width = plane.shape
    window = (max(1, round(2 * width / grid[1])), max(1, round(2 * height / grid[0])))
    smooth = cv2.blur(plane.astype(np.float32), window, borderType=cv2.BORDER_REFLECT)
    rows = ((np.arange(grid[0]) + 0.5) * height / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + 0.5) * width / grid[1]).astype(int)
    return smooth[np.ix_(rows, columns)]


def _upsampled(local: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(5, rows, columns) as float32 (h, w, 5), as `render` does it."""
    tiles = np.ascontiguousarray(np.moveaxis(local, 0, -1), np.float32)
    planes = [cv2.resize(tiles[..., k], shape[::-1], interpolation=cv2.INTER_CUBIC) for k in range(LOCAL)]
    return np.stack(planes, -1)
