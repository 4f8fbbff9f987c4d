"""A fault counter at every write and engine call, so that tests can fail the n-th one for every n.

Inert unless `FAULT=<point>:<action>:<n>` is set or `injected(...)` is active. `<point>` is a name such as
`take.rename`, a prefix ending in `*`, or `*` for any. Actions: kill, enospc, eio, eacces, oom, hang.
"""

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

ERRNO = {"enospc": errno.ENOSPC, "eio": errno.EIO, "eacces": errno.EACCES}
ACTIONS = (*ERRNO, "kill", "oom", "hang")


@dataclass
class Fault:
    """Fires once, at the n-th hit (counted from 1) of a matching point."""

    point: str
    action: str
    n: int = 1
    hits: Counter[str] = field(default_factory=Counter)
    fired: bool = False

    @classmethod
    def parse(cls, text: str) -> "Fault":
        point, action, *n = text.split(":")
        if action not in ACTIONS:
            raise ValueError(f"FAULT action must be one of {ACTIONS}, got {action!r}")
        return cls(point, action, int(n[0]) if n else 1)

    def matches(self, name: str) -> bool:
        return self.point in ("*", name) or (self.point.endswith("*") and name.startswith(self.point[:-1]))

    def hit(self, name: str) -> None:
        if not self.matches(name):
            return
        self.hits[name] += 1
        if not self.fired and self.hits.total() == self.n:
            self.fired = True
            fire(self.action, name)


def fire(action: str, name: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        time.sleep(3600)
    if action == "oom":
        raise MemoryError(f"injected at {name}")
    raise OSError(ERRNO[action], f"{os.strerror(ERRNO[action])} (injected at {name})")


_active: Fault | None = Fault.parse(os.environ["FAULT"]) if os.environ.get("FAULT") else None


def hit(name: str) -> None:
    """Announce a point where the world may fail. Does nothing unless a fault is active."""
    if _active is not None:
        _active.hit(name)


@contextmanager
def injected(text: str) -> Iterator[Fault]:
    """Activate one fault inside this process; the yielded `Fault` tells which points were hit."""
    global _active
    before, _active = _active, Fault.parse(text)
    try:
        yield _active
    finally:
        _active = before
