"""The seam between the film loop and whatever makes pixels.

Every backend passes the suite in `tests/engine/backends/contract.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from engine.domain import ClipRequest


@dataclass(frozen=True)
class BackendInfo:
    """What runs here. `fingerprint` changes when the weights do."""

    name: str
    device: str
    fingerprint: str


@dataclass(frozen=True)
class StepDone:
    """Step `step` of `of` has ended. `preview`: uint8 (n, h, w, 3) frames of the clean estimate, or None."""

    step: int
    of: int
    preview: np.ndarray | None = None


@dataclass(frozen=True)
class Notice:
    """Something the person should know while the clip goes on, such as a step down for lack of memory."""

    text: str


@dataclass(frozen=True)
class ClipResult:
    """The generated clip: uint8 RGB (F, H, W, 3), the overlap included. `timings`: CPU seconds per phase.

    tail_latents: float32 (C, n, h, w), the clip's last denoised latents, where its variant hands them over.
    tail_states: how the last frames are made of the creator's picture, arrays of `pocket.motion.Motion`, where clips
    are composed.
    """

    frames: np.ndarray
    timings: dict[str, float] = field(default_factory=dict)
    tail_latents: np.ndarray | None = None
    tail_states: dict[str, np.ndarray] | None = None


class Interrupted(Exception):
    """`generate` ended because `interrupt` was called. Not an error: whoever called it knows why."""


class Backend(Protocol):
    """Makes one clip at a time. Closing the iterator between two steps cancels; the backend stays usable."""

    info: BackendInfo

    def generate(self, request: ClipRequest) -> Iterator[StepDone | Notice | ClipResult]:
        """Yield a `StepDone` for every step, then exactly one `ClipResult`; a `Notice` may come at any time before it.

        The same request gives the same frames. Raises `GenerationError` (`OutOfMemory` when memory ran out).
        """
        ...

    def interrupt(self) -> None:
        """Make the `generate` that is running raise `Interrupted` as soon as it can, within a step as well.

        May be called from another thread. Does nothing to a later `generate`.
        """
        ...

    def close(self) -> None: ...
