"""Every error that is meant for the user's eyes.

    StudioError
    ├── ConfigError              a preset, setting or flag is wrong
    ├── InputError               an image, prompt, count or file given by the user is wrong
    ├── ProjectError
    │   ├── ProjectNotFound
    │   ├── ProjectCorrupt       left in place, never rewritten
    │   ├── ProjectLocked        another process is at work on it
    │   ├── ProjectTooNew        written by a later version: readable by that version only
    │   └── DiskFull             no room, or nothing may be written; finished clips are safe
    ├── ModelError
    │   ├── WeightsMissing
    │   └── WeightsMismatch
    ├── GenerationError
    │   └── OutOfMemory
    ├── BackendUnavailable
    ├── StorylineError
    └── TrainingError

Anything else that escapes is a bug: it is logged with a traceback and an id, and only the id is shown.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class StudioError(Exception):
    """One sentence about what happened, and one (`hint`) about what is safe and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self):
        return type(self), (self.message, self.hint)


class ConfigError(StudioError): ...


class InputError(StudioError): ...


class ProjectError(StudioError): ...


class ProjectNotFound(ProjectError): ...


class ProjectCorrupt(ProjectError): ...


class ProjectLocked(ProjectError): ...


class ProjectTooNew(ProjectError): ...


class DiskFull(ProjectError): ...


class ModelError(StudioError): ...


class WeightsMissing(ModelError): ...


class WeightsMismatch(ModelError): ...


class GenerationError(StudioError): ...


class OutOfMemory(GenerationError): ...


class BackendUnavailable(StudioError): ...


class StorylineError(StudioError): ...


class TrainingError(StudioError): ...


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """A phrase that names the closest known word, or lists them all when none is close."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean “{close[0]}”?"
    return "Known: " + ", ".join(sorted(known)) + "."


@contextmanager
def disk_errors_explained(what: str, *, safe: str = "Finished clips are safe.") -> Iterator[None]:
    """Turn the operating system's refusal to write `what` into a `DiskFull` that says what is `safe`."""
    try:
        yield
    except OSError as err:
        match err.errno:
            case errno.ENOSPC | errno.EDQUOT:
                raise DiskFull(f"No room on the disk to write {what}.", f"{safe} Free space, then resume.") from err
            case errno.EROFS | errno.EACCES | errno.EPERM:
                raise DiskFull(
                    f"The folder is read-only: {what} could not be written.", f"{safe} Allow writing, then resume."
                ) from err
            case errno.ENOTDIR | errno.EEXIST | errno.EISDIR | errno.ENAMETOOLONG:
                raise InputError(f"The path for {what} cannot be used ({err.strerror}).", "Choose another.") from err
            case errno.EIO:
                raise DiskFull(
                    f"The disk failed while writing {what}.", f"{safe} Check the disk, then resume."
                ) from err
        raise
