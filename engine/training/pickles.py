"""Upstream's preprocessed Talk and Dance clips, imported once: pickles in, MP4 and safetensors out.

A pickle can run any code while it is read. These are read with nothing at hand but plain data and tensors, and only
when the user says that the files can be trusted; what they ask for beyond that is refused by name.
"""

import io
import json
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from engine.errors import TrainingError, disk_errors_explained
from engine.media.video import write_segment
from engine.project.files import write_atomically
from engine.training.dataset import Note

# Of one clip; the pose pictures with faces are not used by any variant.
FRAMES, POSES, AUDIO = "frame_data.pkl", "dw_pose_with_foot_wo_face.pkl", "audio_embedding.pkl"
VIDEO_OUT, POSES_OUT, AUDIO_OUT = "video.mp4", "dwpose.mp4", "audio_embedding.safetensors"  # upstream's own mp4 names
FPS = 25
MAX_PICKLE_BYTES = 2_000_000_000
MAX_SIDE = 4096
MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
# How files of torch.save begin, today's and that before 1.6.
ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class UnreadableClip(Exception):
    """args: (why this clip is left out,). `import_pickles` turns it into a `Note`."""


@dataclass(frozen=True)
class ImportedClip:
    """One clip as written; audio_shape: (layers, frames, channels)."""

    name: str
    num_frames: int
    num_poses: int | None
    audio_shape: tuple[int, ...] | None


def import_pickles(folder: Path, out: Path, *, trust_files: bool, fps: int = FPS) -> Iterator[ImportedClip | Note]:
    """Write `out`/CLIP/{video.mp4, dwpose.mp4, audio_embedding.safetensors} for every CLIP below `folder`, one by one.

    A clip that cannot be read yields a `Note` instead. A file that asks for anything but data raises `TrainingError`,
    and so does the call itself without `trust_files`. Pictures stay as they are; an odd side loses its last line.
    """
    if not trust_files:
        raise TrainingError(
            "Pickle files can run code while they are read, and are imported only when you say that you trust them.",
            "Add --trust-files; even then only plain data is read from them.",
        )
    root = folder.resolve()
    found = sorted(path for path in root.rglob(FRAMES) if path.is_file() and path.resolve().is_relative_to(root))
    if not found:
        raise TrainingError(
            f"There is no {FRAMES} in “{folder.name}” or below it.",
            f"Name the folder that holds one folder a clip, each with {FRAMES} and {POSES} or {AUDIO}.",
        )
    return _import_all(root, found, out, fps)


def _import_all(root: Path, found: list[Path], out: Path, fps: int) -> Iterator[ImportedClip | Note]:
    for frames in found:
        clip = frames.parent
        name = clip.relative_to(root).as_posix() if clip != root else root.name
        try:
            with disk_errors_explained(f"the clip {name}", safe="The clips imported so far are kept."):
                yield _import_clip(clip, name, out / name, fps)
        except UnreadableClip as err:
            yield Note(name, str(err))


def _import_clip(clip: Path, name: str, out: Path, fps: int) -> ImportedClip:
    pictures = _pictures(clip / FRAMES)
    poses = _pictures(clip / POSES) if (clip / POSES).is_file() else None
    audio = _audio(clip / AUDIO) if (clip / AUDIO).is_file() else None
    out.mkdir(parents=True, exist_ok=True)
    written = write_segment(_decoded(pictures, FRAMES), out / VIDEO_OUT, fps=fps)
    posed = write_segment(_decoded(poses, POSES), out / POSES_OUT, fps=fps) if poses else None
    if audio is not None:
        notes = {"layout": ["layers", "frames", "channels"], "fps": fps}
        data = save({"audio_embedding": audio}, metadata={"audio": json.dumps(notes)})
        write_atomically(out / AUDIO_OUT, data, point="pickles.audio")
    return ImportedClip(
        name,
        num_frames=written.num_frames,
        num_poses=posed.num_frames if posed else None,
        audio_shape=tuple(audio.shape) if audio is not None else None,
    )


# What the files may hold


def _pictures(path: Path) -> list[bytes]:
    """The JPEG files in a pickled dictionary from name to bytes, in order of names."""
    data = read_pickle(path)
    if not isinstance(data, dict) or not all(isinstance(k, str) and isinstance(v, bytes) for k, v in data.items()):
        raise UnreadableClip(f"{path.name} is not a dictionary from file names to pictures")
    if not data:
        raise UnreadableClip(f"{path.name} is empty")
    return [data[name] for name in sorted(data)]


def _decoded(pictures: list[bytes], source: str) -> Iterator[np.ndarray]:
    """Each picture as uint8 RGB (H, W, 3) with even sides, all of one size."""
    shape = None
    for index, data in enumerate(pictures):
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
                if max(picture.size) > MAX_SIDE:
                    raise UnreadableClip(f"picture {index} of {source} has more than {MAX_SIDE} pixels a side")
                pixels = np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
            raise UnreadableClip(f"picture {index} of {source} is not a whole JPEG") from err
        shape = shape or pixels.shape
        if pixels.shape != shape or min(shape[:2]) < 2:
            raise UnreadableClip(f"picture {index} of {source} has another size than the first")
        yield pixels[: shape[0] // 2 * 2, : shape[1] // 2 * 2]


def _audio(path: Path) -> Tensor:
    """The audio embedding, floating point (layers, frames, channels)."""
    data = read_pickle(path)
    if not isinstance(data, Tensor) or data.ndim != 3 or not data.is_floating_point():
        raise UnreadableClip(f"{path.name} is not a tensor of layers × frames × channels")
    return data.detach().clone().contiguous()


# Reading without running


def read_pickle(path: Path) -> object:
    """Plain data, or a tensor, from a file of pickle or torch.save. What asks for more raises `TrainingError`.

    A damaged file raises `UnreadableClip`.
    """
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise UnreadableClip(f"{path.name} has more than {MAX_PICKLE_BYTES // 10**9} GB")
    data = path.read_bytes()
    try:
        if data.startswith((ZIP, LEGACY)):
            return _load_tensors(data)
        _check_memo(data)
        return _DataUnpickler(io.BytesIO(data)).load()
    except _Refused as err:
        raise TrainingError(
            f"{path.parent.name}/{path.name} asks for “{err}”, which is not data.",
            "It was not run. Nothing that came with this file should be trusted.",
        ) from err
    except Exception as err:  # torch and pickle raise AssertionError, OverflowError, struct.error, … on damaged files
        raise UnreadableClip(f"{path.name} is damaged") from err


class _Refused(Exception):
    """args: (module.name that a pickle asks for,)."""


def _load_tensors(data: bytes) -> object:
    if not isinstance(data, bytes):
        raise ValueError("a storage must be bytes")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        if named := re.search(r"GLOBAL ([\w.]+)", str(err)):
            raise _Refused(named.group(1)) from err
        raise


def _rebuild_tensor(storage: torch.TypedStorage, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
    """What torch._utils._rebuild_tensor_v2 does, within the bounds of the storage."""
    if not isinstance(storage, torch.TypedStorage):
        raise ValueError("a tensor without a storage")
    values = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)  # untyped() warns of itself
    return values.as_strided(size, stride, offset)  # raises where it would reach beyond the storage


# What pickle.dump of a tensor needs; dict, list, tuple, str, bytes and numbers need nothing.
ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.storage", "_load_from_bytes"): _load_tensors,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
}


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in ALLOWED:
            raise _Refused(f"{module}.{name}")
        return ALLOWED[module, name]


def _check_memo(data: bytes) -> None:
    """Raise ValueError where a pickle gives an object a number far ahead: room would be made for all before it."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in MEMO and argument > count:
            raise ValueError(f"memo entry {argument}")
