"""Pickled checkpoints are loaded only when their sha256 is pinned (rule S17): a pickle can run code."""

from pathlib import Path

from engine.config import models_dir
from engine.errors import WeightsMismatch, WeightsMissing
from engine.weights.checks import sha256_of
from engine.weights.lock import read_lock
from engine.weights.manifest import manifest


def pinned_hashes(name: str) -> set[str]:
    """The sha256 of every file called `name` that the manifest vouches for, or the Hub did when it was downloaded."""
    pins = {row.sha256 for entry in manifest().entries for row in entry.files if row.path.rpartition("/")[2] == name}
    lines = [line for line in read_lock(models_dir()).files.values() if line.source == "hub"]
    return {pin for pin in pins if pin} | {line.sha256 for line in lines if line.path.rpartition("/")[2] == name}


def check_pinned(path: Path) -> None:
    """Raise unless the file at `path` has a hash pinned for a file of its name. Reads every byte.

    Call it right before `torch.load(path, weights_only=True)`.
    """
    hint = "Use safetensors, or a file fetched with: python -m engine weights download."
    pins = pinned_hashes(path.name)
    if not path.is_file():
        raise WeightsMissing(f"There is no file {path.name}.", "Get it with: python -m engine weights download.")
    if not pins:
        raise WeightsMismatch(f"{path.name} is a pickle that nothing vouches for; it is not loaded.", hint)
    try:
        found = sha256_of(path)
    except OSError as err:
        raise WeightsMismatch(f"{path.name} could not be read ({err.strerror}).", hint) from err
    if found not in pins:
        raise WeightsMismatch(
            f"{path.name} is a pickle, and not the one that is known: its sha256 is {found[:12]}…; it is not loaded.",
            hint,
        )
