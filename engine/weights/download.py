"""Fetch what is missing, file by file: into `NAME.<id>.part`, resumed after any stop, renamed only when verified.

A generator of events; closing it keeps what has arrived. `<id>` is the file's hash, so that a part of another version
is never continued.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine import faults
from engine.errors import DiskFull, WeightsMismatch, WeightsMissing, disk_errors_explained
from engine.events import Event
from engine.project.files import fsync_file, fsync_folder
from engine.weights.checks import checked
from engine.weights.hub import ConnectionCut, Hub, Listing, RangeRefused, RemoteFile
from engine.weights.inventory import PART_SUFFIX, Item, Wanted, in_words, items, parts_of, state_of
from engine.weights.lock import Lock, LockedFile, Snapshot, now, read_lock, remember, working_in
from engine.weights.manifest import Entry

MAX_TRIES = 5  # in a row without a single new byte
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)
PROGRESS_EVERY_S = 0.5
KEPT = "What has arrived is kept."


@dataclass(frozen=True)
class WeightsPlanned(Event):
    """How much is fetched, and how much room there is."""

    files: int
    bytes: int
    free: int


@dataclass(frozen=True)
class WeightsProgress(Event):
    file: str
    done: int
    of: int


@dataclass(frozen=True)
class WeightsInterrupted(Event):
    """The connection broke; the download goes on from `done` after `pause_s` seconds."""

    file: str
    done: int
    reason: str
    pause_s: float


@dataclass(frozen=True)
class WeightsReady(Event):
    """A file is whole, verified and under its own name. `fetched` is False when it was there already."""

    file: str
    bytes: int
    sha256: str
    fetched: bool


@dataclass(frozen=True)
class Remote:
    """A wanted file as the Hub has it, with the hashes it must have."""

    item: Item
    file: RemoteFile
    listing: Listing

    def target(self, models: Path) -> Path:
        return models / self.item.key

    def part(self, models: Path) -> Path:
        identity = self.file.sha256 or self.file.blob_id or self.listing.commit
        target = self.target(models)
        return target.with_name(f"{target.name}.{identity[:12]}{PART_SUFFIX}")


def free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def download(
    wanted: Sequence[Wanted],
    hub: Hub,
    models: Path,
    *,
    reserve_bytes: int,
    pause: Callable[[float], None] = time.sleep,
    free: Callable[[Path], int] = free_bytes,
) -> Iterator[Event]:
    """Fetch every file of `wanted` that is not in `models` yet; needs no connection when all are there."""
    with working_in(models, doing="fetching weights"):
        lock = read_lock(models)
        remotes = find_remotes([want for want in wanted if not _is_here(want, models, lock)], hub, lock, pause=pause)
        missing = [remote for remote in remotes if not _can_stay(remote, models, lock)]
        to_fetch = sum(remote.file.size - _bytes_in(remote.part(models)) for remote in missing)
        room = free(models)
        yield WeightsPlanned(len(missing), to_fetch, room)
        if missing and room < to_fetch + reserve_bytes:
            raise DiskFull(
                f"No room for the weights: {in_words(to_fetch)} are to be fetched, {in_words(room)} are free and "
                f"{in_words(reserve_bytes)} stay in reserve.",
                f"Free {in_words(to_fetch + reserve_bytes - room)}, or set SVI_MODELS_DIR to a larger disk.",
            )
        _remember_snapshots(models, lock, remotes)
        for remote in remotes:
            if remote in missing:
                yield from _fetched(remote, hub, models, pause)
            elif remote.item.key not in lock.files:
                yield _adopted(remote, models)


def find_remotes(
    wanted: Sequence[Wanted],
    hub: Hub,
    lock: Lock,
    *,
    pause: Callable[[float], None] = time.sleep,
    tries: int = MAX_TRIES,
) -> list[Remote]:
    """The files of `wanted` as the Hub has them; refuses any whose hash differs from a pinned or remembered one."""
    listings: dict[str, Listing] = {}
    remotes: dict[str, Remote] = {}
    for want in wanted:
        entry = want.entry
        if entry.id not in listings:
            listings[entry.id] = _listed(entry, hub, lock, pause, tries)
        listing = listings[entry.id]
        found = [file for path, file in listing.files.items() if want.row.fits(path)]
        if not found:
            raise WeightsMissing(
                f"{entry.repo} has no file {want.row.path} at commit {listing.commit[:12]}.",
                want.row.note or entry.note or f"See {entry.licence_source}.",
            )
        for file in found:
            pinned = want.row.sha256, want.row.size
            remotes[entry.key(file.path)] = _pinned_remote(entry, file, listing, lock, pinned)
    return list(remotes.values())


def _listed(entry: Entry, hub: Hub, lock: Lock, pause: Callable[[float], None], tries: int) -> Listing:
    """The entry's repository at its pinned commit, else at the commit of the first download, else as it is today."""
    snapshot = lock.snapshots.get(entry.id)
    revision = snapshot.commit if snapshot and not entry.is_commit else entry.revision
    for attempt in range(tries):
        try:
            return hub.listing(entry.repo, revision)
        except ConnectionCut as err:
            cause = err
            if attempt < tries - 1:
                pause(PAUSES_S[attempt])
    raise WeightsMissing(
        f"The Hub could not be reached ({cause}).", "Check the connection and run the same command again."
    ) from cause


def _pinned_remote(
    entry: Entry, file: RemoteFile, listing: Listing, lock: Lock, pinned: tuple[str | None, int | None]
) -> Remote:
    sha256, size = pinned
    line = lock.files.get(entry.key(file.path))
    for expected, who in ((sha256, "the studio's manifest"), (line.sha256 if line else None, "the first download")):
        if expected and file.sha256 and file.sha256 != expected:
            raise WeightsMismatch(
                f"{entry.key(file.path)} on the Hub (sha256 {file.sha256[:12]}…) is not the file that {who} knows "
                f"({expected[:12]}…).",
                "It was replaced there. Nothing was fetched; delete its line in weights.lock.json to accept another."
                if who == "the first download"
                else "It was replaced there. Nothing was fetched.",
            )
    if size is not None and file.size != size:
        raise WeightsMismatch(
            f"{entry.key(file.path)} on the Hub has {file.size} bytes; the studio's manifest says {size}.",
            "It was replaced there. Nothing was fetched.",
        )
    item = Item(entry, file.path, file.size, sha256 or file.sha256 or (line.sha256 if line else None))
    return Remote(item, file, listing)


def _is_here(want: Wanted, models: Path, lock: Lock) -> bool:
    """True when nothing has to be asked: the row's files are known from an earlier download, and all are there."""
    known = not want.row.is_pattern or want.entry.id in lock.snapshots
    return known and all(state_of(item, models, lock) == "ready" for item in items([want], models, lock))


def _can_stay(remote: Remote, models: Path, lock: Lock) -> bool:
    """True for a file of the right size under its final name; what the lock file does not know is never replaced."""
    target = remote.target(models)
    if not target.exists():
        return False
    return remote.item.key not in lock.files or target.stat().st_size == remote.file.size


def _remember_snapshots(models: Path, lock: Lock, remotes: Sequence[Remote]) -> None:
    entries = {remote.item.entry.id: remote for remote in remotes}
    snapshots = {}
    for id_, remote in entries.items():
        files = tuple(path for path in sorted(remote.listing.files) if remote.item.entry.row(path))
        snapshots[id_] = Snapshot(commit=remote.listing.commit, files=files)
    if snapshots != {id_: lock.snapshots.get(id_) for id_ in snapshots}:
        remember(models, Lock(snapshots=snapshots))


def _adopted(remote: Remote, models: Path) -> WeightsReady:
    """Accept a file that somebody put in place, when it is the Hub's."""
    try:
        sha256 = checked(remote.target(models), remote.item, blob_id=remote.file.blob_id)
    except WeightsMismatch as err:
        raise WeightsMismatch(err.message, "It is left in place. Delete it to have it downloaded.") from err
    return _recorded(remote, models, sha256, fetched=False)


def _fetched(remote: Remote, hub: Hub, models: Path, pause: Callable[[float], None]) -> Iterator[Event]:
    """Fetch one file; when its bytes turn out wrong, once more from the start, and then give up."""
    target, part = remote.target(models), remote.part(models)
    with disk_errors_explained(remote.item.key, safe=KEPT):
        target.parent.mkdir(parents=True, exist_ok=True)
        for other in set(parts_of(target)) - {part}:
            other.unlink()
    for last_try in (False, True):
        yield from _filled(part, remote, hub, pause)
        try:
            sha256 = checked(part, remote.item, blob_id=remote.file.blob_id)
            break
        except WeightsMismatch as err:
            part.unlink()
            if last_try:
                raise WeightsMismatch(
                    f"{err.message} It was fetched twice and came out wrong twice; nothing of it is kept.",
                    "A proxy or the disk may be at fault. Try another network, or look at the file on the Hub.",
                ) from err
            yield WeightsInterrupted(remote.item.key, 0, "the bytes are not those of the file", 0.0)
    with disk_errors_explained(remote.item.key, safe=KEPT):
        fsync_file(part)
        faults.hit("weights.rename")
        os.replace(part, target)
        fsync_folder(target.parent)
    yield _recorded(remote, models, sha256, fetched=True)


def _filled(part: Path, remote: Remote, hub: Hub, pause: Callable[[float], None]) -> Iterator[Event]:
    """Bring `part` to its full size, going on from what it holds, however often the connection breaks."""
    size, key = remote.file.size, remote.item.key
    if _bytes_in(part) > size:
        part.unlink()
    if size == 0:
        part.touch()
    yield WeightsProgress(key, _bytes_in(part), size)
    tries = 0
    while (before := _bytes_in(part)) < size:
        reason = "the connection ended early"
        try:
            yield from _appended(part, remote, hub)
        except RangeRefused:
            part.unlink(missing_ok=True)
            reason = "the server begins again"
        except ConnectionCut as err:
            reason = str(err)
        done = _bytes_in(part)
        if done >= size:
            break
        tries = 0 if done > before else tries + 1
        if tries == MAX_TRIES:
            raise WeightsMissing(
                f"The download of {key} stopped at {in_words(done)} of {in_words(size)} ({reason}).",
                f"{KEPT} The same command goes on from there.",
            )
        yield WeightsInterrupted(key, done, reason, PAUSES_S[tries])
        pause(PAUSES_S[tries])
    yield WeightsProgress(key, size, size)


def _appended(part: Path, remote: Remote, hub: Hub) -> Iterator[Event]:
    """One connection: add what it brings to `part`."""
    done, said = _bytes_in(part), time.monotonic()
    with disk_errors_explained(remote.item.key, safe=KEPT), part.open("ab") as stream:
        for chunk in hub.chunks(remote.listing, remote.file, start=done):
            faults.hit("weights.chunk")
            stream.write(chunk)
            done += len(chunk)
            if done > remote.file.size:
                return  # its size tells that it is another file
            if time.monotonic() - said >= PROGRESS_EVERY_S:
                said = time.monotonic()
                yield WeightsProgress(remote.item.key, done, remote.file.size)


def _recorded(remote: Remote, models: Path, sha256: str, *, fetched: bool) -> WeightsReady:
    item = remote.item
    line = LockedFile(
        repo=item.entry.repo,
        path=item.path,
        commit=remote.listing.commit,
        size=remote.file.size,
        sha256=sha256,
        verified=now(),
        source="hub",
    )
    remember(models, Lock(files={item.key: line}))
    return WeightsReady(item.key, remote.file.size, sha256, fetched)


def _bytes_in(part: Path) -> int:
    with suppress(OSError):
        return part.stat().st_size
    return 0
