"""Every part of Wan image-to-video with random weights: the real classes at any size, from no file.

`build` makes small modules for tests and the speed bench. `load_random` makes what a preset with `random_weights` asks
for: the published sizes where the machine holds them, else the same layout smaller, and `Components.note` says which.
"""

import logging
import math
import re
import string
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from engine import tiers
from engine.config import RANDOM_WEIGHTS, Preset
from engine.errors import ConfigError, OutOfMemory
from engine.models import wan
from engine.models.components import Components, device_of, dtype_of
from engine.models.lora import MODULES_PER_BLOCK, Kind, Lora, LoraModule
from engine.models.placement import Role, WanPlacement, machine_here, measure
from engine.models.published import CLIP_VIT_H, EXPERTS, UMT5_XXL, WAN_VAE, Config
from engine.tiers import Activations, Machine, ModelSizes

log = logging.getLogger(__name__)
EOS = "</s>"
ROLES: dict[str, Role] = {  # the parts in the order of their filling, the largest first
    "transformer": "expert",
    "low_noise_transformer": "expert",
    "vae": "vae",
    "text_encoder": "text",
    "image_encoder": "image",
}
EXPERT_PARTS = {"high": "transformer", "low": "low_noise_transformer"}
LORA_RANK = 128
LORA_SIZE = 0.05  # of B beside A: a change of some percent, as training makes


@dataclass(frozen=True)
class WanSize:
    """Sizes of the parts; the defaults are the smallest that keep every layer of the 14B model in place."""

    num_heads: int = 2
    head_dim: int = 12
    num_layers: int = 2
    ffn_dim: int = 32
    text_dim: int = 32
    text_layers: int = 2
    vae_dim: int = 3
    vae_multipliers: tuple[int, ...] = (1, 1, 1, 1)
    image_dim: int = 4
    image_layers: int = 2
    image_side: int = 32
    image_patch: int = 8


@dataclass(frozen=True)
class WanModules:
    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerFast
    image_encoder: CLIPVisionModel | None


@dataclass(frozen=True)
class Layout:
    """The configurations of one model's parts. image: None where the transformer takes no picture. reduced: what is
    smaller than published, in words."""

    transformer: Config
    text: Config
    image: Config | None
    vae: Config
    num_experts: int = 1
    reduced: str = ""

    @property
    def note(self) -> str:
        return f"{RANDOM_WEIGHTS} ({self.reduced})" if self.reduced else RANDOM_WEIGHTS


def layout_of(size: WanSize, *, takes_picture: bool = True) -> Layout:
    width = size.num_heads * size.head_dim
    return Layout(
        transformer={
            "patch_size": (1, 2, 2),
            "num_attention_heads": size.num_heads,
            "attention_head_dim": size.head_dim,
            "in_channels": 36,
            "out_channels": 16,
            "text_dim": size.text_dim,
            "freq_dim": 256 if width >= 256 else 32,
            "ffn_dim": size.ffn_dim,
            "num_layers": size.num_layers,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "rope_max_seq_len": 64,
            "image_dim": size.image_dim if takes_picture else None,
            "added_kv_proj_dim": width if takes_picture else None,  # left out, image attention has no weights at all
        },
        text={
            "vocab_size": max(len(build_tokenizer()), 128),
            "d_model": size.text_dim,
            "d_kv": max(size.text_dim // 4, 8),
            "d_ff": 2 * size.text_dim,
            "num_layers": size.text_layers,
            "num_heads": 4,
        },
        image={
            "hidden_size": size.image_dim,
            "intermediate_size": 4 * size.image_dim,
            "num_hidden_layers": size.image_layers,
            "num_attention_heads": 2,
            "image_size": size.image_side,
            "patch_size": size.image_patch,
            "projection_dim": size.image_dim,
            "hidden_act": "gelu",  # as in Wan's tower; the default is another
        },
        vae={
            "base_dim": size.vae_dim,
            "z_dim": 16,
            "dim_mult": list(size.vae_multipliers),
            "num_res_blocks": 1,
            "temperal_downsample": [False, True, True],
        },
    )


def build(size: WanSize, *, seed: int = 0, takes_picture: bool = True) -> WanModules:
    """Modules that fit each other. Equal seeds give equal weights; the global random state is left as it was."""
    layout = layout_of(size, takes_picture=takes_picture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = WanTransformer3DModel(**layout.transformer)
        vae = AutoencoderKLWan(**layout.vae)
        text_encoder = UMT5EncoderModel(UMT5Config(**layout.text))
        image_encoder = CLIPVisionModel(CLIPVisionConfig(**layout.image))
        make_sensitive(transformer, vae)
    parts = (transformer, vae, text_encoder, image_encoder)
    for module in parts:
        module.eval().requires_grad_(False)
    return WanModules(transformer, vae, text_encoder, build_tokenizer(), image_encoder if takes_picture else None)


@torch.no_grad()
def make_sensitive(transformer: WanTransformer3DModel, vae: AutoencoderKLWan) -> None:
    """Let the output depend on every input: at their usual start the parts hardly react to padding or prompt, and norms
    of ones and zeros would hide one that is left out or mistaken for another."""
    for name, parameter in transformer.named_parameters():
        if "norm" in name:
            parameter += 0.2 * torch.randn_like(parameter)
        elif parameter.ndim == 5 or (parameter.ndim == 2 and re.search("attn|ffn|text_embedder", name)):
            parameter *= 2
    for name, parameter in vae.named_parameters():
        if parameter.ndim >= 4 and name.startswith(("encoder", "decoder")):
            parameter *= 2 if name.startswith("encoder") else 1.3
    vae.quant_conv.weight *= 4


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows every printable ASCII character and ends each prompt as UMT5's does."""
    characters = sorted(set(string.ascii_letters + string.digits + string.punctuation))
    vocabulary = [("<pad>", 0.0), (EOS, 0.0), ("<unk>", -20.0), ("▁", -2.0), *((c, -3.0) for c in characters)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token=EOS, unk_token="<unk>")


# ---- the published sizes, or what fits


def load_random(preset: Preset, *, num_blocks: int | None = None, lowered: int = 0) -> Components:
    """The components of `preset` with random weights, LoRAs included; no file is read.

    num_blocks: of each transformer, at the published width; None takes as many as the machine holds. lowered: see
    `components.load`.
    """
    wan.check_sequence_length(preset, takes_picture=preset.base == "wan2.1")
    device = device_of(preset)
    dtype = dtype_of(preset, device)
    layout = fitting_layout(preset, machine_here(device), dtype, num_blocks=num_blocks)
    log.warning("%s is made of %s", preset.name, layout.note)
    modules = empty_modules(layout, dtype)
    placement = None
    if device.type == "cuda" or preset.tier != "auto":
        placement = WanPlacement(preset, device, dtype, measured(modules), lowered=lowered)
    elif lowered:
        raise OutOfMemory(f"The model “{preset.name}” needs more memory than is free.", "Close other programs.")
    weights = fill_modules(modules, values_on=device, placement=placement)
    parts = wan.Modules(tokenizer=build_tokenizer(), **modules)
    wan.check_parts(parts)
    components = wan.assemble(parts, device=device, dtype=dtype, placement=placement)
    return replace(components, note=layout.note, base_weights=weights, read_lora=random_lora)


def published_layout(preset: Preset) -> Layout:
    """What the checkpoint of the preset's base holds."""
    experts = EXPERTS[preset.base]
    picture = CLIP_VIT_H if experts[0]["image_dim"] else None
    return Layout(experts[0], UMT5_XXL, picture, WAN_VAE, num_experts=len(experts))


def fitting_layout(preset: Preset, machine: Machine, dtype: torch.dtype, *, num_blocks: int | None = None) -> Layout:
    """The published layout where a tier holds it on `machine`, else the same with fewer blocks.

    Without a GPU, where a clip of the published size takes days: tiny parts; with `num_blocks`, so many blocks of the
    published width between them.
    """
    whole = published_layout(preset)
    of = int(whole.transformer["num_layers"])
    if num_blocks is not None and not 1 <= num_blocks <= of:
        raise ConfigError(f"{num_blocks} blocks were asked for.", f"“{preset.name}” has 1 to {of}.")
    if not machine.has_gpu:
        return _tiny_layout(whole) if num_blocks is None else _narrow_ends(whole, num_blocks)
    if num_blocks is None:
        num_blocks = blocks_that_fit(preset, machine, measured(empty_modules(whole, dtype)), of)
    if num_blocks == of:
        return whole
    if num_blocks < 1:
        return _narrow_ends(whole, 1)
    transformer = whole.transformer | {"num_layers": num_blocks}
    return replace(whole, transformer=transformer, reduced=f"stand-in, {num_blocks} of {of} blocks")


def blocks_that_fit(preset: Preset, machine: Machine, sizes: ModelSizes, of: int) -> int:
    """The most blocks that each transformer of these `sizes` may have for some tier to fit; 0 if none does."""
    largest = max(preset.offered_resolutions(), key=lambda size: size.width * size.height)
    work = Activations.of(largest, preset.num_frames, branches=preset.branches)
    for num_blocks in range(of, 0, -1):
        fewer = replace(sizes, expert=sizes.outside + num_blocks * sizes.block, expert_in_8_bits=None)
        if tiers.choose(machine, sizes if num_blocks == of else fewer, work, asked=preset.tier).tier is not None:
            return num_blocks
    return 0


def measured(modules: Mapping[str, nn.Module]) -> ModelSizes:
    experts = [modules[name] for name in ("transformer", "low_noise_transformer") if name in modules]
    return measure(experts, modules["vae"], modules["text_encoder"], modules.get("image_encoder"))


def _tiny_layout(whole: Layout) -> Layout:
    tiny = layout_of(WanSize(), takes_picture=whole.image is not None)
    blocks = f"{tiny.transformer['num_layers']} of {whole.transformer['num_layers']} blocks"
    width = f"{_width(tiny.transformer)} wide instead of {_width(whole.transformer)}"
    picture = tiny.image if whole.image else None
    return replace(tiny, image=picture, num_experts=whole.num_experts, reduced=f"stand-in, {blocks}, {width}")


def _narrow_ends(whole: Layout, num_blocks: int) -> Layout:
    """So many blocks of the published width; text encoder, CLIP and VAE as small as still fit them."""
    tiny = layout_of(WanSize(text_dim=int(whole.transformer["text_dim"]), text_layers=1))
    image = whole.image and whole.image | {"intermediate_size": 64, "num_hidden_layers": 2}
    return Layout(
        transformer=whole.transformer | {"num_layers": num_blocks},
        text=tiny.text | {"d_kv": 8, "d_ff": 64},
        image=image,
        vae=tiny.vae,
        num_experts=whole.num_experts,
        reduced=f"stand-in, {num_blocks} of {whole.transformer['num_layers']} blocks, tiny encoders and VAE",
    )


def _width(transformer: Config) -> int:
    return int(transformer["num_attention_heads"]) * int(transformer["attention_head_dim"])


def empty_modules(layout: Layout, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The modules of `layout` without weights, by their names in `wan.Modules`: buffers, shapes and dtypes only.

    Transformers and text encoder compute in `dtype`, but for what diffusers keeps in float32; VAE and CLIP in float32.
    """
    with init_empty_weights():
        modules: dict[str, nn.Module] = {
            "transformer": WanTransformer3DModel(**layout.transformer),
            "vae": AutoencoderKLWan(**layout.vae),
            "text_encoder": UMT5EncoderModel(UMT5Config(**layout.text)),
        }
        if layout.image is not None:
            modules["image_encoder"] = CLIPVisionModel(CLIPVisionConfig(**layout.image))
        if layout.num_experts == 2:
            modules["low_noise_transformer"] = WanTransformer3DModel(**layout.transformer)
    modules["text_encoder"].tie_weights()  # the stack has the embedding under a second name
    kept = set(WanTransformer3DModel._keep_in_fp32_modules)
    for part in ("transformer", "low_noise_transformer", "text_encoder"):
        for name, parameter in modules[part].named_parameters() if part in modules else ():
            if part == "text_encoder" or not kept & set(name.split(".")):
                parameter.data = parameter.data.to(dtype)
    return modules


def fill_modules(
    modules: Mapping[str, nn.Module], *, values_on: torch.device, placement: WanPlacement | None = None
) -> dict[str, "RandomWeights"]:
    """Fill empty modules, one parameter after the other, each module where `placement` wants it before the next.

    Returns the weights of the experts, "high" and "low", to be had again. values_on: makes the numbers; a GPU takes
    seconds for 14B.
    """
    home = values_on if placement is not None and placement.tier == "resident" else torch.device("cpu")
    weights = {}
    for seed, (name, role) in enumerate(ROLES.items()):
        if name in modules:
            weights[name] = RandomWeights(modules[name], seed=seed, device=values_on)
            fill(modules[name], weights[name], home)
            if placement is not None:
                placement.settle(role, modules[name])
    return {expert: weights[name] for expert, name in EXPERT_PARTS.items() if name in weights}


class RandomWeights:
    """Numbers for the parameters of `module` by name: the same every time one is asked for.

    Spread so that every layer keeps the size of what it is given; norms are near one.
    """

    def __init__(self, module: nn.Module, *, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device
        self.shapes = {name: (parameter.shape, parameter.dtype) for name, parameter in module.named_parameters()}

    def __call__(self, name: str) -> Tensor:
        shape, dtype = self.shapes[name]
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        values = torch.empty(shape, dtype=dtype, device=self.device)
        if name.endswith("bias"):
            return values.normal_(0, 0.02, generator=generator)
        if name.endswith(("weight", "gamma")) and shape.numel() == shape[0]:
            return values.normal_(1, 0.1, generator=generator)
        std = math.prod(shape[1:]) ** -0.5
        if name.startswith("decoder.conv_out"):
            std *= 0.3  # mid-tones, not a picture of pure black and white
        return values.normal_(0, std, generator=generator)


def fill(module: nn.Module, weights: RandomWeights, home: torch.device) -> None:
    """Give every parameter of `module`, which has none yet, its numbers on `home`."""
    for name in weights.shapes:
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, nn.Parameter(weights(name).to(home), requires_grad=False))
    if hasattr(module, "tie_weights"):
        module.tie_weights()


def random_lora(path: Path, transformer: WanTransformer3DModel, *, kind: Kind = "svi") -> Lora:
    """A random LoRA in the place of the file `path`, which is not read: rank 128 on the ten layers of every block."""
    rank = min(LORA_RANK, transformer.patch_embedding.out_channels // 2)
    generator = torch.Generator().manual_seed(zlib.crc32(path.name.encode()))
    changes = {}
    for index in range(len(transformer.blocks)):
        for layer in MODULES_PER_BLOCK:
            linear = transformer.get_submodule(f"blocks.{index}.{layer}")
            down = torch.empty(rank, linear.in_features, dtype=torch.bfloat16)
            up = torch.empty(linear.out_features, rank, dtype=torch.bfloat16)
            down.normal_(0, linear.in_features**-0.5, generator=generator)
            up.normal_(0, LORA_SIZE * rank**-0.5, generator=generator)
            changes[f"blocks.{index}.{layer}"] = LoraModule(down, up, 1.0)
    return Lora(path.name, changes, {})
