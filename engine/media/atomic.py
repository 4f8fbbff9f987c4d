"""Files that are either absent, the old version, or whole: temp + fsync + rename + directory fsync."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield `<path>.part` to be written and synced by the caller, then rename it to `path`.

    Any exception, a closed generator or Ctrl-C included, removes the part and leaves an older `path` as it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync(path: Path) -> None:
    """Flush a finished file to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_directory(folder: Path) -> None:
    """Make renames inside `folder` durable; a no-op where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
