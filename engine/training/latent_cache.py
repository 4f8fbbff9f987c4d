"""Training windows encoded once and kept on disk: latents, conditions and embeddings, one safetensors file a window.

A file is named by a hash of all that determines its content, so a cache that was interrupted or whose videos changed
in part is completed, not remade. The manifest is written last. Conditions come from the code that sampling uses.
Shapes: latents (C, f, h, w), normalised; frames uint8 (F, H, W, 3).
"""

import errno
import hashlib
import json
import logging
import math
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from engine.diffusion.conditioning import Counters, TextCache, condition_latents, mask_first, to_pixels
from engine.errors import DiskFull, TrainingError, disk_errors_explained
from engine.models.components import Components, PictureCodec, VideoCodec
from engine.pocket import footage
from engine.pocket.codec import FieldCodec
from engine.project.files import write_atomically
from engine.project.locks import locked
from engine.training.dataset import Dataset, Note, UnusableVideo, VideoItem, Window, read_window
from engine.variants import Variant

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
FILE_NAME = r"^[0-9a-f]{64}\.safetensors$"
HEADER_BYTES = 2_000  # of a file: names, shapes and a caption; more only with a caption longer than that
PICTURE_TOKENS = 257  # of CLIP ViT-H/14, the image encoder of Wan 2.1
AnchorChoice = Literal["inside", "outside"]
# Footage drawn from its first frame by the fields fitted to it, in dB. Six photographs at 416×240, grain of 2 levels,
# H.264: camera and light moves 30–46, water 23–32, somebody far away walking past 22–26, near by 14–21, a cut 13–20.
REFUSED, DOUBTED = 22.0, 28.0


@dataclass(frozen=True)
class LatentSample:
    """One window as a step needs it, in the dtype of the cache.

    latents (C, f, h, w) of the whole window; condition (4 + C, f, h, w): mask, then latents of condition frames and
    padding; prompt_embeds (L, D); image_embeds (tokens, D) or None.
    """

    latents: Tensor
    condition: Tensor
    prompt_embeds: Tensor
    image_embeds: Tensor | None
    caption: str


@dataclass(frozen=True)
class WindowSettings:
    """All that determines a cached window besides its video."""

    identity: str
    num_motion_frames: int
    padding: str
    size: tuple[int, int]
    num_frames: int
    fps: float | None
    seed: int
    max_sequence_length: int
    anchor: AnchorChoice
    anchors_per_window: int
    dtype: str

    @property
    def condition_lengths(self) -> tuple[int, ...]:
        """The numbers of condition frames that are cached: one, as in a film's first clip, and the variant's."""
        return tuple(sorted({1, self.num_motion_frames}))


class _Manifest(BaseModel):
    """What the cache was made of (`binding`), and the files it consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    binding: dict[str, Any]
    condition_lengths: tuple[int, ...]
    num_anchors: int = Field(ge=1)
    windows: tuple[Annotated[str, Field(pattern=FILE_NAME)], ...]
    skipped: tuple[tuple[str, str], ...]


# Making a cache


def prepare(
    dataset: Dataset,
    components: Components,
    *,
    folder: Path,
    variant: Variant,
    size: tuple[int, int],
    num_frames: int,
    fps: float | None,
    windows_per_video: int,
    seed: int,
    max_sequence_length: int,
    identity: str,
    dtype: torch.dtype,
    anchor: AnchorChoice = "inside",
    anchors_per_window: int = 1,
    counters: Counters | None = None,
) -> Iterator[dict[str, Any]]:
    """Encode what is not in `folder` yet; yields {"kind": "latents", "done", "of", "skipped", "noted"} on the way.

    size: (height, width). identity names the weights. anchor: a random frame of the same window ("inside", SVI 1.0) or
    of the same video outside it (2.x), inside where a video has no more frames. dtype: of the files. The first record
    lists what the dataset skipped and noted. A video that fails while it is read is left out with all its windows, and
    the next record lists it, and so is footage that fields of motion cannot follow, where latents are such fields; the
    last record notes what they follow in part. Raises `DiskFull`, `ProjectLocked` and `TrainingError`.
    """
    settings = WindowSettings(
        identity=identity,
        num_motion_frames=variant.num_motion_frames,
        padding=variant.padding,
        size=size,
        num_frames=num_frames,
        fps=None if fps is None else float(fps),
        seed=seed,
        max_sequence_length=max_sequence_length,
        anchor=anchor,
        anchors_per_window=anchors_per_window,
        dtype=str(dtype).removeprefix("torch."),
    )
    _check(settings, components, variant, windows_per_video)
    with disk_errors_explained("the encoded videos", safe="What is encoded so far is kept."):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", doing="encoding videos"):
            encoder = _Encoder(components, settings, counters or Counters())
            yield from _complete(dataset, folder, settings, windows_per_video, encoder)


def _check(settings: WindowSettings, components: Components, variant: Variant, windows_per_video: int) -> None:
    codec = components.codec
    side = 2 * getattr(codec, "spatial_stride", 8)  # patches are 2 × 2 latents; sides of films are multiples of 16
    if settings.num_frames % codec.temporal_stride != 1 or settings.num_frames <= settings.num_motion_frames:
        raise TrainingError(
            f"A window of {settings.num_frames} frames cannot be encoded for {variant.title}.",
            f"It must be {codec.temporal_stride}·n + 1 frames, more than {settings.num_motion_frames}.",
        )
    if any(length % side or length < side for length in settings.size):
        height, width = settings.size
        raise TrainingError(f"Windows of {width}×{height} cannot be encoded.", f"Use multiples of {side}.")
    if settings.padding == "zeros" and (settings.anchors_per_window != 1 or settings.anchor != "inside"):
        raise TrainingError(f"{variant.title} is padded with grey and has no anchors.", "Leave their settings out.")
    if min(settings.anchors_per_window, windows_per_video) < 1:
        raise TrainingError("A video needs at least one window, and a window at least one anchor.")


def _complete(
    dataset: Dataset, folder: Path, settings: WindowSettings, windows_per_video: int, encoder: "_Encoder"
) -> Iterator[dict[str, Any]]:
    binding = _binding(dataset, settings, windows_per_video)
    manifest = _read_manifest(folder) if (folder / MANIFEST).exists() else None
    if manifest and manifest.binding == binding and all(_is_whole(folder / name) for name in manifest.windows):
        skipped = [*dataset.skipped, *(Note(*entry) for entry in manifest.skipped)]
        noted = [*dataset.noted, *_remarks(folder, manifest.windows)]
        yield _progress(len(manifest.windows), len(manifest.windows), skipped, noted)
        return
    plan = {item: _paths(item, folder, settings, windows_per_video) for item in _by_caption(dataset.items)}
    missing = {path for paths in plan.values() for path in paths if not _is_whole(path)}
    total = sum(map(len, plan.values()))
    unreadable: list[Note] = []
    _make_room(folder, plan, len(missing), encoder)
    yield _progress(total - len(missing), total, dataset.skipped, dataset.noted)
    for item, paths in list(plan.items()):
        for window in [window for window, path in enumerate(paths) if path in missing]:
            try:
                contents = encoder.encode(item, window)
            except UnusableVideo as err:
                unreadable.append(Note(item.name, err.message))
                total -= len(plan.pop(item))
                missing.difference_update(paths)
                yield _progress(total - len(missing), total, unreadable[-1:])
                break
            with _room_explained(len(missing), encoder):
                write_atomically(paths[window], contents, point="latents.window")
            missing.remove(paths[window])
            yield _progress(total - len(missing), total)
    if not plan:
        reasons = "; ".join(f"{note.name} {note.reason}" for note in unreadable[:3])
        raise TrainingError(f"None of the videos can be read to the end: {reasons}.", "Replace them.")
    windows = [path.name for item in dataset.items if item in plan for path in plan[item]]
    manifest = _Manifest(
        binding=binding,
        condition_lengths=settings.condition_lengths,
        num_anchors=settings.anchors_per_window,
        windows=windows,
        skipped=[(note.name, note.reason) for note in unreadable],
    )
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=1).encode(), point="latents.manifest")
    _remove_all_but(folder, windows)
    log.info("%d windows of %d videos in the cache, %d videos skipped", len(windows), len(plan), len(unreadable))
    yield _progress(total, total, noted=_remarks(folder, windows))


class _Encoder:
    """Encodes windows one at a time. Each distinct caption is encoded once, as long as windows come by caption."""

    def __init__(self, components: Components, settings: WindowSettings, counters: Counters) -> None:
        self.components, self.settings, self.counters = components, settings, counters
        self.dtype = getattr(torch, settings.dtype)
        self.texts = TextCache(components.encode_text, counters, size=1)

    @property
    def bytes_per_window(self) -> int:
        config, settings = self.components.transformer.config, self.settings
        return cache_bytes(
            1,
            latent_shape=latent_shape(settings.num_frames, settings.size, self.components.codec),
            num_conditions=len(settings.condition_lengths) * settings.anchors_per_window,
            prompt_shape=(settings.max_sequence_length, config.text_dim),
            image_shape=(PICTURE_TOKENS, config.image_dim) if self.components.encode_image else (0, 0),
            mask_channels=self.components.codec.temporal_stride,
            dtype=self.dtype,
        )

    def encode(self, item: VideoItem, window: int) -> bytes:
        """The content of the file of a window; its random choices depend on nothing but the seed, its video and number.

        Raises `UnusableVideo`.
        """
        settings = self.settings
        rng = random.Random(f"{settings.seed}/{item.name}/{window}")
        read = read_window(
            item,
            num_frames=settings.num_frames,
            size=settings.size,
            fps=settings.fps,
            rng=rng,
            num_outside=settings.anchors_per_window if settings.anchor == "outside" else 0,
        )
        tensors = self._tensors(read.frames, self._anchors(read, rng), item.caption)
        notes = {"video": item.name, "window": window, "start": int(read.indices[0]), "caption": item.caption}
        if isinstance(self.components.codec, FieldCodec):
            notes["remark"] = judged(footage.fit_of(read.frames, tensors["latents"]))
        # One entry: safetensors writes several in an order that changes from run to run.
        return save(tensors, metadata={"window": json.dumps(notes)})

    def _anchors(self, read: Window, rng: random.Random) -> list[np.ndarray | None]:
        if self.settings.padding == "zeros":
            return [None]
        if len(read.outside):
            return list(read.outside)
        return [read.frames[rng.randrange(len(read.frames))] for _ in range(self.settings.anchors_per_window)]

    @torch.no_grad()
    def _tensors(self, frames: np.ndarray, anchors: Sequence[np.ndarray | None], caption: str) -> dict[str, Tensor]:
        components, settings = self.components, self.settings
        pixels = to_pixels(frames, components.device)
        prompt_embeds = self.texts(caption, settings.max_sequence_length)[0]
        found = {"latents": components.codec.encode(pixels)[0], "prompt_embeds": _without_padding(prompt_embeds)}
        # The zeros at the end are most of a prompt's bytes; their number is kept in place of them.
        found["prompt_length"] = torch.tensor(len(prompt_embeds))
        if components.encode_image is not None:
            found["image_embeds"] = components.encode_image(pixels[:, :, 0])[0]
            self.counters.image_encoder_calls += 1
        self.counters.frames_encoded += pixels.shape[2]
        for length in settings.condition_lengths:
            for index, anchor in enumerate(anchors):
                found[f"condition_{length}.{index}"] = self._condition(frames[:length], anchor)
                self.counters.frames_encoded += pixels.shape[2]
        return {
            name: (value.to(self.dtype) if value.is_floating_point() else value).cpu().contiguous()
            for name, value in found.items()
        }

    def _condition(self, frames: np.ndarray, anchor: np.ndarray | None) -> Tensor:
        """Mask and latents (4 + C, f, h, w) of `frames` (n, H, W, 3) and the padding."""
        codec, num_frames = self.components.codec, self.settings.num_frames
        if isinstance(codec, PictureCodec):
            return mask_first(codec.told(frames, anchor, num_frames), codec.temporal_stride)[0]
        return condition_latents(condition_pixels(frames, anchor, num_frames, self.components.device), codec)[0]


def judged(fit: footage.Fit) -> str:
    """What is to be said of footage that fields follow so far, "" for nothing. Too little raises `UnusableVideo`."""
    reached = f"its camera and light alone make {fit.moved:.0f} dB of it"
    if fit.moved < REFUSED:
        raise UnusableVideo(
            f"moves in ways that the embedded model cannot follow: {reached}, at least {REFUSED:.0f} are needed"
        )
    if fit.moved < DOUBTED:
        return f"moves in ways that the embedded model follows only in part: {reached}, {DOUBTED:.0f} would be fine"
    return ""


def condition_pixels(frames: np.ndarray, anchor: np.ndarray | None, num_frames: int, device: torch.device) -> Tensor:
    """Pixels (1, 3, num_frames, H, W): `frames` (n, H, W, 3), then the anchor (H, W, 3) repeated, or mid-grey.

    The frames of a window in the place of a request's: the same pixels as `engine.diffusion.conditioning` makes.
    """
    given = to_pixels(frames, device)
    missing = num_frames - len(frames)
    if anchor is None:
        rest = given.new_zeros(1, 3, missing, *given.shape[3:])
    else:
        rest = to_pixels(anchor[None], device).expand(-1, -1, missing, -1, -1)
    return torch.cat([given, rest], dim=2)


def _without_padding(prompt_embeds: Tensor) -> Tensor:
    used = prompt_embeds.abs().sum(dim=1).nonzero()
    return prompt_embeds[: int(used.max()) + 1] if len(used) else prompt_embeds[:0]


# How much room it takes


def latent_shape(num_frames: int, size: tuple[int, int], codec: VideoCodec) -> tuple[int, int, int, int]:
    """(C, f, h, w) of a window; size: (height, width)."""
    return codec.latent_channels, (num_frames - 1) // codec.temporal_stride + 1, *codec.grid(*size)


def cache_bytes(
    num_windows: int,
    *,
    latent_shape: tuple[int, int, int, int],
    num_conditions: int,
    prompt_shape: tuple[int, int],
    image_shape: tuple[int, int] = (0, 0),
    mask_channels: int = 4,
    dtype: torch.dtype,
) -> int:
    """The most that a cache takes on the disk; prompts shorter than `prompt_shape` (L, D) take less.

    num_conditions: with one motion frame 1, with more 2, times the anchors of a window.
    """
    channels, *rest = latent_shape
    maps = channels + num_conditions * (mask_channels + channels)
    values = maps * math.prod(rest) + math.prod(prompt_shape) + math.prod(image_shape)
    return num_windows * (values * dtype.itemsize + HEADER_BYTES)


def _make_room(folder: Path, plan: dict[VideoItem, list[Path]], num_missing: int, encoder: _Encoder) -> None:
    """Raise `DiskFull` unless the missing windows fit; an old cache that is not used any more gives way."""
    needed = num_missing * encoder.bytes_per_window
    if needed > shutil.disk_usage(folder).free:
        (folder / MANIFEST).unlink(missing_ok=True)
        _remove_all_but(folder, [path.name for paths in plan.values() for path in paths])
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _disk_full(needed, free)


@contextmanager
def _room_explained(num_missing: int, encoder: _Encoder) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(num_missing * encoder.bytes_per_window, 0) from err
        raise


def _disk_full(needed: int, free: int) -> DiskFull:
    return DiskFull(
        f"The encoded videos still need {_amount(needed)} on this disk and {_amount(free)} are free: "
        f"{_amount(needed - free)} are missing.",
        "What is encoded so far is kept. Free space, choose another folder, or take fewer windows of a video.",
    )


def _amount(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{math.ceil(num_bytes / 1e6)} MB"


# What belongs to which cache


def _binding(dataset: Dataset, settings: WindowSettings, windows_per_video: int) -> dict[str, Any]:
    binding = {
        "format": FORMAT,
        "settings": asdict(settings),
        "windows_per_video": windows_per_video,
        "videos": [_facts(item) for item in dataset.items],
    }
    return json.loads(json.dumps(binding))  # lists for tuples, as in the file


def _facts(item: VideoItem) -> dict[str, Any]:
    return {"name": item.name, "size": item.size_bytes, "modified_ns": item.modified_ns, "caption": item.caption}


def _paths(item: VideoItem, folder: Path, settings: WindowSettings, windows_per_video: int) -> list[Path]:
    facts = [FORMAT, asdict(settings), _facts(item)]
    digests = [
        hashlib.sha256(json.dumps([*facts, window], sort_keys=True).encode()).hexdigest()
        for window in range(windows_per_video)
    ]
    return [folder / f"{digest}.safetensors" for digest in digests]


def _by_caption(items: Sequence[VideoItem]) -> list[VideoItem]:
    """Videos of one caption after each other, otherwise in their order."""
    rank = {caption: number for number, caption in enumerate(dict.fromkeys(item.caption for item in items))}
    return sorted(items, key=lambda item: rank[item.caption])


def _is_whole(path: Path) -> bool:
    """Opening checks the header and that the file has the length it tells."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _remove_all_but(folder: Path, names: Sequence[str]) -> None:
    kept = set(names)
    for path in folder.iterdir():
        is_window = re.match(FILE_NAME, path.name) and path.name not in kept
        if is_window or re.match(r"^\.([0-9a-f]{64}\.safetensors|manifest\.json)\.\d+\.tmp$", path.name):
            path.unlink()


def _remarks(folder: Path, windows: Sequence[str]) -> list[Note]:
    """What was found of the videos of these windows, once each."""
    remarks = {}
    for name in windows:
        with safe_open(folder / name, framework="pt") as file:
            notes = json.loads(file.metadata()["window"])
        if notes.get("remark"):
            remarks.setdefault(notes["video"], notes["remark"])
    return [Note(video, remark) for video, remark in remarks.items()]


def _progress(done: int, total: int, skipped: Sequence[Note] = (), noted: Sequence[Note] = ()) -> dict[str, Any]:
    told = {"skipped": [asdict(note) for note in skipped], "noted": [asdict(note) for note in noted]}
    return {"kind": "latents", "done": done, "of": total} | told


def _read_manifest(folder: Path) -> _Manifest | None:
    try:
        return _Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        log.warning("the manifest of %s cannot be read; the cache is completed again", folder.name)
        return None


# Reading a cache


class LatentCache:
    """The windows of a folder that `prepare` has completed. Raises `TrainingError` where it has not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = _read_manifest(folder) if (folder / MANIFEST).exists() else None
        if manifest is None:
            raise TrainingError(
                f"The folder “{folder.name}” holds no complete latent cache.", "Encode the videos first."
            )
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.manifest.windows)

    def sample(self, index: int, *, num_condition_frames: int = 1, anchor: float = 0.0) -> LatentSample:
        """Window `index` with the condition for so many frames.

        anchor: in [0, 1), picks among the conditions of the window where it has several.
        """
        if num_condition_frames not in self.manifest.condition_lengths:
            known = " or ".join(map(str, self.manifest.condition_lengths))
            raise TrainingError(f"The cache has conditions of {known} frames, not of {num_condition_frames}.")
        picked = int(anchor * self.manifest.num_anchors)
        name = self.manifest.windows[index]
        try:
            with safe_open(self.folder / name, framework="pt") as file:
                prompt_embeds = file.get_tensor("prompt_embeds")
                padding = int(file.get_tensor("prompt_length")) - len(prompt_embeds)
                return LatentSample(
                    latents=file.get_tensor("latents"),
                    condition=file.get_tensor(f"condition_{num_condition_frames}.{picked}"),
                    prompt_embeds=functional.pad(prompt_embeds, (0, 0, 0, padding)),
                    image_embeds=file.get_tensor("image_embeds") if "image_embeds" in file.keys() else None,  # noqa: SIM118
                    caption=json.loads(file.metadata()["window"])["caption"],
                )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as err:
            raise TrainingError(
                f"The encoded window {name[:12]}… is missing or damaged.", "Start the training again: it is made anew."
            ) from err
