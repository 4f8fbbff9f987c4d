"""One film folder: create, open, edit and recover it.

    project.json  project.previous.json  inputs/  takes/<digest>/  exports/  events.jsonl  attempts.json

The worker only adds takes; only `edit` changes project.json, under the edit lock.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from engine import faults
from engine.domain import Project, Take
from engine.errors import (
    DiskFull,
    InputError,
    ProjectCorrupt,
    ProjectLocked,
    ProjectNotFound,
    disk_errors_explained,
)
from engine.events import Event
from engine.project import takes
from engine.project.files import write_atomically
from engine.project.locks import locked
from engine.project.migrations import migrate
from engine.storyboard import MAX_STORYBOARD_BYTES

log = logging.getLogger(__name__)
EDIT_WAIT_S = 5.0


class Store:
    """A project folder. Holds no state besides its path (and takes already read): every read goes to the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project_file = folder / "project.json"
        self.previous_file = folder / "project.previous.json"
        self.inputs = folder / "inputs"
        self.takes_folder = folder / "takes"
        self.exports = folder / "exports"
        self._takes: dict[str, Take] = {}

    @classmethod
    def create(cls, folder: Path, project: Project, image: Path) -> "Store":
        """Make `folder` around `project` and its already validated `image` file; refuses a folder that holds one."""
        store = cls(folder)
        if store.project_file.exists():
            raise InputError(f"{folder.name}/ already holds a project.", "Extend it, or choose another folder.")
        with disk_errors_explained("a new project"):
            for path in (store.inputs, store.takes_folder, store.exports):
                path.mkdir(parents=True, exist_ok=True)
            target = store.inputs / project.inputs.image
            if image.resolve() != target.resolve():
                shutil.copyfile(image, target)
            store._write(project)
        return store

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """The project in `folder`, recovered after a crash if no one is rendering into it."""
        store = cls(folder)
        if not folder.is_dir() or not (store.project_file.exists() or store.previous_file.exists()):
            raise ProjectNotFound(
                f"There is no project at {folder.name}/.", "Check the path, or start one with “generate”."
            )
        store.load()
        store.recover()
        return store

    def load(self) -> Project:
        """The project as last saved. Damaged JSON raises `ProjectCorrupt` and is left in place."""
        return read_project(self.project_file)

    def edit(self, change: Callable[[Project], Project]) -> Project:
        """Apply `change` to the saved project under the edit lock, save it with rev+1 and return it."""
        with self.lock("edit"), disk_errors_explained("the project"):
            before = self.load()
            after = change(before)
            if after == before:
                return before
            after = Project.model_validate(after.model_copy(update={"rev": before.rev + 1}).model_dump())
            data = as_bytes(after)
            write_atomically(self.previous_file, self.project_file.read_bytes(), point="project.previous")
            write_atomically(self.project_file, data, point="project")
            return after

    def restore_previous(self) -> Project:
        """Put the last good version in the place of a damaged project.json, which is kept beside it."""
        with self.lock("edit"), disk_errors_explained("the project"):
            previous = read_project(self.previous_file)
            if self.project_file.exists():
                os.replace(self.project_file, self.folder / "project.damaged.json")
            self._write(previous)
            return previous

    def takes(self) -> dict[str, Take]:
        """All whole takes by digest. Takes never change, so one that was read is only checked for its segment."""
        known, found = self._takes, {}
        for digest in takes.names(self.takes_folder):
            folder = self.takes_folder / digest
            take = known.get(digest)
            whole = takes.has_segment(folder, take) if take else (take := takes.read(folder)) is not None
            if take and whole:
                found[digest] = take
        self._takes = found  # replaced whole: threads of the studio share a store
        return dict(found)

    def take_folder(self, digest: str) -> Path:
        return self.takes_folder / digest

    def anchor_file(self, project: Project) -> Path:
        return self.inputs / project.inputs.image

    @contextmanager
    def lock(self, kind: str) -> Iterator[None]:
        """Hold the `edit` (waits a little) or `render` lock (fails at once when held elsewhere)."""
        doing = {"edit": "editing it", "render": "rendering it"}[kind]
        with locked(self.folder / f".{kind}.lock", doing=doing, wait_s=EDIT_WAIT_S if kind == "edit" else 0.0):
            yield

    def recover(self) -> None:
        """Delete what a crash left half-made, unless a live process is rendering or the folder is read-only."""
        try:
            with self.lock("render"):
                removed = takes.remove_leftovers(self.takes_folder)
                for part in [*self.exports.glob("*.part*"), *self.folder.glob(".project*.tmp")]:
                    part.unlink(missing_ok=True)
                    removed += 1
        except (ProjectLocked, DiskFull):
            return
        if removed:
            log.info("recovered project %s: removed %d leftovers", self.folder.name[:8], removed)

    def record(self, event: Event) -> None:
        """Append `event` to events.jsonl; history is not worth losing a clip for, so a full disk is ignored."""
        try:
            faults.hit("events.append")
            with (self.folder / "events.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(event.to_json(), ensure_ascii=False) + "\n")
        except OSError as err:
            log.warning("event not recorded: %s", err.strerror)

    def attempts(self) -> dict[str, int]:
        """How often each unfinished digest was started."""
        try:
            data = json.loads((self.folder / "attempts.json").read_text())
            return {str(k): int(v) for k, v in data.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def set_attempt(self, digest: str, count: int) -> None:
        """Remember that `digest` was started `count` times; 0 forgets it."""
        attempts = {k: v for k, v in self.attempts().items() if k != digest} | ({digest: count} if count else {})
        with disk_errors_explained("the journal"):
            write_atomically(self.folder / "attempts.json", json.dumps(attempts).encode(), point="attempts")

    def _write(self, project: Project) -> None:
        write_atomically(self.project_file, as_bytes(project), point="project")


def as_bytes(project: Project) -> bytes:
    """What project.json holds. Raises `InputError` when it is more than `read_project` takes."""
    data = project.model_dump_json(indent=1).encode()
    if len(data) > MAX_STORYBOARD_BYTES:
        raise InputError(
            f"The project would have {len(data) / 1e6:.1f} MB; up to {MAX_STORYBOARD_BYTES / 1e6:.1f} are allowed.",
            "It was left as it was. Shorten the storyline.",
        )
    return data


def read_project(path: Path) -> Project:
    """The project in the file `path`, migrated to the current schema in memory."""
    keep = "It was left as it is. project.previous.json holds the last good version, if there is one."
    try:
        if path.stat().st_size > MAX_STORYBOARD_BYTES:
            raise ProjectCorrupt(f"{path.name} is too large to be a project.", keep)
        return Project.model_validate(migrate(json.loads(path.read_bytes())))
    except FileNotFoundError as err:
        raise ProjectCorrupt(f"{path.name} is missing.", keep) from err
    except OSError as err:
        raise ProjectCorrupt(f"{path.name} could not be read ({err.strerror}).", keep) from err
    except (ValueError, ValidationError, RecursionError, InputError) as err:
        raise ProjectCorrupt(f"{path.name} is damaged.", keep) from err
