"""Files that are either absent, the old version, or whole: written beside, synced, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.project.files import fsync_folder


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
    fsync_folder(path.parent)
