"""A preset's transformers with their LoRAs fused in full precision, then written as GGUF files."""

from collections.abc import Iterator
from pathlib import Path

import torch

from engine.config import Preset
from engine.errors import InputError
from engine.models.expert import Expert, fitting_base
from engine.models.gguf_files import FusedLora, Quantisation, write_gguf
from engine.models.wan import existing, expert_paths, read_expert


def quantise(preset: Preset, variant: str, path: Path, quantisation: Quantisation, *, draft: bool) -> Iterator[Path]:
    """Write the experts of `preset` with what `variant` fuses into them, yielding each file when it is whole.

    One expert is written to `path`, two to NAME-high.gguf and NAME-low.gguf beside it. Needs host memory for one expert
    in bfloat16, twice where a LoRA is fused; the result goes into a preset as `components: {transformer: …}`.
    """
    if preset.family != "wan":
        raise InputError(f"“{preset.name}” is small: there is nothing to quantise.", "Choose a preset of a Wan model.")
    if draft and preset.draft is None:
        raise InputError(f"The preset “{preset.name}” has no draft quality.", "Leave --draft out.")
    preset.variant(variant)
    paths = expert_paths(preset)
    if not paths:
        existing(preset.component("transformer"))
    for name, source in paths.items():
        transformer = read_expert(preset, source, torch.bfloat16).eval().requires_grad_(False)
        loras = preset.loras(variant, name, strength=preset.variants[variant].lora_strength, draft=draft)
        with torch.inference_mode():
            Expert(name, transformer, fits=fitting_base(preset, name)).use(loras)
        target = path.with_name(f"{path.stem}-{name}{path.suffix}") if len(paths) > 1 else path
        held = [FusedLora(choice.path.name, choice.strength) for choice in loras]
        write_gguf(transformer, target, quantisation=quantisation, loras=held)
        yield target
