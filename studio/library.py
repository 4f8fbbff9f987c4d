"""The studio's projects on disk: `<data>/films/<id>/`, who owns them, their presets, and the examples that ship.

Reads are cached by what the file system says about project.json and takes/, so a film edited or rendered from the
command line is seen as well.
"""

import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine import film
from engine.config import Preset, load_preset
from engine.domain import ID_PATTERN, Project, Take, new_id
from engine.errors import DiskFull, ProjectNotFound, StudioError, disk_errors_explained
from engine.film import Plan
from engine.media import video
from engine.project.files import write_atomically
from engine.project.store import Store, read_project
from engine.story.vocabulary import Vocabulary, vocabulary_of

log = logging.getLogger(__name__)
NEW = ".new-"  # a project being made; one rename makes it visible
TRASH = ".trash-"  # a project being deleted; one rename made it invisible
OWNER_FILE = "studio.json"
NOT_COPIED = ("exports", "events.jsonl", "attempts.json", "project.previous.json", OWNER_FILE, ".*")


@dataclass(frozen=True)
class Snapshot:
    """A project as it was when `signature` was taken."""

    signature: tuple[int, ...]
    plan: Plan
    preset: Preset
    takes: dict[str, tuple[Take, ...]]  # by clip id, oldest first
    codec: str
    vocabulary: Vocabulary | None
    blocked: str  # why nothing can be generated, in words


@dataclass(frozen=True)
class Example:
    """A project that ships with the studio."""

    name: str
    title: str
    folder: Path
    poster: Path | None


class Library:
    """Opens, makes, copies and reads projects. Safe to call from any thread."""

    def __init__(self, films: Path, default: Preset, examples: Path) -> None:
        self.films = films
        self.default = default
        self.trained: Callable[[str], Path | None] = lambda name: None  # preset file of a LoRA of the Lab
        self._examples_folder = examples
        self._lock = threading.Lock()
        self._stores: dict[str, Store] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._planning: dict[str, threading.Lock] = {}
        self._presets = {default.name: default}
        self._examples: tuple[Example, ...] | None = None
        with disk_errors_explained("the data folder"):
            films.mkdir(parents=True, exist_ok=True)
        for leftover in (*films.glob(f"{NEW}*"), *films.glob(f"{TRASH}*")):
            shutil.rmtree(leftover, ignore_errors=True)
        self._owners = {
            folder.name: read_owner(folder) for folder in films.iterdir() if ID_PATTERN.fullmatch(folder.name)
        }

    # Looking up

    def exists(self, project_id: str) -> bool:
        return project_id in self._owners or (
            bool(ID_PATTERN.fullmatch(project_id)) and (self.films / project_id / "project.json").is_file()
        )

    def folder(self, project_id: str) -> Path:
        if not self.exists(project_id):
            raise ProjectNotFound("There is no such project here.", "Check the link.")
        return self.films / project_id

    def store(self, project_id: str) -> Store:
        folder = self.folder(project_id)
        with self._lock:  # also while recovering: it holds the render lock for a moment, which the worker may want next
            if project_id not in self._stores:
                store = Store(folder)
                store.recover()
                self._stores[project_id] = store
            return self._stores[project_id]

    def project(self, project_id: str) -> Project:
        """The saved project, from the cache while the file is the same."""
        known = self._snapshots.get(project_id)
        if known and known.signature[:3] == signature(self.folder(project_id))[:3]:
            return known.plan.project
        return self.store(project_id).load()

    def preset(self, project: Project) -> Preset:
        return self.preset_called(project.preset)

    def preset_called(self, name: str) -> Preset:
        """The preset this studio runs, one that ships, or one of the Lab."""
        with self._lock:
            if name in self._presets:
                return self._presets[name]
        preset = load_preset(str(self.trained(name) or name))
        with self._lock:
            return self._presets.setdefault(preset.name, preset)

    def owner(self, project_id: str) -> str:
        return self._owners.get(project_id, "")

    def count(self, owner: str) -> int:
        return sum(other == owner for other in list(self._owners.values()))

    def signature(self, project_id: str) -> tuple[int, ...]:
        return signature(self.films / project_id)

    def snapshot(self, project_id: str) -> Snapshot:
        """Plan, takes and preset of the project; read anew only when something on disk changed."""
        store = self.store(project_id)
        with self._planning.setdefault(project_id, threading.Lock()):
            current = signature(store.folder)
            known = self._snapshots.get(project_id)
            if known and known.signature == current and not known.blocked:  # weights may have come meanwhile
                return known
            snapshot = self._read(store, current)
            self._snapshots[project_id] = snapshot
            return snapshot

    def changed(self, project_id: str) -> None:
        """Forget what was read: a take was committed, or the project was edited."""
        self._snapshots.pop(project_id, None)

    def _read(self, store: Store, current: tuple[int, ...]) -> Snapshot:
        project, on_disk = store.load(), film.alike(store.takes())
        preset = self.preset(project)
        blocked = ""
        vocabulary = None
        try:
            plan = film.plan(store, preset, project)
            vocabulary = vocabulary_of(preset)
        except StudioError as err:  # weights are not here: what is made can still be seen
            blocked = str(err)
            plan = film.plan_of_takes(project, on_disk, outgrown=film.outgrown(project, on_disk.values(), preset))
        takes: dict[str, tuple[Take, ...]] = {}
        for take in sorted(on_disk.values(), key=lambda take: take.created):
            takes[take.clip_id] = (*takes.get(take.clip_id, ()), take)
        codec = ""
        if plan.film and plan.film[0].take:
            try:
                codec = video.codec_string(store.take_folder(plan.film[0].take.digest) / "segment.mp4")
            except StudioError as err:
                log.warning("first segment of %s: %s", project.id[:6], err.message)
        return Snapshot(current, plan, preset, takes, codec, vocabulary, blocked)

    # Making

    def create(self, owner: str, make: Callable[[Path], object]) -> str:
        """The id of a new project: `make` builds it in the folder it is given; nothing is left when it fails."""
        folder = self.films / f"{NEW}{secrets.token_hex(8)}"
        try:
            make(folder)
            project = read_project(folder / "project.json")
            with disk_errors_explained("a new project"):
                write_atomically(folder / OWNER_FILE, json.dumps({"owner": owner}).encode(), point="owner")
                os.rename(folder, self.films / project.id)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._owners[project.id] = owner
        return project.id

    def copy(self, owner: str, source: Path, *, title: str = "", reserve_bytes: int = 0) -> str:
        """The id of a copy of the project in `source` for `owner`, with `reserve_bytes` left on the disk."""
        size = sum(file.stat().st_size for file in (source / "takes").rglob("*.*") if file.is_file())
        if (free := shutil.disk_usage(self.films).free) < size + reserve_bytes:
            raise DiskFull(
                f"No room for a copy ({free / 1e9:.1f} GB left, {(size + reserve_bytes) / 1e9:.1f} GB wanted).",
                "Nothing was changed. Free space, then copy again.",
            )

        def make(folder: Path) -> None:
            with disk_errors_explained("a copy"):
                shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
                for name in ("takes", "exports"):
                    (folder / name).mkdir(exist_ok=True)
            changes = {"id": new_id(), **({"title": title[:200]} if title else {})}
            store = Store(folder)
            store.edit(lambda project: project.model_copy(update=changes))
            store.previous_file.unlink(missing_ok=True)  # it names the original

        return self.create(owner, make)

    def delete(self, project_id: str) -> None:
        """The project is gone at once; its files go in the background, or at the next start."""
        folder, trash = self.folder(project_id), self.films / f"{TRASH}{project_id}"
        with disk_errors_explained("the data folder"):
            with Store(folder).lock("render"):  # the command line may be rendering into it
                pass
            os.rename(folder, trash)
        self.forget(project_id)
        self._owners.pop(project_id, None)
        threading.Thread(target=shutil.rmtree, args=(trash, True), name="delete", daemon=True).start()

    def forget(self, project_id: str) -> None:
        """Drop what was read of the project."""
        for table in (self._stores, self._snapshots, self._planning):
            table.pop(project_id, None)

    def count_with_preset(self, start: str) -> int:
        """How many films use a preset whose name starts so."""
        count = 0
        for project_id in list(self._owners):
            with suppress(StudioError, OSError):
                count += self.project(project_id).preset.startswith(start)
        return count

    def examples(self) -> tuple[Example, ...]:
        if self._examples is None:
            found = (read_example(file.parent) for file in sorted(self._examples_folder.glob("*/project.json")))
            self._examples = tuple(example for example in found if example)
        return self._examples


def signature(folder: Path) -> tuple[int, ...]:
    """Changes whenever project.json is replaced or a take is added."""
    try:
        file = (folder / "project.json").stat()
        takes = (folder / "takes").stat()
    except OSError:
        return ()
    return file.st_ino, file.st_mtime_ns, file.st_size, takes.st_mtime_ns, takes.st_nlink


def read_owner(folder: Path) -> str:
    try:
        return str(json.loads((folder / OWNER_FILE).read_text())["owner"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_example(folder: Path) -> Example | None:
    try:
        project = read_project(folder / "project.json")
    except StudioError as err:
        log.warning("example %s: %s", folder.name, err.message)
        return None
    posters = sorted(folder.glob("takes/*/poster.jpg"))
    return Example(folder.name, project.title, folder, posters[0] if posters else None)


def owner_of(secret: str) -> str:
    """How an owner's secret is remembered: as a hash, so that the data folder holds no secret of a visitor."""
    return hashlib.sha256(f"owner:{secret}".encode()).hexdigest()[:32]
