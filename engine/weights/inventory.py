"""What is in the models folder, compared with the manifest and the lock file. Reads names and sizes only."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.weights.lock import Lock
from engine.weights.manifest import Entry, WeightsFile

State = Literal["ready", "unverified", "partial", "missing", "damaged"]
PART_SUFFIX = ".part"
MAX_INDEX_BYTES = 10 << 20


@dataclass(frozen=True)
class Wanted:
    """A row of the manifest that somebody needs."""

    entry: Entry
    row: WeightsFile


@dataclass(frozen=True)
class Item:
    """One file that should be there. `size` and `sha256` where the manifest or the lock file knows them."""

    entry: Entry
    path: str
    size: int | None = None
    sha256: str | None = None

    @property
    def key(self) -> str:
        return self.entry.key(self.path)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def rows_of(entries: Iterable[Entry]) -> list[Wanted]:
    return [Wanted(entry, row) for entry in entries for row in entry.files]


def items(wanted: Sequence[Wanted], models: Path, lock: Lock) -> list[Item]:
    """The files that `wanted` means: by the snapshot of the first download, else by what the disk can tell.

    A pattern that nothing is known about stands for itself, with its *.
    """
    found = [item for want in wanted for item in _items_of(want, models, lock)]
    return list({item.key: item for item in found}.values())


def _items_of(want: Wanted, models: Path, lock: Lock) -> Iterator[Item]:
    entry, row = want.entry, want.row
    snapshot = lock.snapshots.get(entry.id)
    paths = [path for path in snapshot.files if row.fits(path)] if snapshot else []
    if not paths and row.is_pattern:
        paths = sorted(_on_disk(entry, row, models) | _named_by_indexes(entry, row, models))
    for path in paths or [row.path]:
        line = lock.files.get(entry.key(path))
        size = row.size or (line.size if line else None)
        yield Item(entry, path, size, row.sha256 or (line.sha256 if line else None))


def _on_disk(entry: Entry, row: WeightsFile, models: Path) -> set[str]:
    folder = row.path.rpartition("/")[0]
    root = models / entry.repo
    try:
        names = [file.name for file in (root / folder).iterdir() if file.is_file()]
    except OSError:
        return set()
    return {path for path in (f"{folder}/{name}" if folder else name for name in names) if row.fits(path)}


def _named_by_indexes(entry: Entry, row: WeightsFile, models: Path) -> set[str]:
    """Shards that a `*.index.json` in the row's folder speaks of, present or not."""
    folder = row.path.rpartition("/")[0]
    named: set[str] = set()
    for index in (models / entry.repo / folder).glob("*.safetensors.index.json"):
        try:
            if index.stat().st_size <= MAX_INDEX_BYTES:
                named |= set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    paths = {f"{folder}/{name}" if folder else name for name in named if isinstance(name, str)}
    return {path for path in paths if row.fits(path)}


def state_of(item: Item, models: Path, lock: Lock) -> State:
    try:
        size = (models / item.key).stat().st_size
    except OSError:
        return "partial" if parts_of(models / item.key) else "missing"
    if item.size is not None and size != item.size:
        return "damaged"
    return "ready" if item.key in lock.files else "unverified"


def state_of_all(states: Sequence[State]) -> State:
    """One word for several files: the worst news first."""
    if "damaged" in states:
        return "damaged"
    if set(states) <= {"missing"}:
        return "missing"
    if {"missing", "partial"} & set(states):
        return "partial"
    return "unverified" if "unverified" in states else "ready"


def parts_of(file: Path) -> list[Path]:
    """Unfinished downloads of `file`, whichever version they are of."""
    try:
        return [p for p in file.parent.iterdir() if p.name.startswith(f"{file.name}.") and p.suffix == PART_SUFFIX]
    except OSError:
        return []


def bytes_known(entry: Entry, files: Sequence[Item]) -> tuple[int | None, bool]:
    """The size of an entry, and whether it is exact; (None, False) when nobody has said."""
    if files and all(item.size is not None for item in files):
        return sum(item.size or 0 for item in files), True
    return entry.about_bytes, False


def bytes_missing(missing: Sequence[Item]) -> tuple[int, str]:
    """How much is to be fetched, and how sure that is: exactly, about, or at least."""
    total, how_sure = 0, "exactly"
    for entry in {item.entry.id: item.entry for item in missing}.values():
        files = [item for item in missing if item.entry.id == entry.id]
        size, exact = bytes_known(entry, files)
        total += sum(item.size or 0 for item in files) if size is None else size
        if not exact:
            how_sure = "at least" if size is None or how_sure == "at least" else "about"
    return total, how_sure


def in_words(count: int) -> str:
    """A number of bytes as people say it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
