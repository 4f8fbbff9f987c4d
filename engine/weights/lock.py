"""`weights.lock.json` in the models folder: what each file was when it was first verified (trust on first use).

A file without a line here is unverified, whatever its name says.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from engine.config import Settings
from engine.errors import WeightsMismatch, disk_errors_explained
from engine.project.files import write_atomically
from engine.project.locks import locked
from engine.weights.manifest import SHA256

LOCK_NAME = "weights.lock.json"


class LockedFile(Settings):
    """A verified file. `source`: the Hub vouched for the hash, or it was only computed here."""

    repo: str
    path: str
    commit: str | None = None
    size: int = Field(ge=0)
    sha256: str = Field(pattern=SHA256)
    verified: str
    source: Literal["hub", "local"]


class Snapshot(Settings):
    """The files of one entry at the commit it was first downloaded from."""

    commit: str
    files: tuple[str, ...]


class Lock(Settings):
    """The lock file; `files` by their place below the models folder, `snapshots` by the entry's id."""

    version: Literal[1] = 1
    files: dict[str, LockedFile] = Field({})
    snapshots: dict[str, Snapshot] = Field({})


def read_lock(models: Path) -> Lock:
    path = models / LOCK_NAME
    try:
        return Lock.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return Lock()
    except (OSError, ValidationError) as err:
        raise WeightsMismatch(
            f"{LOCK_NAME} in the models folder cannot be read.",
            "Move it away; “python -m engine weights verify --all” writes another from the files that are there.",
        ) from err


def remember(models: Path, more: Lock) -> None:
    """Add the lines of `more` to the lock file of `models`. Call it inside `working_in`."""
    lock = read_lock(models)
    merged = Lock(files=lock.files | more.files, snapshots=lock.snapshots | more.snapshots)
    text = json.dumps(merged.model_dump(), indent=1, sort_keys=True, ensure_ascii=False)
    with disk_errors_explained(LOCK_NAME, safe="Downloaded files are safe."):
        write_atomically(models / LOCK_NAME, text.encode() + b"\n", point="weights.lock")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def working_in(models: Path, *, doing: str) -> Iterator[None]:
    """Keep other processes from writing into the models folder; it is made when it is not there."""
    with disk_errors_explained("the models folder", safe="Nothing was changed."):
        models.mkdir(parents=True, exist_ok=True)
    with locked(models / ".weights.lock", doing=doing):
        yield
