"""What a training step of a Wan transformer costs in parameters, bytes and floating-point operations.

All of it follows from the model's configuration: the modules are built on the meta device and counted, and the formulas
stand in the docstrings. Knows nothing of a machine. Letters: d width, F feed-forward width, L blocks, h heads, n video
tokens of a batch, t text and p picture tokens, r rank, e bytes an element of the compute dtype, P parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from engine.errors import InputError
from engine.models.lora import MODULES_PER_BLOCK, without_weights
from engine.models.published import CLIP_VIT_H, UMT5_XXL, WAN_VAE

Strategy = Literal["plain", "zero2", "fsdp"]
Checkpointing = Literal["none", "blocks", "blocks on host"]
Dtype = Literal["bfloat16", "float32"]

BYTES: dict[Dtype, int] = {"bfloat16": 2, "float32": 4}
ZERO2_BUCKET = 500_000_000  # elements; DeepSpeed's default reduce_bucket_size, which the launcher file leaves alone
VAE_ENCODE_BYTES_PER_PIXEL = 15_100  # float32, untiled, 81 frames: 5.6 GiB at 832×480 (peak of its allocations)


@dataclass(frozen=True)
class Item:
    """One line of a plan."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class LatentShape:
    """Latents of one clip, (C, f, h, w)."""

    channels: int
    frames: int
    height: int
    width: int

    @classmethod
    def of(cls, width: int, height: int, num_frames: int, *, channels: int = 16) -> "LatentShape":
        """Latents of a clip in pixels, for strides of 4 in time and 8 in space."""
        if num_frames % 4 != 1 or width % 16 or height % 16:
            raise InputError(
                f"A clip of {num_frames} frames at {width}×{height} has no latents.",
                "It needs 4n + 1 frames and sides that are multiples of 16.",
            )
        return cls(channels, num_frames // 4 + 1, height // 8, width // 8)

    @property
    def numel(self) -> int:
        return self.channels * self.frames * self.height * self.width

    @property
    def as_tuple(self) -> tuple[int, int, int, int]:
        return self.channels, self.frames, self.height, self.width


@dataclass(frozen=True)
class TransformerSize:
    """Figures counted on a transformer of one configuration and the LoRA of `rank`; None trains every parameter."""

    width: int
    ffn: int
    heads: int
    blocks: int
    patch: tuple[int, int, int]
    takes_picture: bool
    text_dim: int
    image_dim: int
    rank: int | None
    parameters: int
    block_parameters: int
    float32_parameters: int
    lora_modules: int
    lora_parameters: int

    @property
    def trainable(self) -> int:
        return self.parameters if self.rank is None else self.lora_parameters

    def num_tokens(self, latents: LatentShape) -> int:
        """Tokens of one clip: at 81 × 480 × 832, 21 · 30 · 52 = 32,760."""
        time, height, width = self.patch
        return (latents.frames // time) * (latents.height // height) * (latents.width // width)

    def weight_bytes(self, dtype: Dtype) -> int:
        """Bytes of the base model as diffusers loads it: norms, time embedding and modulation stay in float32."""
        return BYTES[dtype] * (self.parameters - self.float32_parameters) + 4 * self.float32_parameters


def measure(config: Mapping[str, object], rank: int | None) -> TransformerSize:
    """Count a transformer and the LoRA that an SVI run adds to it: r · (in + out) for ten layers a block."""
    transformer = without_weights(config)
    sizes = {name: parameter.numel() for name, parameter in transformer.named_parameters()}
    kept = set(transformer._keep_in_fp32_modules)
    layers = [
        transformer.get_submodule(f"blocks.{index}.{layer}")
        for index in range(len(transformer.blocks))
        for layer in (MODULES_PER_BLOCK if rank else ())
    ]
    config = transformer.config
    return TransformerSize(
        width=config.num_attention_heads * config.attention_head_dim,
        ffn=config.ffn_dim,
        heads=config.num_attention_heads,
        blocks=len(transformer.blocks),
        patch=tuple(config.patch_size),
        takes_picture=config.added_kv_proj_dim is not None,
        text_dim=config.text_dim,
        image_dim=config.image_dim or 0,
        rank=rank,
        parameters=sum(sizes.values()),
        block_parameters=sum(parameter.numel() for parameter in transformer.blocks[0].parameters()),
        float32_parameters=sum(size for name, size in sizes.items() if kept & set(name.split("."))),
        lora_modules=len(layers),
        lora_parameters=sum((rank or 0) * (layer.in_features + layer.out_features) for layer in layers),
    )


def state_items(size: TransformerSize, strategy: Strategy, num_ranks: int, dtype: Dtype) -> list[Item]:
    """Weights, trained values, gradients and optimizer of one rank.

    plain: everything on every rank; gradients and the two AdamW moments in float32 (4 P, 8 P); across ranks, DDP keeps
    a second copy of the gradients in its buckets. zero2: 2 P + 18 P / ranks for the trained values, of which 2 + 4 are
    gradients, 4 master values and 8 moments (DeepSpeed, `estimate_zero2_model_states_mem_needs`), and its bucket;
    every parameter is cast to bfloat16. fsdp: all of it / ranks; gathered in bfloat16 are the parameters outside the
    blocks, the block that computes and the next one, which is fetched meanwhile.
    """
    lora, trained = size.rank is not None, size.trainable
    if strategy == "zero2":
        share = num_ranks
        frozen = 2 * (size.parameters if lora else 0)
        return [
            Item("base weights, bfloat16", frozen),
            Item("trained values, bfloat16 and a float32 share", 2 * trained + 4 * trained // share),
            Item("gradients, a share", 6 * trained // share),
            Item("AdamW moments, a share", 8 * trained // share),
            Item("DeepSpeed's reduction bucket", 2 * ZERO2_BUCKET),
        ]
    share = num_ranks if strategy == "fsdp" else 1
    shown = f"1/{share} of the " if share > 1 else ""
    items = [
        Item(f"{shown}base weights, {dtype}", size.weight_bytes(dtype) // share if lora else 0),
        Item(f"{shown}trained values, float32", 4 * trained // share),
        Item(f"{shown}gradients, float32", 4 * trained // share),
        Item(f"{shown}AdamW moments, float32", 8 * trained // share),
    ]
    if strategy == "fsdp":
        outside = size.parameters - size.blocks * size.block_parameters
        blocks = 2 * (size.block_parameters + size.lora_parameters // size.blocks)
        items.append(Item("gathered weights, bfloat16", BYTES["bfloat16"] * (outside + blocks)))
    elif num_ranks > 1:
        items.append(Item("DDP buckets of gradients", 4 * trained))
    return items


def activation_bytes(
    size: TransformerSize,
    latents: LatentShape,
    *,
    batch_size: int,
    text_tokens: int,
    picture_tokens: int,
    strategy: Strategy,
    dtype: Dtype,
    checkpointing: Checkpointing,
) -> tuple[int, int]:
    """Bytes of activations at the peak of a step, on the device and on the host.

    A block saves for its backward pass, by video token: q, k, v and the output of self-attention, q and the output(s)
    of cross-attention (6 e d, 7 with a picture); the inputs of the low-rank factors (3 e d; 4 with a picture, whose
    outputs are summed; 7 under autocast, which casts one for each layer); inputs of three LayerNorms and three RMSNorms
    in float32 (24 d); input and output of the GELU (2 e F); the low-rank middles (8 e r); statistics. With every weight
    trained, also what the modulation and the norms multiply (7 e d). By text token 12 d, by picture token 2 e d.
    Without checkpointing all L blocks hold that; with it, L inputs (e d) and one block. Working memory on top, with the
    float32 output norm: 6 F + 16 d by token under autocast, else the larger of 2 e F and 18 d.
    Derived by listing what autograd saves and the peak of what is allocated in diffusers 0.42 and peft 0.21 (`plain`
    at 14B: within 2 %). CUDA's fused RMSNorm saves bfloat16 where float32 is counted here: an upper bound there.
    """
    e, d, ffn, tokens = BYTES[dtype], size.width, size.ffn, batch_size * size.num_tokens(latents)
    autocast = strategy == "plain" and dtype == "bfloat16"
    outputs = 7 if size.takes_picture else 6
    inputs = 7 if autocast else 4 if size.takes_picture else 3
    modulated = 7 if size.rank is None else 0
    statistics = 4 * (9 + (outputs - 4) * size.heads)
    by_token = (outputs + inputs + modulated) * e * d + 24 * d + 2 * e * ffn + 8 * e * (size.rank or 0) + statistics
    context = batch_size * (text_tokens * 12 * d + picture_tokens * 2 * e * d * size.takes_picture)
    block = tokens * by_token + context
    working = tokens * ((6 * ffn + 16 * d) if autocast else max(2 * e * ffn, 18 * d))
    inputs_of_blocks = size.blocks * tokens * e * d
    match checkpointing:
        case "none":
            casts = 2 * size.lora_parameters if autocast else 0
            return size.blocks * block + casts + working, 0
        case "blocks":
            return inputs_of_blocks + block + working, 0
        case "blocks on host":
            return 2 * tokens * e * d + block + working, inputs_of_blocks


def forward_flops(size: TransformerSize, latents: LatentShape, *, text_tokens: int, picture_tokens: int) -> int:
    """Floating-point operations of one forward pass for one clip, without the LoRA.

    A multiply-add counts two. By block: the linear layers that see video tokens 12 n d² + 4 n d F, keys and values of
    the context 4 (t + p) d², attention 4 n (n + t + p) d. At 14B and 81 × 480 × 832: 1,686 TFLOP. Embeddings, norms
    and the output layer are left out (under 0.1 % there).
    """
    linear, context, attention, _ = _flops_by_block(size, latents, text_tokens, picture_tokens)
    return size.blocks * (linear + context + attention)


def step_flops(
    size: TransformerSize,
    latents: LatentShape,
    *,
    batch_size: int,
    text_tokens: int,
    picture_tokens: int,
    checkpointing: Checkpointing,
) -> int:
    """Floating-point operations of one training step of one rank.

    Forward F = linear + context + attention + LoRA. Backward: gradients of the activations through the frozen layers
    (linear), both gradients of the LoRA (2 LoRA), and attention 2.5 times, since its scores are computed again (Dao et
    al. 2022: five products for two). With every weight trained, linear and context count twice. Checkpointing adds F.
    """
    linear, context, attention, lora = _flops_by_block(size, latents, text_tokens, picture_tokens)
    forward = linear + context + attention + lora
    backward = 5 * attention // 2 + (2 * (linear + context) if size.rank is None else linear + 2 * lora)
    again = forward if checkpointing != "none" else 0
    return batch_size * size.blocks * (forward + backward + again)


def wan_encoders(
    width: int,
    height: int,
    *,
    text: Mapping[str, object] = UMT5_XXL,
    image: Mapping[str, object] | None = CLIP_VIT_H,
    vae: Mapping[str, object] | None = None,
) -> list[Item]:
    """What Wan keeps on the device while windows of `width` × `height` are encoded; Wan 2.1's parts unless given.

    text, image, vae: as in their config.json. The text encoder is in bfloat16, image encoder and VAE are in float32, as
    `models.wan` loads them.
    """
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        parts = {
            "text encoder, bfloat16": (2, UMT5EncoderModel(UMT5Config(**text))),
            "VAE, float32": (4, AutoencoderKLWan.from_config(dict(vae or WAN_VAE))),
        }
        if image is not None:
            parts["image encoder, float32"] = (4, CLIPVisionModel(CLIPVisionConfig(**image)))
    counted = [Item(name, e * sum(p.numel() for p in model.parameters())) for name, (e, model) in parts.items()]
    return [*counted, Item("VAE activations, float32", VAE_ENCODE_BYTES_PER_PIXEL * width * height)]


def _flops_by_block(
    size: TransformerSize, latents: LatentShape, text_tokens: int, picture_tokens: int
) -> tuple[int, int, int, int]:
    """Operations of one forward pass of a block: linear layers, context, attention, LoRA."""
    n, d, ffn, rank = size.num_tokens(latents), size.width, size.ffn, size.rank or 0
    context = text_tokens + (picture_tokens if size.takes_picture else 0)
    lora = 2 * rank * (n * (6 * 2 * d + 2 * (d + ffn)) + text_tokens * 2 * 2 * d)
    return 12 * n * d**2 + 4 * n * d * ffn, 4 * context * d**2, 4 * n * (n + context) * d, lora
