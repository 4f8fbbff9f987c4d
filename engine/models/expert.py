"""One transformer of a model with the LoRAs that are fused into it.

A LoRA of another base has the same shapes, and would change the weights to something that nobody trained: it is told by
its file name or metadata and refused.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.config import LoraChoice, Preset
from engine.errors import WeightsMismatch
from engine.models.gguf_files import FusedLora
from engine.models.lora import Lora, LoraSlot, read_lora
from engine.models.lora_keys import FittingBase, guess_base

log = logging.getLogger(__name__)


class Expert:
    """`transformer` and what is fused into it. Wan 2.1 has one expert, Wan 2.2 one for high and one for low noise.

    base: its weights without a LoRA, by name; without it they are copied before they are changed. read: reads a LoRA.
    device: where LoRAs are added up, which may be faster than where the weights lie. fits: the base that its LoRAs must
    be made for, None where that does not matter. held: LoRAs that quantised weights came with, which cannot be taken
    out again.
    """

    def __init__(
        self,
        name: Literal["high", "low"],
        transformer: WanTransformer3DModel,
        *,
        base: Callable[[str], Tensor] | None = None,
        read: Callable[..., Lora] = read_lora,
        device: torch.device | None = None,
        fits: FittingBase | None = None,
        held: Sequence[FusedLora] = (),
    ) -> None:
        self.name, self.transformer = name, transformer
        self._fits, self._held = fits, tuple(held)
        self._slot, self._read = LoraSlot(transformer, base, device=device), read
        self._fused: tuple | None = ()

    def use(self, loras: list[LoraChoice]) -> bool:
        """Fuse exactly `loras`; False when they are what is fused. A file that changed is read again."""
        wanted = tuple((choice, stamp(choice.path)) for choice in loras)
        if wanted == self._fused:
            return False
        missing = self._not_held(loras)
        for choice in missing:
            self._check_base(choice.path)
        self._fused = None  # until it is done: after an error in here the weights are neither the old nor the new
        if missing:
            self._slot.fuse([(self._read_one(choice), choice.strength) for choice in missing])
        else:
            self._slot.clear()
        self._fused = wanted
        return True

    def _read_one(self, choice: LoraChoice) -> Lora:
        lora = self._read(choice.path, self.transformer, kind="svi" if choice.own else "extra")
        if lora.extras:
            raise WeightsMismatch(
                f"{choice.path.name} brings {len(lora.extras)} tensors that are no LoRA ({next(iter(lora.extras))}).",
                "It belongs to a variant with a control, such as Dance, which this preset is not.",
            )
        if lora.left_out:
            log.warning("%s: %d tensors have no place in this model and are left out", lora.name, len(lora.left_out))
        return lora

    def _not_held(self, loras: list[LoraChoice]) -> list[LoraChoice]:
        """The choices that the weights do not hold already. Raises when they hold what was not asked for."""
        asked = [FusedLora(choice.path.name, choice.strength) for choice in loras]
        if unwanted := [lora for lora in self._held if lora not in asked]:
            raise WeightsMismatch(
                f"The quantised weights hold {unwanted[0].name} at strength {unwanted[0].strength:g}, which was not "
                "asked for.",
                "It cannot be taken out: choose the variant, strength and quality that the file was written for.",
            )
        return [choice for choice, lora in zip(loras, asked, strict=True) if lora not in self._held]

    def _check_base(self, path: Path) -> None:
        """Raise when `path` was made for another base, as far as its name or metadata tell."""
        made_for = guess_base(path) if self._fits and path.is_file() else None
        if made_for and made_for != self._fits:
            raise WeightsMismatch(
                f"{path.name} was made for {made_for}, and this is {self._fits}.",
                "Their shapes are equal, so it would load and do harm: use the LoRA of this base and expert.",
            )


def fitting_base(preset: Preset, expert: Literal["high", "low"]) -> FittingBase | None:
    """What the LoRAs of one expert must be made for; the pocket's own have no such name."""
    if preset.family == "pocket":
        return None
    return "wan2.1" if preset.base == "wan2.1" else f"wan2.2-{expert}"


def stamp(path: Path) -> tuple[int, int] | None:
    """What tells one version of a file from another; None when it is missing."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
