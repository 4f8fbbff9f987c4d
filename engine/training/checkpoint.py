"""Training state on disk: one file, replaced atomically, read back without running any code from it."""

import os
import random
from pathlib import Path
from typing import Any

import torch

from engine.errors import TrainingError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) so that a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError) as err:
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
