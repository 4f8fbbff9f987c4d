"""Durable writes: temp, fsync, rename, fsync of the directory. Every step announces itself to the fault counter."""

import os
from pathlib import Path

from engine import faults


def write_atomically(path: Path, data: bytes, *, point: str, mode: int = 0o666) -> None:
    """Replace `path` by `data` so that a crash leaves either the old or the new file, whole."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        faults.hit(f"{point}.temp")
        with open(temp, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
            stream.write(data)
            stream.flush()
            faults.hit(f"{point}.fsync")
            os.fsync(stream.fileno())
        faults.hit(f"{point}.rename")
        os.replace(temp, path)
        fsync_folder(path.parent)
    except OSError:
        temp.unlink(missing_ok=True)
        raise


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; a no-op where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    with path.open("rb+") as stream:  # Windows refuses to sync what is open for reading only
        os.fsync(stream.fileno())
