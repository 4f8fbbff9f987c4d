"""Training state on disk: one file a rank, replaced atomically, read back without running any code from it."""

import os
import random
from pathlib import Path
from typing import Any, BinaryIO

import torch

from engine.errors import TrainingError, disk_errors_explained


def checkpoint_path(output: Path, rank: int = 0) -> Path:
    """Where rank `rank` keeps its state."""
    return output / ("checkpoint.pt" if rank == 0 else f"checkpoint-{rank}.pt")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) so that a crash leaves the old file or the new one.

    A full or failing disk raises `DiskFull`; the file that was there stays.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with disk_errors_explained(f"the checkpoint {path.name}", safe="The last good checkpoint is kept."):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                _write(state, file)
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as err:
        raise TrainingError(
            f"The checkpoint {path.name} cannot be read.", "Delete it to start this training again from the beginning."
        ) from err


def random_state(rng: random.Random) -> list[Any]:
    """The state of a `random.Random` as plain lists and numbers."""
    version, numbers, gauss = rng.getstate()
    return [version, list(numbers), gauss]


def restore_random(rng: random.Random, state: list[Any]) -> None:
    version, numbers, gauss = state
    rng.setstate((version, tuple(numbers), gauss))


class _Watched:
    """A file that remembers why a write failed: torch reports only that it did."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.failure = file, None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as err:
            self.failure = err
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    watched = _Watched(file)
    try:
        torch.save(state, watched)
        file.flush()
    except RuntimeError as err:
        raise watched.failure or err from err


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
