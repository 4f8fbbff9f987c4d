"""Where the parts of a 14B model live on a GPU, chosen from what is free when the model is loaded.

The tiers are computed, not yet measured on a card: a block streams from host memory in a fifth of the
time that it computes, so too little memory needs prefetching, not quantisation.
"""

import logging
from typing import Literal

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

log = logging.getLogger(__name__)

Tier = Literal["resident", "text on host", "streamed", "streamed and tiled"]
GIB = 2**30
ACTIVATIONS = 10 * GIB  # a float32 untiled VAE decode of 81 × 480 × 832 takes 7.6 GiB, a step 4.7
UNTILED = int(10.5 * GIB)


def choose(free_bytes: int, transformer_bytes: int, text_bytes: int, other_bytes: int) -> Tier:
    """The first tier that fits. Tiling comes last: a bf16 or tiled VAE accumulates artefacts over clips (DevLog)."""
    if free_bytes >= transformer_bytes + text_bytes + other_bytes + ACTIVATIONS:
        return "resident"
    if free_bytes >= transformer_bytes + other_bytes + ACTIVATIONS:
        return "text on host"
    return "streamed" if free_bytes >= UNTILED else "streamed and tiled"


def place(
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    text_encoder: nn.Module,
    image_encoder: nn.Module | None,
    device: torch.device,
) -> Tier:
    """Move the parts to `device` as far as they fit; the log says what was chosen and why."""
    small = [module for module in (vae, image_encoder) if module is not None]
    sizes = [size_of(transformer), size_of(text_encoder), sum(map(size_of, small))]
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2**62
    tier = choose(free, *sizes)
    for module in small:
        module.to(device)
    if tier == "resident":
        text_encoder.to(device)
    if tier in ("resident", "text on host"):
        transformer.to(device)
    else:
        stream_blocks(transformer, device)
    if tier == "streamed and tiled":
        vae.enable_tiling()
    log.info("%.1f GiB free for %.1f GiB of weights: %s", free / GIB if free < 2**62 else 0, sum(sizes) / GIB, tier)
    return tier


def stream_blocks(transformer: WanTransformer3DModel, device: torch.device) -> None:
    """Keep the blocks in host memory and copy each while the one before computes."""
    on_gpu = device.type == "cuda"
    transformer.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=on_gpu,
        record_stream=on_gpu,
    )


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
