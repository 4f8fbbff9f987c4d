"""A LoRA of random numbers, for models that were never trained."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.models.lora import MODULES_PER_BLOCK


def write_random_lora(transformer: torch.nn.Module, path: Path, *, seed: int = 0) -> Path:
    """A small random change of every layer that a LoRA adapts."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    layers = dict(transformer.named_modules())
    for block in range(len(transformer.blocks)):
        for name in MODULES_PER_BLOCK:
            layer, key = layers[f"blocks.{block}.{name}"], f"transformer.blocks.{block}.{name}"
            tensors[f"{key}.lora_A.weight"] = 0.05 * torch.randn(2, layer.in_features, generator=generator)
            tensors[f"{key}.lora_B.weight"] = 0.05 * torch.randn(layer.out_features, 2, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path
