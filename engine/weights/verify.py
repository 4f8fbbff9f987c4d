"""Read every byte of what is in the models folder and compare it with the manifest and the lock file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import ModelError
from engine.events import Event
from engine.weights.checks import PICKLE_SUFFIXES, checked
from engine.weights.inventory import Item, items, rows_of, state_of
from engine.weights.lock import Lock, LockedFile, now, read_lock, remember, working_in
from engine.weights.manifest import Entry


@dataclass(frozen=True)
class WeightsChecked(Event):
    """`result` of one file: ok · first seen (its hash is remembered from now on) · missing · damaged · unpinned."""

    entry: str
    file: str
    result: Literal["ok", "first seen", "missing", "damaged", "unpinned"]
    reason: str = ""

    @property
    def is_wrong(self) -> bool:
        return self.result not in ("ok", "first seen")


def verify(entries: Sequence[Entry], models: Path) -> Iterator[WeightsChecked]:
    """Check every file of `entries`. Readable files without a line in the lock file get one; pickles need a pin."""
    with working_in(models, doing="verifying weights"):
        for item in items(rows_of(entries), models, read_lock(models)):
            yield _verified(item, models, read_lock(models))


def entries_here(entries: Sequence[Entry], models: Path, lock: Lock) -> list[Entry]:
    """Those of which at least one file, or part of one, is in the models folder."""

    def is_here(entry: Entry) -> bool:
        return any(state_of(item, models, lock) != "missing" for item in items(rows_of([entry]), models, lock))

    return [entry for entry in entries if is_here(entry)]


def _verified(item: Item, models: Path, lock: Lock) -> WeightsChecked:
    state = state_of(item, models, lock)
    if state in ("missing", "partial"):
        return WeightsChecked(item.entry.id, item.key, "missing", "only a part is here" if state == "partial" else "")
    try:
        sha256 = checked(models / item.key, item)
    except ModelError as err:
        return WeightsChecked(item.entry.id, item.key, "damaged", err.message)
    if item.key in lock.files:
        return WeightsChecked(item.entry.id, item.key, "ok")
    if item.sha256 is None and Path(item.path).suffix in PICKLE_SUFFIXES:
        return WeightsChecked(item.entry.id, item.key, "unpinned", "a pickle that nothing vouches for is not loaded")
    remember(models, Lock(files={item.key: local_line(item, models / item.key, sha256)}))
    return WeightsChecked(item.entry.id, item.key, "first seen")


def local_line(item: Item, file: Path, sha256: str, commit: str | None = None) -> LockedFile:
    """The line of a file that did not come from the Hub through this program."""
    return LockedFile(
        repo=item.entry.repo,
        path=item.path,
        commit=commit,
        size=file.stat().st_size,
        sha256=sha256,
        verified=now(),
        source="local",
    )
