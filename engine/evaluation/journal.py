"""What the drift benchmark has measured so far: a folder with its settings and one JSON line per film.

A line is appended whole and synced; what a kill left of one is cut off. A line counts only for the LoRA file that it
was measured with: after a retraining the old lines stay and are passed over.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from engine.errors import ConfigError, disk_errors_explained
from engine.evaluation.arms import Arm
from engine.evaluation.bootstrap import rounded
from engine.evaluation.chains import Chain
from engine.project.files import write_atomically
from engine.project.locks import locked

Figures = dict[str, list[float]]  # metric -> one number a clip, NaN where there is none
Key = tuple[str, str, int, int]  # arm, weights, seed, chain


class Journal:
    """The films in `folder`."""

    def __init__(self, folder: Path, lines: list[dict]) -> None:
        self.folder = folder
        self.by_key: dict[Key, dict] = {key_of_line(line): line for line in lines}

    @classmethod
    @contextmanager
    def open(cls, folder: Path, description: dict) -> Iterator["Journal"]:
        """The journal, locked against other processes. One of other settings raises `ConfigError`."""
        with disk_errors_explained("the measurements"):
            (folder / "stills").mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", doing="measuring"):
            keep_settings(folder / "settings.json", description)
            yield cls(folder, read_lines(folder / "films.jsonl"))

    @property
    def stills(self) -> Path:
        """Where the last frames for the contact sheet lie."""
        return self.folder / "stills"

    def holds(self, arm: Arm, chains: Sequence[Chain]) -> bool:
        return all(key_of(arm, chain) in self.by_key for chain in chains)

    def add(self, arm: Arm, chains: Sequence[Chain], figures: Sequence[Figures]) -> None:
        """Append one line for each film that is not there yet."""
        lines = [
            line_of(arm, chain, of_chain)
            for chain, of_chain in zip(chains, figures, strict=True)
            if key_of(arm, chain) not in self.by_key
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with disk_errors_explained("the measurements"), (self.folder / "films.jsonl").open("ab") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.by_key |= {key_of_line(line): line for line in lines}

    def values(self, arm: Arm, chains: Sequence[Chain], metric: str) -> np.ndarray:
        """(chains, clips), NaN where a clip has no such number. Every film must be there."""
        lines = [self.by_key[key_of(arm, chain)] for chain in chains]
        return np.array([[np.nan if v is None else v for v in line["metrics"][metric]] for line in lines])


def line_of(arm: Arm, chain: Chain, figures: Figures) -> dict:
    return {
        "arm": arm.name,
        "weights": arm.weights,
        "seed": chain.seed,
        "chain": chain.index,
        "picture": chain.name,
        "moves": ["+".join(asked.names) for asked in chain.asked],
        "metrics": {name: [rounded(value) for value in values] for name, values in figures.items()},
    }


def key_of(arm: Arm, chain: Chain) -> Key:
    return arm.name, arm.weights, chain.seed, chain.index


def key_of_line(line: dict) -> Key:
    return line["arm"], line["weights"], line["seed"], line["chain"]


def keep_settings(path: Path, description: dict) -> None:
    """Write `description` into a fresh folder; refuse a folder that was measured with another one."""
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    if not path.exists():
        with disk_errors_explained("the measurements"):
            write_atomically(path, text.encode(), point="bench.settings")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise ConfigError(f"{path.parent.name}/{path.name} cannot be read.", "Choose another folder: --out.") from err
    changed = sorted(name for name in description | before if description.get(name) != before.get(name))
    if changed:
        raise ConfigError(
            f"{path.parent.name}/ holds films that were measured with other {', '.join(changed)}.",
            "Name another folder: --out DIR.",
        )


def read_lines(path: Path) -> list[dict]:
    """The whole lines of `path`; what stands behind the last line break is cut off the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("rb+") as stream:
            stream.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as err:
        raise ConfigError(f"{path.parent.name}/{path.name} is damaged.", "Name another folder: --out DIR.") from err
