"""A bank of errors by noise level: what a model got wrong, kept to be injected again (arXiv 2510.09212 §4.3).

Used twice, as `latent_errors` (the paper's B_vid) and `noise_errors` (B_noi). Errors are (C, f, h, w) of one shape.
A paper-size bank (50 grids × 500) is 105 GB at 480p: capacity, 8-bit storage, pooling and a file on disk make it fit.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import TrainingError

Storage = Literal["float32", "bfloat16", "float8"]
Replacement = Literal["most_similar", "random", "oldest"]
BYTES = {"float32": 4, "bfloat16": 2, "float8": 1}
FLOAT8_MAX = 448.0  # torch.float8_e4m3fn


@dataclass(frozen=True)
class BankSettings:
    """How much is kept and how.

    capacity: entries a grid, 500 in the paper. pooling: errors are averaged over pooling × pooling latent pixels and
    spread out again when drawn, which keeps their low frequencies only. folder: memory-mapped files instead of RAM.
    """

    num_grids: int = 50
    capacity: int = 500
    storage: Storage = "bfloat16"
    replacement: Replacement = "most_similar"
    pooling: int = 1
    folder: Path | None = None


class ErrorBank:
    """At most `capacity` errors for each of the noise levels `grid`, which fall from 1; a level finds its nearest."""

    def __init__(self, grid: Tensor, shape: tuple[int, ...], settings: BankSettings, *, name: str = "errors") -> None:
        self.grid, self.shape, self.settings, self.name = grid.double().cpu(), tuple(shape), settings, name
        self.counts = torch.zeros(len(grid), dtype=torch.int64)
        self.added = torch.zeros(len(grid), dtype=torch.int64)
        self._rows: dict[int, Tensor] = {}
        self._scales: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def stored_shape(self) -> tuple[int, ...]:
        *rest, height, width = self.shape
        pooling = self.settings.pooling
        return (*rest, math.ceil(height / pooling), math.ceil(width / pooling))

    @property
    def entry_bytes(self) -> int:
        return math.prod(self.stored_shape) * BYTES[self.settings.storage]

    @property
    def full_bytes(self) -> int:
        """Bytes of a bank whose every grid is full."""
        return self.entry_bytes * self.settings.capacity * len(self.grid)

    @property
    def fill(self) -> float:
        """Share of the places that are taken."""
        return len(self) / (self.settings.capacity * len(self.grid))

    def nearest(self, sigma: Tensor) -> Tensor:
        """Index of the nearest noise level for each of `sigma` (n,)."""
        return (self.grid[None] - sigma.double().cpu().flatten()[:, None]).abs().argmin(1)

    def add(self, errors: Tensor, sigma: Tensor, generator: torch.Generator) -> None:
        """Keep `errors` (n, C, f, h, w) under their noise levels `sigma` (n,). A full grid replaces one of its own.

        Errors that are not finite raise `TrainingError`.
        """
        if tuple(errors.shape[1:]) != self.shape:
            raise ValueError(f"expected errors (n, {', '.join(map(str, self.shape))}), got {tuple(errors.shape)}")
        if not torch.isfinite(errors).all():
            raise TrainingError(f"An error for the bank of {self.name} is not a number.", "The step is not kept.")
        for row, index in zip(self._packed(errors), self.nearest(sigma).tolist(), strict=True):
            self._put(index, self._place(index, row, generator), row)

    def draw(self, sigma: Tensor, generator: torch.Generator) -> Tensor:
        """One uniform draw from the nearest grid of each noise level (n,) (Eq. 5); zeros where that grid is empty."""
        counts = [(index, int(self.counts[index])) for index in self.nearest(sigma).tolist()]
        return self._take([(index, self._uniform(count, generator) if count else None) for index, count in counts])

    def draw_any(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` uniform draws over every stored error, whatever its noise level; zeros while there is none."""
        if len(self) == 0:
            return torch.zeros(count, *self.shape)
        ends = self.counts.cumsum(0)
        picks = torch.randint(len(self), (count,), generator=generator)
        grids = torch.searchsorted(ends, picks, right=True)
        places = picks - (ends - self.counts)[grids]
        return self._take(list(zip(grids.tolist(), places.tolist(), strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs, the stored errors included."""
        return {
            "shape": list(self.shape),
            "capacity": self.settings.capacity,
            "storage": self.settings.storage,
            "pooling": self.settings.pooling,
            "on_disk": self.settings.folder is not None,
            "grid": self.grid,
            "counts": self.counts,
            "added": self.added,
            "rows": {str(i): rows[: self.counts[i]].clone() for i, rows in self._rows.items()},
            "scales": {str(i): scales[: self.counts[i]].clone() for i, scales in self._scales.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved bank. One of another shape, capacity, storage or grid raises `TrainingError`."""
        mine = (list(self.shape), self.settings.capacity, self.settings.storage, self.settings.pooling)
        saved = (state["shape"], state["capacity"], state["storage"], state["pooling"])
        if mine != saved or not torch.equal(state["grid"], self.grid):
            raise TrainingError(
                f"The saved bank of {self.name} has shape, capacity, storage, pooling {saved}; the recipe: {mine}.",
                "Use the settings the run was started with, or another output folder.",
            )
        self.counts, self.added = state["counts"].clone(), state["added"].clone()
        self._rows, self._scales = {}, {}
        for key, rows in state["rows"].items():
            index = int(key)
            self._room(index, len(rows))
            self._rows[index][: len(rows)] = rows
            if key in state["scales"]:
                self._scales[index][: len(rows)] = state["scales"][key]

    # ---- storage

    def _packed(self, errors: Tensor) -> Tensor:
        """Rows (n, numel) of float32, pooled."""
        errors = errors.detach().float().cpu()
        if self.settings.pooling > 1:
            folded = errors.flatten(1, 2)
            errors = functional.avg_pool2d(folded, self.settings.pooling, ceil_mode=True, count_include_pad=False)
        return errors.flatten(1)

    def _place(self, index: int, row: Tensor, generator: torch.Generator) -> int:
        """Where a new row goes: the next free place, or the one it replaces."""
        count, capacity = int(self.counts[index]), self.settings.capacity
        if count < capacity:
            self.counts[index] += 1
            return count
        match self.settings.replacement:
            case "most_similar":
                return int((self._unpacked(index, slice(count)) - row).square().sum(1).argmin())
            case "random":
                return self._uniform(count, generator)
            case "oldest":
                return int(self.added[index] % capacity)

    def _put(self, index: int, place: int, row: Tensor) -> None:
        self._room(index, place + 1)
        if self.settings.storage == "float8":
            scale = row.abs().max().clamp(min=1e-12) / FLOAT8_MAX
            self._scales[index][place] = scale
            row = row / scale
        self._rows[index][place] = row.to(self._rows[index].dtype)
        self.added[index] += 1

    def _unpacked(self, index: int, places: slice | int) -> Tensor:
        rows = self._rows[index][places].float()
        if self.settings.storage == "float8":
            rows = rows * self._scales[index][places].unsqueeze(-1)
        return rows

    def _take(self, places: list[tuple[int, int | None]]) -> Tensor:
        empty = torch.zeros(math.prod(self.stored_shape))
        errors = torch.stack([empty if place is None else self._unpacked(index, place) for index, place in places])
        errors = errors.view(len(errors), *self.stored_shape)
        if self.settings.pooling > 1:
            spread = functional.interpolate(errors.flatten(1, 2), scale_factor=self.settings.pooling, mode="nearest")
            height, width = self.shape[-2:]
            errors = spread[..., :height, :width].unflatten(1, self.shape[:2])
        return errors

    def _room(self, index: int, needed: int) -> None:
        """Make place for `needed` rows; memory grows by doubling, a file has its full size from the start."""
        rows = self._rows.get(index)
        if rows is not None and len(rows) >= needed:
            return
        dtype = torch.float8_e4m3fn if self.settings.storage == "float8" else getattr(torch, self.settings.storage)
        numel, capacity = math.prod(self.stored_shape), self.settings.capacity
        if self.settings.folder is not None:
            self._rows[index] = self._mapped(index, dtype, numel)
            self._scales[index] = torch.ones(capacity)
            return
        size = min(capacity, max(needed, 2 * (len(rows) if rows is not None else 2)))
        grown, scales = torch.empty(size, numel, dtype=dtype), torch.ones(size)
        if rows is not None:
            grown[: len(rows)], scales[: len(rows)] = rows, self._scales[index]
        self._rows[index], self._scales[index] = grown, scales

    def _mapped(self, index: int, dtype: torch.dtype, numel: int) -> Tensor:
        folder, capacity = self.settings.folder, self.settings.capacity
        folder.mkdir(parents=True, exist_ok=True)
        size = capacity * numel * BYTES[self.settings.storage]
        raw = torch.from_file(str(folder / f"{self.name}-{index}.bin"), shared=True, size=size, dtype=torch.uint8)
        return raw.view(dtype).view(capacity, numel)

    def _uniform(self, count: int, generator: torch.Generator) -> int:
        return int(torch.randint(count, (), generator=generator))


def check_budget(banks: tuple[ErrorBank, ...], budget_bytes: int) -> None:
    """Raise `TrainingError` when the banks, once full, need more than `budget_bytes`; says what would fit."""
    needed = sum(bank.full_bytes for bank in banks)
    if needed <= budget_bytes:
        return
    settings = banks[0].settings
    fits = budget_bytes // (sum(bank.entry_bytes for bank in banks) * len(banks[0].grid))
    choices = [f"capacity {fits}"] if fits >= 1 else []
    choices += ["storage float8"] if settings.storage != "float8" else []
    choices += ["pooling 2"] if settings.pooling == 1 else []
    choices += ["a folder for memory-mapped files"] if settings.folder is None else []
    raise TrainingError(
        f"The error banks need {needed / 1e9:.1f} GB when full and {budget_bytes / 1e9:.1f} GB are allowed.",
        f"Choose {', or '.join(choices)}." if choices else "Allow more, or train at a smaller size.",
    )
