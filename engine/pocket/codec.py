"""Between pixels, motion and the latents of the embedded model.

Latents hold no pixels: they say how the frames of a clip are made of its first one, and what that one looks like. To
draw a clip takes the picture too; see `render`. Shapes: pixels (B, 3, F, H, W) in [−1, 1] with F = 4n + 1.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from engine.diffusion.sampler import draw_noise
from engine.domain import ClipRequest
from engine.models.components import Drawn
from engine.pocket import world
from engine.pocket.encode import fit_clip, fit_frame
from engine.pocket.framing import Framing, stay_inside
from engine.pocket.layout import CHANNELS, FIELDS, GROUPS, code_of, scales, tied
from engine.pocket.motion import LUMA, Motion, from_arrays, joined, to_arrays
from engine.pocket.render import Canvas
from engine.variants import Padding

TAIL = 5  # frames whose states a take keeps: as many as any variant shares
LITTLE_LEFT = 0.5  # of a camera's move: less is worth telling

LEAST_VARIANCE = 1e-4  # of a tile's pixels: under its logarithm
MEANS = {"picture": (0.0, 0.0, 0.0, -0.9, -1.9, 0.0), "tile": (0.0, 0.0, 0.0, -2.2, -3.2, *[0.0] * 5)}
DEAD_ZONE = {"camera": 0.1, "light": 0.1, "levels": 0.25, "local": 0.3}  # in scaled units: less was not asked for
WHOLE = ("light",)  # a light is asked for as a whole: all of its channels or none
CAPTURE = 0.25  # a camera that ends so near to an amount (as a share of it) ends there
CALM_AIR = 0.02  # a wind below this blows no way
# The way back is told no further than these, about the 99th percentile of each after up to four moves on the held-out
# photographs: a base that is told more than it has seen moves less and less.
WAY_CAMERA = np.array([0.75, 0.65, 0.6, 0.2])
WAY_LIGHT = np.array([1.2, 1.5, 1.7, 1.1, 0.7, 0.05, 0.02, 0.02, 0.25, 0.12, 0.1])
SOFT = 2.0  # full strength from so many times the dead zone on


class FieldCodec:
    """Encodes clips as fields of motion and light on a grid of tiles, and draws them from the picture. No weights.

    The pyramid of the last picture is kept: all clips of a film are drawn from it.
    """

    latent_channels: int = CHANNELS
    temporal_stride: int = world.GROUP

    def __init__(self) -> None:
        self._canvas: tuple[tuple, Canvas] | None = None

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents (B, C, f, h, w) of clips, their fields fitted to the pixels."""
        frames = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()
        grid = world.grid_of(pixels.shape[4], pixels.shape[3])
        return torch.cat([write(fit_clip(clip, grid), first_frame(clip[0])) for clip in frames]).to(pixels.device)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return world.grid_of(width, height)

    def tied(self, noise: Tensor) -> Tensor:
        """Noise as the layout has it; see `layout.tied`."""
        return tied(noise)

    def condition(self, request: ClipRequest, padding: Padding) -> Tensor:
        """See `PictureCodec`: the first frame's content, the known frames' fields, then the padding's."""
        state, known = self._begin(request, padding)
        return _told(request.condition_frames[0], known, state, padding, request.num_frames)

    def told(self, frames: np.ndarray, anchor: np.ndarray | None, num_frames: int) -> Tensor:
        """See `PictureCodec`: what can be seen of the motion between the frames, and of the way back to the anchor."""
        state, known = _seen(frames, anchor)
        return _told(frames[0], known, state, "zeros" if anchor is None else "anchor", num_frames)

    def draw(self, latents: Tensor, request: ClipRequest, check: Callable[[], None] = lambda: None) -> Drawn:
        """See `PictureCodec`. Frames that the clip shares with the one before are drawn from their own states."""
        canvas, states, share = self._states(latents, request)
        frames = np.empty((request.num_frames, request.resolution.height, request.resolution.width, 3), np.uint8)
        for index in range(request.num_frames):
            check()
            frames[index] = canvas.draw_one(states[index : index + 1])
        if not request.is_composed:
            return Drawn(frames, None)
        notice = "" if share > LITTLE_LEFT else f"Clip {request.index + 1}: the camera stops where your picture ends."
        return Drawn(frames, to_arrays(states[-TAIL:]), notice)

    def peek(self, latents: Tensor, request: ClipRequest, frames: Sequence[int]) -> np.ndarray:
        """A few frames, uint8 (n, H, W, 3)."""
        canvas, states, _ = self._states(latents, request)
        return canvas.draw(states, frames)

    def _begin(self, request: ClipRequest, padding: Padding) -> tuple[Motion, Motion]:
        """The state of the first frame, and the known frames' motion relative to it."""
        frames, size = request.condition_frames, request.resolution
        if request.tail_states is not None:
            tail = from_arrays(request.tail_states)
            return tail[:1], tail.since(tail[:1])
        if request.index == 0 and len(frames) == 1:
            still = Motion.still(1, size.width / size.height)
            return still, still
        return _seen(frames, request.anchor if padding == "anchor" else None)

    def _states(self, latents: Tensor, request: ClipRequest) -> tuple[Canvas, Motion, float]:
        """What the clip is drawn from, the state of each frame, and the share of the camera's move that had room."""
        first = request.condition_frames[0]
        _, known = self._begin(request, "zeros")
        code = code_for(request.seed, request.num_frames, tuple(latents.shape[3:]))
        onward = follow(latents[0], mean_of(first_frame(first)), known, code)
        if not request.is_composed:
            return Canvas.of_frame(first), joined(known, onward.after(known[-1:])[1:]), 1.0
        canvas = self._canvas_of(request)
        tail = known if request.tail_states is None else from_arrays(request.tail_states)
        inside, share = stay_inside(onward, tail[-1:], canvas.framing)
        return canvas, joined(tail, blown(inside.after(tail[-1:]), tail[-1:], request.fps)[1:]), share

    def _canvas_of(self, request: ClipRequest) -> Canvas:
        picture = request.picture
        key = (picture.shape, hashlib.blake2b(np.ascontiguousarray(picture)).digest(), request.resolution)
        if self._canvas is None or self._canvas[0] != key:
            framing = Framing.of(picture.shape[1], picture.shape[0], request.resolution)
            self._canvas = (key, Canvas.of(picture, framing))
        return self._canvas[1]


def noise_of(seed: int, num_frames: int, grid: tuple[int, int]) -> Tensor:
    """The noise (1, C, f, h, w) that a clip of this seed starts from, as the studio's backend draws it."""
    return tied(draw_noise((1, CHANNELS, (num_frames - 1) // world.GROUP + 1, *grid), seed, torch.device("cpu")))


def code_for(seed: int, num_frames: int, grid: tuple[int, int]) -> list[float]:
    """What the seed decides of a clip: the code that its noise brings."""
    return code_of(noise_of(seed, num_frames, grid))[0].double().tolist()


def _seen(frames: np.ndarray, anchor: np.ndarray | None) -> tuple[Motion, Motion]:
    """The state of frames[0] relative to the anchor, still without one, and the motion of `frames` relative to it."""
    height, width = frames.shape[1:3]
    still = Motion.still(1, width / height)
    state = still if anchor is None else fit_frame(anchor, frames[0])
    return state, fit_clip(frames, world.grid_of(width, height)) if len(frames) > 1 else still


def _told(frame: np.ndarray, known: Motion, state: Motion, padding: Padding, num_frames: int) -> Tensor:
    """Latents (1, C, f, h, w) that a clip is conditioned on, which begins with `frame` in `state`."""
    first = first_frame(frame)
    return condition_of(content(first, num_frames)[0], known, state, mean_of(first), padding)[None]


def blown(states: Motion, start: Motion, fps: int) -> Motion:
    """The states with their clock: seconds since the film began, and how far the wind has carried what it carries."""
    seconds = np.arange(len(states)) / fps
    speed = states.wind[:, 0] * states.wind[:, 1]
    way = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2) / fps])
    return replace(states, clock=start.clock + np.stack([seconds, way], 1))


def first_frame(frame: np.ndarray) -> Tensor:
    """A frame (H, W, 3) uint8 as the small pixels (1, 3, 16 h, 16 w) in [−1, 1] that `content` describes."""
    return torch.from_numpy(world.shrunk(frame)).float().permute(2, 0, 1)[None]


def content(pictures: Tensor, num_frames: int) -> Tensor:
    """Latents (B, C, f, h, w) of clips that stand still: fields zero, and what `pictures` (B, 3, 16 h, 16 w) look
    like."""
    count, _, height, width = pictures.shape
    side = world.TILE_SIDE
    rows, columns = height // side, width // side
    luma = torch.einsum("bchw,c->bhw", pictures, torch.from_numpy(LUMA).to(pictures))
    parts = torch.stack([luma, pictures[:, 2] - luma, pictures[:, 0] - luma], 1)
    tiles = parts.view(count, 3, rows, side, columns, side)
    mean, variance = tiles.mean((3, 5)), tiles.var((3, 5), unbiased=False)
    latents = pictures.new_zeros(count, CHANNELS, rows, columns)
    latents[:, GROUPS["picture"].channels] = _whole(pictures, luma, parts)[:, :, None, None]
    spreads = torch.stack([variance[:, 0], variance[:, 1:].sum(1)], 1)
    spreads = (spreads + LEAST_VARIANCE).log() / 2
    latents[:, GROUPS["tile"].channels] = torch.cat([mean, spreads, _cosines(tiles[:, 0])], 1)
    for name, means in MEANS.items():
        latents[:, GROUPS[name].channels] -= torch.tensor(means).view(1, -1, 1, 1)
    latents = latents / scales()[..., 0]
    num_latent_frames = (num_frames - 1) // world.GROUP + 1
    latents = latents[:, :, None].repeat(1, 1, num_latent_frames, 1, 1)
    clock = latents[:, GROUPS["clock"].channels]  # views
    clock[:, 0] = torch.from_numpy(world.progress(num_frames)).to(latents).view(-1, 1, 1) * 2 - 1
    clock[:, 1] = torch.arange(num_latent_frames).view(-1, 1, 1) / 10 - 1
    clock[:, 2, 0] = 1.0
    place = latents[:, GROUPS["place"].channels]
    place[:, 0] = 2 * (torch.arange(columns) + 0.5) / columns - 1
    place[:, 1] = (2 * (torch.arange(rows) + 0.5) / rows - 1)[:, None]
    return latents


def _whole(pictures: Tensor, luma: Tensor, parts: Tensor) -> Tensor:
    """(B, 6): means of L, B − L, R − L, log spreads of luma and colour, log aspect; as `world.Statistics`."""
    chroma = pictures - luma[:, None]
    spread = luma.flatten(1).std(1, unbiased=False).clamp(min=1e-3)
    colour = (chroma - chroma.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).sqrt().clamp(min=1e-3)
    aspect = torch.full_like(spread, math.log(pictures.shape[3] / pictures.shape[2]))
    return torch.cat([parts.mean((2, 3)), torch.stack([spread.log(), colour.log(), aspect], 1)], 1)


def _cosines(tiles: Tensor) -> Tensor:
    """(B, 5, h, w): how luma rises, and how it is bent, within each tile (B, h, 16, w, 16)."""
    side = torch.arange(world.TILE_SIDE).to(tiles)
    one, first, second = (
        torch.cos(math.pi * k * (side + 0.5) / world.TILE_SIDE) * (math.sqrt(2) if k else 1.0) for k in range(3)
    )
    pairs = ((first, one), (one, first), (first, first), (second, one), (one, second))
    found = [torch.einsum("bhpwq,p,q->bhw", tiles, down, across) for down, across in pairs]
    return torch.stack(found, 1) / world.TILE_SIDE**2


def put(latents: Tensor, motion: Motion, mean: np.ndarray, frames: slice = slice(None)) -> None:
    """Write `motion`, one entry a latent frame of `frames`, into latents (C, f, h, w).

    mean: of L, B − L, R − L of the first frame. Offsets of light are stored as what the mean becomes, less the mean:
    that is the same for a picture of any contrast.
    """
    light = motion.light.copy()
    light[:, 2:5] += mean * (np.exp(light[:, [0, 1, 1]]) - 1)
    parts = {"camera": motion.camera, "light": light, "levels": motion.levels, "wind": motion.wind}
    for name, values in parts.items():
        group = GROUPS[name]
        scaled = torch.from_numpy(values).to(latents).T / torch.tensor(group.scale).to(latents)[:, None]
        latents[group.channels, frames] = scaled[:, :, None, None].expand(-1, -1, *latents.shape[2:])
    group = GROUPS["local"]
    if motion.local is not None:
        scale = torch.tensor(group.scale).to(latents).view(-1, 1, 1, 1)
        latents[group.channels, frames] = torch.from_numpy(motion.local).to(latents).transpose(0, 1) / scale


def put_paths(latents: Tensor, amounts: np.ndarray) -> None:
    """Write into latents (C, f, h, w) how much of each of `world.PATHS` the clip takes."""
    group = GROUPS["paths"]
    latents[group.channels] = torch.from_numpy(amounts / group.scale).to(latents)[:, None, None, None]


def read_paths(latents: Tensor) -> np.ndarray:
    """How much of each of `world.PATHS` latents (C, f, h, w) tell: none, or the nearest of the amounts there are."""
    group = GROUPS["paths"]
    told = latents[group.channels].float().mean((1, 2, 3)).double().cpu().numpy() * group.scale
    amounts = np.array([0.0, *world.AMOUNTS])
    return amounts[np.abs(told[:, None] - amounts).argmin(1)]


def condition_of(content: Tensor, known: Motion, state: Motion, mean: np.ndarray, padding: Padding) -> Tensor:
    """Latents (C, f, h, w) that a clip is conditioned on: the known frames' fields, then the padding's.

    "zeros": nothing changes. "anchor": the way back from the clip's first frame, whose state is `state`, to the
    picture, no further than training has shown it.
    """
    condition = content.clone()
    knots = known[:: world.GROUP]
    if padding == "anchor":
        way_back = told_back(Motion.still(1, state.aspect).since(state))
        repeated = way_back[np.zeros(condition.shape[1] - len(knots), int)]
        put(condition, repeated, mean, slice(len(knots), None))
    put(condition, replace(knots, levels=0 * knots.levels, wind=0 * knots.wind), mean, slice(0, len(knots)))
    condition[FIELDS, 0] = 0.0
    return condition


def told_back(way_back: Motion) -> Motion:
    """As much of a way back as the model is told."""
    camera, light = way_back.camera.clip(-WAY_CAMERA, WAY_CAMERA), way_back.light.clip(-WAY_LIGHT, WAY_LIGHT)
    return replace(way_back, camera=camera, light=light)


def write(motion: Motion, first: Tensor) -> Tensor:
    """Latents (1, C, f, h, w) of a clip with `motion` at every frame, whose first frame looks as `first`."""
    latents = content(first, len(motion))
    put(latents[0], motion[:: world.GROUP], mean_of(first))
    return latents


def mean_of(first: Tensor) -> np.ndarray:
    """Mean of L, B − L, R − L of small pixels (1, 3, h, w)."""
    return world.Statistics.of_small(first[0].permute(1, 2, 0).double().numpy()).mean


def read(latents: Tensor, mean: np.ndarray, aspect: float, *, quiet: bool = True) -> Motion:
    """The motion of each latent frame that latents (C, f, h, w) tell, relative to the first frame.

    quiet: what is so small that nobody asked for it becomes none (see DEAD_ZONE).
    """
    values = {}
    for name in ("camera", "light", "levels", "wind"):
        group = GROUPS[name]
        whole = latents[group.channels].float().mean((2, 3)).T.double().cpu().numpy()  # (f, size)
        if quiet and name in DEAD_ZONE:
            whole = _quietened(whole, DEAD_ZONE[name], together=name in WHOLE)
        values[name] = whole * group.scale
        values[name][0] = 0.0
    group = GROUPS["local"]
    local = latents[group.channels].float().transpose(0, 1).double().cpu().numpy()
    local[0] = 0.0
    local = local * (np.abs(local).max((0, 2, 3), keepdims=True) > DEAD_ZONE["local"]) if quiet else local
    local = local * np.reshape(group.scale, (1, -1, 1, 1)) if np.abs(local).max() > 1e-9 else None
    light = values["light"]
    light[:, 2:5] -= mean * (np.exp(light[:, [0, 1, 1]]) - 1)
    levels, wind = values["levels"].clip(0, 1), values["wind"].clip([-1, 0], [1, 1])
    return Motion(values["camera"], light, levels, wind, np.zeros((len(light), 2)), aspect, local)


def follow(latents: Tensor, mean: np.ndarray, known: Motion, code: Sequence[float]) -> Motion:
    """The motion that latents (C, f, h, w) tell of the last known frame and those after it, relative to that frame.

    known: of the frames that are given, relative to the first; 1 + 4 n of them. code: the seed's. What the model says
    again of them counts nothing, and its small errors at the seam become none (see DEAD_ZONE).
    """
    told = read(latents, mean, known.aspect, quiet=False)[(len(known) - 1) // world.GROUP :]
    knots = replace(told.since(known[-1:]), local=told.local)
    for part in (knots.camera, knots.light, knots.levels, knots.wind):
        part[0] = 0.0
    scaled = torch.zeros(CHANNELS, len(knots), *latents.shape[2:])
    put(scaled, knots, mean)
    knots = settled(read(scaled, mean, known.aspect))
    shares = world.progress(world.GROUP * (latents.shape[1] - 1) + 1)[-len(knots) :]
    knots.camera[:] += world.path(read_paths(latents), code, shares)
    return world.at_frames(knots)


def settled(knots: Motion) -> Motion:
    """The motion with its camera's end at one of the amounts that moves come in, where it is nearly there already, and
    with a wind that blows one way or the other.

    A move is asked for a little, as it is, or by far; what the model adds to that is error. Taking it off keeps errors
    from adding up: a pan to the left and one to the right end where they began, after any number of clips.
    """
    camera = knots.camera.copy()
    for axis in range(camera.shape[1]):
        end = camera[-1, axis]
        amounts = [
            move[axis] * much for move in world.CAMERAS.values() for much in world.AMOUNTS if move[axis] * end > 0
        ]
        nearest = min(amounts, key=lambda amount: abs(end / amount - 1), default=None)
        if nearest is not None and abs(end / nearest - 1) <= CAPTURE:
            camera[:, axis] *= nearest / end
    wind = knots.wind.copy()
    if abs(wind[-1, 0]) > CALM_AIR:
        wind[:, 0] = (wind[:, 0] / abs(wind[-1, 0])).clip(-1, 1)
    return replace(knots, camera=camera, wind=wind)


def _quietened(path: np.ndarray, size: float, *, together: bool) -> np.ndarray:
    """Values (f, n) whose whole path stays within `size` become zero, softly up to SOFT times as much; each of the n
    by itself, or all `together`."""
    peak = np.abs(path).max() if together else np.abs(path).max(0)
    return path * ((peak / size - 1) / (SOFT - 1)).clip(0, 1)
