"""One transformer of a model with the LoRAs that are fused into it."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.config import LoraChoice
from engine.models.lora import Lora, LoraSlot, read_lora


class Expert:
    """`transformer` and what is fused into it. Wan 2.1 has one expert, Wan 2.2 one for high and one for low noise.

    base: its weights without a LoRA, by name; without it they are copied before they are changed. read: reads a LoRA.
    """

    def __init__(
        self,
        name: Literal["high", "low"],
        transformer: WanTransformer3DModel,
        *,
        base: Callable[[str], Tensor] | None = None,
        read: Callable[..., Lora] = read_lora,
    ) -> None:
        self.name, self.transformer = name, transformer
        self._slot, self._read = LoraSlot(transformer, base), read
        self._fused: tuple | None = ()

    def use(self, loras: list[LoraChoice]) -> bool:
        """Fuse exactly `loras`; False when they are what is fused. A file that changed is read again."""
        wanted = tuple((choice, stamp(choice.path)) for choice in loras)
        if wanted == self._fused:
            return False
        self._fused = None  # until it is done: after an error in here the weights are neither the old nor the new
        if loras:
            self._slot.fuse([(self._read(choice.path, self.transformer), choice.strength) for choice in loras])
        else:
            self._slot.clear()
        self._fused = wanted
        return True


def stamp(path: Path) -> tuple[int, int] | None:
    """What tells one version of a file from another; None when it is missing."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
