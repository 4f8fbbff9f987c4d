"""Opens the backend that a preset asks for, and names its weights without loading them."""

import hashlib
import os
from functools import cache
from pathlib import Path

from engine.backends.base import Backend, BackendInfo, ClipResult, Interrupted, Notice, StepDone
from engine.config import Preset
from engine.errors import WeightsMissing
from engine.weights.needs import check_present

__all__ = [
    "Backend",
    "BackendInfo",
    "ClipResult",
    "Interrupted",
    "Notice",
    "StepDone",
    "fingerprint",
    "open_backend",
    "started_as",
]

WHOLE_BYTES = 64 << 20
SAMPLE_BYTES = 1 << 20
WEIGHT_SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".bin", ".pth")


def open_backend(preset: Preset, *, threads: int | None = None) -> Backend:
    """Load the model of `preset`, on several GPUs where it says so. Slow: the model stack is imported here."""
    if preset.gpus > 1 or started_as()[1] > 1:
        from engine.backends.parallel import ParallelBackend

        return ParallelBackend.open(preset, threads=threads)
    from engine.backends.local import LocalBackend

    return LocalBackend.open(preset, threads=threads)


def started_as() -> tuple[int, int]:
    """This process's rank and how many torch.distributed.run started, (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def fingerprint(preset: Preset, variant: str, *, draft: bool = False) -> str:
    """A hash of the weights that `variant` uses, computed without torch in well under a second.

    Files above 64 MiB count by size and by their first and last MiB (the safetensors header and the last tensor).
    """
    if preset.random_weights:
        return hashlib.sha256(f"random weights: {preset.name} {variant} {draft}".encode()).hexdigest()
    check_present(preset, variant, draft=draft)
    roots = [preset.path(preset.model), *(preset.path(p) for p in preset.components.model_dump().values() if p)]
    files = [file for root in roots for file in weight_files(root)]
    for expert in ("high", "low"):
        files += [choice.path for choice in preset.loras(variant, expert, strength=1.0, draft=draft)]
    if not files:
        raise WeightsMissing(
            f"The preset “{preset.name}” has no weights at {roots[0].name}/.", "Check `model:` in the preset."
        )
    hasher = hashlib.sha256()
    for file in files:
        try:
            stat = file.stat()
        except OSError as err:
            raise WeightsMissing(f"The weights file {file.name} of “{preset.name}” is missing.") from err
        hasher.update(file.name.encode() + _file_hash(file, stat.st_size, stat.st_mtime_ns))
    return hasher.hexdigest()


def weight_files(root: Path) -> list[Path]:
    """Files under `root` that decide the output, in a stable order; LoRAs and vocabulary are named elsewhere."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise WeightsMissing(f"The weights folder {root.name}/ is missing.", "Check the paths in the preset.")
    return sorted(
        file
        for file in root.rglob("*")
        if file.suffix in WEIGHT_SUFFIXES
        and "loras" not in file.relative_to(root).parts
        and file.name != "vocabulary.json"
    )


@cache
def _file_hash(file: Path, size: int, mtime_ns: int) -> bytes:
    hasher = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        if size <= WHOLE_BYTES:
            hasher.update(stream.read())
        else:
            hasher.update(stream.read(SAMPLE_BYTES))
            stream.seek(size - SAMPLE_BYTES)
            hasher.update(stream.read(SAMPLE_BYTES))
    return hasher.digest()
