"""Takes on disk: `takes/<digest>/{take.json, segment.mp4, poster.jpg, tail/{*.png, latents or states.safetensors}}`.

A take is built in `takes/.tmp-*` and committed by one directory rename after fsync, so it is there whole or not at all.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors.numpy
from pydantic import ValidationError

from engine import faults
from engine.domain import ClipRequest, DriftReading, Take
from engine.errors import ProjectError, disk_errors_explained
from engine.media import image, video
from engine.project.files import fsync_file, fsync_folder, write_atomically

TEMPORARY = ".tmp-"
LATENTS = "latents.safetensors"
STATES = "states.safetensors"


def commit(
    folder: Path,
    request: ClipRequest,
    frames: np.ndarray,
    *,
    tail_frames: int,
    backend: str,
    timings: dict[str, float],
    drift: DriftReading | None = None,
    tail_latents: np.ndarray | None = None,
    tail_states: dict[str, np.ndarray] | None = None,
) -> Take:
    """Store uint8 `frames` (F, H, W, 3) as the take of `request` under `folder`; return it.

    The segment leaves out the overlap. The last `tail_frames` frames are kept lossless for the next clip, and so are
    `tail_latents`, float32 (C, n, h, w), where the variant hands them over, and `tail_states`, arrays whose first
    dimension counts the frames, where clips are composed. Raises `DiskFull` when the operating system
    refuses a write; nothing half-written stays visible.
    """
    temp = folder / f"{TEMPORARY}{request.digest}"
    final = folder / request.digest
    with disk_errors_explained("a new clip"):
        try:
            faults.hit("take.mkdir")
            shutil.rmtree(temp, ignore_errors=True)
            (temp / "tail").mkdir(parents=True)
            segment = video.write_segment(frames[request.overlap :], temp / "segment.mp4", fps=request.fps)
            for number, frame in enumerate(frames[-tail_frames:]):
                faults.hit("tail.write")
                image.save_png(frame, temp / "tail" / f"{number}.png")
            if tail_latents is not None:
                faults.hit("tail.write")
                _write_arrays({"latents": tail_latents}, temp / "tail" / LATENTS)
            if tail_states is not None:
                faults.hit("tail.write")
                _write_arrays(tail_states, temp / "tail" / STATES)
            faults.hit("poster.write")
            video.poster(frames[-1], temp / "poster.jpg")  # where the prompt has led
            take = Take(
                digest=request.digest,
                clip_id=request.clip_id,
                parent_digest=request.parent_digest,
                prompt=request.prompt,
                seed=request.seed,
                num_frames=len(frames),
                overlap=request.overlap,
                tail_frames=tail_frames,
                tail_latents=0 if tail_latents is None else tail_latents.shape[1],
                tail_states=0 if tail_states is None else tail_frames,
                draft=request.draft,
                width=request.resolution.width,
                height=request.resolution.height,
                fps=request.fps,
                segment_bytes=segment.size_bytes,
                segment_sha256=segment.sha256,
                backend=backend,
                created=time.time(),
                timings=timings,
                drift=drift,
            )
            write_atomically(temp / "take.json", take.model_dump_json(indent=1).encode(), point="take.json")
            faults.hit("take.fsync")
            for file in temp.rglob("*"):
                if file.is_file():
                    fsync_file(file)
            fsync_folder(temp / "tail")
            fsync_folder(temp)
            faults.hit("take.before_rename")
            shutil.rmtree(final, ignore_errors=True)  # only a damaged take can be there: a whole one is a cache hit
            os.rename(temp, final)
            faults.hit("take.after_rename")
            fsync_folder(folder)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise
    return take


def set_aside(folder: Path, digest: str) -> None:
    """Hide a damaged take from the plan, so that resuming makes the same one again; nothing is deleted."""
    target = folder / f".damaged-{digest}"
    shutil.rmtree(target, ignore_errors=True)
    with suppress(OSError):
        os.rename(folder / digest, target)


def names(folder: Path) -> list[str]:
    """Digests of the committed takes under `folder`, damaged ones included."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def has_segment(path: Path, take: Take) -> bool:
    try:
        return (path / "segment.mp4").stat().st_size == take.segment_bytes
    except OSError:
        return False


def read(path: Path) -> Take | None:
    """The take in folder `path`, or None when any of its files is missing, cut or does not parse."""
    try:
        take = Take.model_validate_json((path / "take.json").read_bytes())
        whole = (
            take.digest == path.name
            and has_segment(path, take)
            and all((path / "tail" / f"{n}.png").stat().st_size > 0 for n in range(take.tail_frames))
            and (not take.tail_latents or (path / "tail" / LATENTS).stat().st_size > 0)
            and (not take.tail_states or (path / "tail" / STATES).stat().st_size > 0)
        )
    except (OSError, ValidationError, json.JSONDecodeError):
        return None
    return take if whole else None


def tail(path: Path, count: int) -> np.ndarray:
    """The last `count` frames of the take in folder `path`: uint8 (count, H, W, 3), oldest first."""
    names = sorted((path / "tail").glob("*.png"), key=lambda p: int(p.stem))
    if len(names) < count:
        raise ProjectError(
            f"A finished clip keeps {len(names)} of the {count} frames the next one starts from.",
            "Regenerate it; the clips before it are safe.",
        )
    return np.stack([image.load(name) for name in names[-count:]])


def last_frame(path: Path) -> Path | None:
    """The PNG of the last frame of the take in folder `path`, if it is there."""
    return max((path / "tail").glob("*.png"), key=lambda file: int(file.stem), default=None)


def tail_latents(path: Path, count: int) -> np.ndarray:
    """The last `count` denoised latent frames of the take in folder `path`: float32 (C, count, h, w)."""
    latents = (_read_arrays(path / "tail" / LATENTS) or {}).get("latents")
    if latents is None or latents.ndim != 4 or latents.shape[1] < count:
        raise ProjectError(
            "A finished clip lacks the latents that the next one starts from.",
            "Regenerate it; the clips before it are safe.",
        )
    return latents[:, -count:]


def tail_states(path: Path, count: int) -> dict[str, np.ndarray]:
    """How the last `count` frames of the take in folder `path` are made of the picture: arrays of `count` rows, and
    those of one number, which hold for all frames."""
    states = _read_arrays(path / "tail" / STATES)
    if not states or any(1 < len(array) < count for array in states.values()):
        raise ProjectError(
            "A finished clip lacks the states that the next one starts from.",
            "Regenerate it; the clips before it are safe.",
        )
    return {name: array if array.ndim == 1 else array[-count:] for name, array in states.items()}


def _write_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Store arrays with their checksum: unlike a picture's, their format has none.

    Raises `ProjectError` when they cannot be read back: a take that cannot be continued is made again without end.
    """
    # of a view, save() writes other numbers
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    path.write_bytes(safetensors.numpy.save(whole | {"sha256": _checksum(whole)}))
    if _read_arrays(path) is None:
        raise ProjectError("What the next clip starts from could not be stored.", "Check the disk, then resume.")


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Arrays as they were stored, finite numbers all, or None."""
    try:
        stored = safetensors.numpy.load(path.read_bytes())
        checksum = stored.pop("sha256")
    except (OSError, KeyError, safetensors.SafetensorError):
        return None
    whole = all(np.isfinite(array).all() for array in stored.values()) and np.array_equal(checksum, _checksum(stored))
    return stored if whole and stored else None


def _checksum(arrays: dict[str, np.ndarray]) -> np.ndarray:
    hasher = hashlib.sha256()
    for _, array in sorted(arrays.items()):
        hasher.update(array.tobytes())
    return np.frombuffer(hasher.digest(), np.uint8)


def remove_leftovers(folder: Path) -> int:
    """Delete takes that were never committed; return how many there were."""
    leftovers = list(folder.glob(f"{TEMPORARY}*"))
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    return len(leftovers)


def verify(folder: Path, wanted: Sequence[Take]) -> None:
    """Raise `ProjectError` naming the first take whose segment is missing or differs from its recorded hash."""
    for number, take in enumerate(wanted, 1):
        segment = folder / take.digest / "segment.mp4"
        if not segment.is_file():
            raise ProjectError(f"The segment of clip {number} is missing.", "Resume to make it again.")
        with segment.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != take.segment_sha256:
            set_aside(folder, take.digest)
            raise ProjectError(
                f"The segment of clip {number} is damaged.",
                "It has been set aside: resume to make it again. The other clips are safe.",
            )
