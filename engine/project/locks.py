"""Two advisory locks a project: `edit` for project.json, `render` for whoever adds takes.

The kernel releases them when their holder dies, so a crash never leaves a project locked.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine import faults
from engine.errors import DiskFull, ProjectLocked

try:
    import fcntl
except ImportError:  # Windows: msvcrt locks a byte of the file, with the same release on death
    fcntl = None
    import msvcrt

POLL_S = 0.02


def _try_lock(descriptor: int) -> bool:
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return True
    except OSError as err:
        if err.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise


@contextmanager
def locked(path: Path, *, doing: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`; after `wait_s` seconds of waiting raise `ProjectLocked` naming the holder."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as err:
        if err.errno == errno.ENOSPC:
            raise DiskFull(
                "No room on the disk for a lock file.", "Finished clips are safe. Free space first."
            ) from err
        if err.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DiskFull(
                f"The folder {path.parent.name}/ is read-only.",
                "Everything in it is safe. Allow writing and try again.",
            ) from err
        raise
    try:
        deadline = time.monotonic() + wait_s
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise ProjectLocked(
                    f"{path.parent.name}/ is in use: {holder(path)} is {doing}.",
                    "Nothing was changed. Wait until it ends or stop it there.",
                )
            time.sleep(POLL_S)
        with suppress(OSError):  # who holds it is a courtesy to the others; a full disk must not stop an edit
            faults.hit("lock.write")
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """“process 123 on host”, as far as the lock file tells."""
    try:
        data = json.loads(path.read_text())
        return f"process {data['pid']} on {data['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
