"""Wan image-to-video from a folder as Wan-AI publishes it, without a conversion on disk.

Wan-AI/Wan2.1-I2V-14B-480P has the transformer's shards, the encoders and the VAE side by side; Wan-AI/Wan2.2-I2V-A14B
has a folder for each of two transformers and no CLIP. The transformer's sizes are in its config.json; those of the
other parts follow from the shapes of their tensors. Modules are built without weights and then given views of the
files, or casts of them: at no time do two copies of a model lie in memory.
"""

import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    UMT5Config,
    UMT5EncoderModel,
)

from engine.errors import WeightsMismatch, WeightsMissing
from engine.models.mapped import mapped_file, mapped_tensors
from engine.models.names import diffusers_name
from engine.tiers import HIGH_NOISE
from engine.weights.pinned import check_pinned

LOW_NOISE = "low_noise_model"
TEXT = "models_t5_umt5-xxl-enc-bf16.pth"
IMAGE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
VAE = "Wan2.1_VAE.pth"
TOKENIZER = "google/umt5-xxl"
CLIP_HEAD_DIM = 80  # ViT-H/14: 1280 in 16 heads; the tensors do not tell
INCOMPLETE = "The download is not finished, or it is another model: download it again."
Model = TypeVar("Model", bound=nn.Module)
Check = Callable[[Path], None]
Settle = Callable[[str, nn.Module], nn.Module]

TEXT_NAMES = {  # below blocks.N of upstream's modules/t5.py -> below encoder.block.N of UMT5EncoderModel
    "norm1.weight": "layer.0.layer_norm.weight",
    **{f"attn.{letter}.weight": f"layer.0.SelfAttention.{letter}.weight" for letter in "qkvo"},
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}
IMAGE_NAMES = {  # of upstream's modules/clip.py, `visual` -> CLIPVisionModel
    "patch_embedding.weight": "embeddings.patch_embedding.weight",
    "cls_embedding": "embeddings.class_embedding",
    "pos_embedding": "embeddings.position_embedding.weight",
    "pre_norm": "pre_layrnorm",
    "post_norm": "post_layernorm",
}
IMAGE_LAYERS = {  # below transformer.N -> below encoder.layers.N
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
IMAGE_LEFT_OUT = ("textual.", "log_scale", "head")  # the text tower and the projections of the contrastive loss
RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
RESIDUAL["shortcut"] = "conv_shortcut"
VAE_NAMES = {  # of upstream's modules/vae.py -> AutoencoderKLWan, what is not in the stacks of blocks
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    **{f"{side}.conv1": f"{side}.conv_in" for side in ("encoder", "decoder")},
    **{f"{side}.head.0": f"{side}.norm_out" for side in ("encoder", "decoder")},
    **{f"{side}.head.2": f"{side}.conv_out" for side in ("encoder", "decoder")},
    **{f"{side}.middle.1": f"{side}.mid_block.attentions.0" for side in ("encoder", "decoder")},
}


@dataclass(frozen=True)
class OriginalModules:
    """The parts of one model. `transformer` is the high-noise one where there are two."""

    transformer: WanTransformer3DModel
    low_noise_transformer: WanTransformer3DModel | None
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    image_encoder: CLIPVisionModel | None


def is_original(folder: Path) -> bool:
    """Whether `folder` has upstream's layout rather than diffusers', going by the names in it."""
    if (folder / "model_index.json").exists() or (folder / "transformer").exists():
        return False
    twins = [Path(name).with_suffix(".safetensors") for name in (TEXT, VAE)]
    return any((folder / name).exists() for name in (HIGH_NOISE, LOW_NOISE, TEXT, VAE, *twins))


def load_original(
    folder: Path, *, dtype: torch.dtype, check: Check = check_pinned, settle: Settle = lambda _, part: part
) -> OriginalModules:
    """Every part of the model in `folder`: transformers and text encoder in `dtype`, VAE and CLIP in float32.

    settle: (role, part) -> the part, in its place before the next one is read, the largest first. check: raises for a
    .pth file that may not be opened; a pickle can run code. A .safetensors file of the same name is taken instead where
    there is one.
    """
    two = (folder / HIGH_NOISE).exists() or (folder / LOW_NOISE).exists()
    transformer = settle("expert", load_transformer(folder / HIGH_NOISE if two else folder, dtype=dtype))
    takes_picture = transformer.config.image_dim is not None
    return OriginalModules(
        transformer=transformer,
        low_noise_transformer=settle("expert", load_transformer(folder / LOW_NOISE, dtype=dtype)) if two else None,
        vae=settle("vae", build_vae(checkpoint(folder / VAE, check))),
        text_encoder=settle("text", build_text_encoder(checkpoint(folder / TEXT, check), dtype=dtype)),
        tokenizer=read_tokenizer(folder / TOKENIZER),
        image_encoder=settle("image", build_image_encoder(checkpoint(folder / IMAGE, check)))
        if takes_picture
        else None,
    )


def load_transformer(folder: Path, *, dtype: torch.dtype) -> WanTransformer3DModel:
    """The transformer whose config.json and shards lie in `folder`, with upstream's names."""
    config = _read_config(folder / "config.json")
    tensors = mapped_tensors(folder)
    with init_empty_weights():
        transformer = WanTransformer3DModel(**transformer_config(config, tensors, folder.name))
    kept = set(transformer._keep_in_fp32_modules)
    return fill(
        transformer,
        tensors,
        names=lambda key: (name,) if (name := diffusers_name(key)) else None,
        dtype_of=lambda name: torch.float32 if kept & set(name.split(".")) else dtype,
        shown=folder.name,
    )


def transformer_config(config: Mapping[str, object], tensors: Mapping[str, Tensor], shown: str) -> dict[str, object]:
    """Arguments of `WanTransformer3DModel` from upstream's config.json and, for what it leaves out, the tensors."""
    if config.get("model_type") != "i2v":
        raise WeightsMismatch(
            f"{shown} holds a “{config.get('model_type')}” model.", "SVI needs Wan image-to-video, model_type i2v."
        )
    wanted = ("dim", "num_heads", "num_layers", "ffn_dim", "freq_dim", "in_dim", "out_dim", "eps")
    missing = [key for key in wanted if not isinstance(config.get(key), (int, float))]
    if missing:
        raise WeightsMismatch(f"config.json of {shown} has no “{missing[0]}”.", INCOMPLETE)
    dim = config["dim"]
    takes_picture = any("img" in key for key in tensors)
    return {
        "patch_size": shape_of(tensors, "patch_embedding.weight", 5, shown)[2:],
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": dim // config["num_heads"],
        "in_channels": config["in_dim"],
        "out_channels": config["out_dim"],
        "text_dim": shape_of(tensors, "text_embedding.0.weight", 2, shown)[1],
        "freq_dim": config["freq_dim"],
        "ffn_dim": config["ffn_dim"],
        "num_layers": config["num_layers"],
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": config["eps"],
        "image_dim": shape_of(tensors, "img_emb.proj.1.weight", 2, shown)[1] if takes_picture else None,
        "added_kv_proj_dim": dim if takes_picture else None,
    }


def build_vae(tensors: Mapping[str, Tensor]) -> AutoencoderKLWan:
    """The VAE of Wan 2.1 (Wan 2.2 A14B uses it too), in float32. attn_scales is empty in every published one."""
    base = shape_of(tensors, "encoder.conv1.weight", 5, VAE)[0]
    shape_of(tensors, "encoder.downsamples.0.residual.2.weight", 5, VAE)
    multipliers: list[int] = []
    temporal: list[bool] = []
    num_blocks = 0
    for index in range(_count(tensors, r"encoder\.downsamples\.(\d+)\.")):
        stem = f"encoder.downsamples.{index}"
        if f"{stem}.resample.1.weight" in tensors:
            temporal.append(f"{stem}.time_conv.weight" in tensors)
            continue
        num_blocks += 1
        if len(multipliers) == len(temporal):
            multipliers.append(shape_of(tensors, f"{stem}.residual.2.weight", 5, VAE)[0] // base)
    blocks_per_level = num_blocks // max(len(multipliers), 1)
    with init_empty_weights():
        vae = AutoencoderKLWan(
            base_dim=base,
            z_dim=shape_of(tensors, "conv2.weight", 5, VAE)[0],
            dim_mult=multipliers,
            num_res_blocks=blocks_per_level,
            temperal_downsample=temporal,
        )
    return fill(
        vae, tensors, names=lambda key: vae_names(key, blocks_per_level), dtype_of=lambda name: torch.float32, shown=VAE
    )


def vae_names(key: str, blocks_per_level: int) -> tuple[str, ...] | None:
    """What `AutoencoderKLWan` calls a tensor. Its decoder nests what upstream lists in a row: `blocks_per_level` + 1
    residual blocks and an upsampler for each level."""
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)samples\.(\d+)\.(.+)\.(\w+)", key):
        stack, index, layer, kind = match[1], int(match[2]), RESIDUAL.get(match[3], match[3]), match[4]
        if stack == "encoder.down":
            return (f"encoder.down_blocks.{index}.{layer}.{kind}",)
        level, place = divmod(index, blocks_per_level + 2)
        block = "upsamplers.0" if place == blocks_per_level + 1 else f"resnets.{place}"
        return (f"decoder.up_blocks.{level}.{block}.{layer}.{kind}",)
    if match := re.fullmatch(r"(encoder|decoder)\.middle\.([02])\.(.+)\.(\w+)", key):
        layer = RESIDUAL.get(match[3], match[3])
        return (f"{match[1]}.mid_block.resnets.{int(match[2]) // 2}.{layer}.{match[4]}",)
    for theirs, ours in VAE_NAMES.items():
        if key.startswith(theirs + "."):
            return (ours + key.removeprefix(theirs),)
    return None


def build_text_encoder(tensors: Mapping[str, Tensor], *, dtype: torch.dtype) -> UMT5EncoderModel:
    """UMT5 as in upstream's modules/t5.py: each block has its own relative positions."""
    buckets, num_heads = shape_of(tensors, "blocks.0.pos_embedding.embedding.weight", 2, TEXT)
    vocabulary, width = shape_of(tensors, "token_embedding.weight", 2, TEXT)
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=shape_of(tensors, "blocks.0.attn.q.weight", 2, TEXT)[0] // num_heads,
        d_ff=shape_of(tensors, "blocks.0.ffn.fc1.weight", 2, TEXT)[0],
        num_layers=_count(tensors, r"blocks\.(\d+)\."),
        num_heads=num_heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
    )
    with init_empty_weights():
        encoder = UMT5EncoderModel(config)
    encoder.tie_weights()  # the stack has the embedding under a second name, before as after
    fill(encoder, tensors, names=text_names, dtype_of=lambda name: dtype, shown=TEXT)
    encoder.tie_weights()
    return encoder


def text_names(key: str) -> tuple[str, ...] | None:
    if key in ("token_embedding.weight", "norm.weight"):
        return ("shared.weight" if key.startswith("token") else "encoder.final_layer_norm.weight",)
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
    return (f"encoder.block.{match[1]}.{TEXT_NAMES[match[2]]}",) if match and match[2] in TEXT_NAMES else None


def build_image_encoder(tensors: Mapping[str, Tensor]) -> CLIPVisionModel:
    """The vision tower of open-clip's xlm-roberta ViT-H/14 (upstream's modules/clip.py), in float32."""
    tensors = {key.removeprefix("visual."): tensor for key, tensor in tensors.items()}
    positions, width = shape_of(tensors, "pos_embedding", 3, IMAGE)[1:]
    patch = shape_of(tensors, "patch_embedding.weight", 4, IMAGE)[-1]
    if width % CLIP_HEAD_DIM:
        raise WeightsMismatch(f"{IMAGE} is {width} wide, which heads of {CLIP_HEAD_DIM} do not fill.", INCOMPLETE)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=shape_of(tensors, "transformer.0.mlp.0.weight", 2, IMAGE)[0],
        num_hidden_layers=_count(tensors, r"transformer\.(\d+)\."),
        num_attention_heads=width // CLIP_HEAD_DIM,
        image_size=patch * math.isqrt(positions - 1),
        patch_size=patch,
        hidden_act="gelu",
    )
    with init_empty_weights():
        encoder = CLIPVisionModel(config)
    return fill(encoder, tensors, names=image_names, dtype_of=lambda name: torch.float32, shown=IMAGE)


def image_names(key: str) -> tuple[str, ...] | None:
    """What `CLIPVisionModel` calls a tensor of the vision tower; three names for q, k and v in one, none for what only
    the contrastive loss used."""
    if key.startswith(IMAGE_LEFT_OUT):
        return ()
    match = re.fullmatch(r"transformer\.(\d+)\.(.+)\.(weight|bias)", key)
    if match is None:
        stem, _, kind = key.rpartition(".")
        name = IMAGE_NAMES.get(key) or (f"{IMAGE_NAMES[stem]}.{kind}" if stem in IMAGE_NAMES else None)
        return (name,) if name else None
    start = f"encoder.layers.{match[1]}"
    if match[2] == "attn.to_qkv":
        return tuple(f"{start}.self_attn.{letter}_proj.{match[3]}" for letter in "qkv")
    return (f"{start}.{IMAGE_LAYERS[match[2]]}.{match[3]}",) if match[2] in IMAGE_LAYERS else None


def fill(
    model: Model,
    tensors: Mapping[str, Tensor],
    *,
    names: Callable[[str], tuple[str, ...] | None],
    dtype_of: Callable[[str], torch.dtype],
    shown: str,
) -> Model:
    """`model`, which was built without weights, with those of a checkpoint; ready to run.

    names: what the model calls a tensor; several for equal parts of it along the first axis, () for one that is not
    needed, None for one that is unknown. A tensor that has its dtype already stays in its file. `WeightsMismatch` tells
    how many are missing, unknown or of another shape, and the first of each.
    """
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}
    unknown, misshapen = [], []
    for key, tensor in tensors.items():
        targets = names(key)
        if targets is None or not expected.keys() >= set(targets):
            unknown.append(key)
            continue
        parts = tensor.tensor_split(len(targets)) if len(targets) > 1 else [tensor] * len(targets)
        for name, part in zip(targets, parts, strict=True):
            while part.ndim > len(expected[name]) and part.shape[0] == 1:
                part = part[0]  # upstream keeps a batch axis on CLIP's embeddings
            found[name] = part
            if tuple(part.shape) != expected[name]:
                misshapen.append(f"{key} {_sizes(part.shape)} instead of {_sizes(expected[name])}")
    missing = [name for name in expected if name not in found]
    problems = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    told = [f"{len(names_)} {what}, first {names_[0]}" for what, names_ in problems.items() if names_]
    if told:
        raise WeightsMismatch(
            f"{shown} does not fit {type(model).__name__}. Of {len(expected)} tensors: {'; '.join(told)}.", INCOMPLETE
        )
    model.load_state_dict({name: part.to(dtype_of(name)) for name, part in found.items()}, strict=False, assign=True)
    return model.eval().requires_grad_(False)


def checkpoint(path: Path, check: Check) -> dict[str, Tensor]:
    """The tensors of a .pth file that `check` lets pass, left in the file; of its .safetensors twin if there is one."""
    if (twin := path.with_suffix(".safetensors")).is_file():
        return mapped_file(twin)
    if not path.is_file():
        raise WeightsMissing(f"{path.name} is missing from {path.parent.name}.", "The download is not finished.")
    check(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (UnpicklingError, RuntimeError, EOFError, OSError) as err:
        raise WeightsMissing(f"{path.name} is damaged.", "Delete it and download it again.") from err
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsMismatch(f"{path.name} is not a table of tensors.", "Download it again.")
    return state


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as err:
        raise WeightsMissing(f"{TOKENIZER} holds no readable tokenizer.", "Download it again.") from err


def shape_of(tensors: Mapping[str, Tensor], name: str, num_dims: int, shown: str) -> tuple[int, ...]:
    """The shape of a tensor that a size is read off."""
    if name not in tensors or tensors[name].ndim != num_dims:
        what = f"a {name} of {tensors[name].ndim} dimensions" if name in tensors else f"no {name}"
        raise WeightsMismatch(f"{shown} has {what}.", INCOMPLETE)
    return tuple(tensors[name].shape)


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise WeightsMissing(f"{path.parent.name} has no config.json.", "The download is not finished.") from err
    except (OSError, ValueError) as err:
        raise WeightsMissing(f"config.json of {path.parent.name} is damaged.", "Download it again.") from err
    return config if isinstance(config, dict) else {}


def _count(tensors: Mapping[str, Tensor], numbered: str) -> int:
    """How many blocks there are whose tensors begin as `numbered` says: one more than the highest number."""
    return 1 + max((int(match[1]) for key in tensors if (match := re.match(numbered, key))), default=-1)


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"
