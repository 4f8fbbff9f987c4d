"""Wan image-to-video from folders in diffusers' or upstream's layout: experts, VAE, text encoder, image encoder.

Conventions follow upstream SVI where it differs from diffusers' pipeline: the VAE runs in float32
and untiled, prompts are padded with zeros to 512 tokens, CLIP sees the frame squashed to its square.
Shapes: pixels (B, 3, F, H, W) in [−1, 1]; latents (B, C, f, h, w), normalised.
"""

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import ftfy
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from engine.config import Preset
from engine.diffusion.preview import fit_preview
from engine.errors import ConfigError, WeightsMismatch, WeightsMissing
from engine.models.components import Components, device_of, dtype_of
from engine.models.gguf_files import FusedLora, load_gguf, read_fused
from engine.models.mapped import MappedWeights
from engine.models.original import HIGH_NOISE, LOW_NOISE, is_original, load_original, load_transformer
from engine.models.placement import Role, WanPlacement, make_ready
from engine.tiers import sizes_of

PICTURE_SEQUENCE_LENGTH = 512
Model = TypeVar("Model", bound=nn.Module)


class WanCodec:
    """`AutoencoderKLWan` with the normalisation of its latents built in; the posterior's mean, never a sample."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        config = vae.config
        self.vae = vae
        self.latent_channels = config.z_dim
        self.spatial_stride = config.scale_factor_spatial
        self.temporal_stride = config.scale_factor_temporal
        parameter = next(vae.parameters())
        shape = (1, config.z_dim, 1, 1, 1)
        self.mean = torch.tensor(config.latents_mean, device=parameter.device).view(shape)
        self.std = torch.tensor(config.latents_std, device=parameter.device).view(shape)

    def encode(self, pixels: Tensor) -> Tensor:
        tiling, self.vae.use_tiling = self.vae.use_tiling, False  # the condition is never tiled, whatever decoding does
        try:
            with self._nothing_left_behind():
                latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        finally:
            self.vae.use_tiling = tiling
        return (latents - self.mean) / self.std

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the latents of frames of this size."""
        return height // self.spatial_stride, width // self.spatial_stride

    def decode(self, latents: Tensor) -> Tensor:
        with self._nothing_left_behind():
            return self.vae.decode((latents * self.std + self.mean).to(self.vae.dtype), return_dict=False)[0]

    @contextmanager
    def _nothing_left_behind(self) -> Iterator[None]:
        """Drop the VAE's temporal cache after an error: 3.8 GB at 832×480, which a lower tier would miss."""
        try:
            yield
        except BaseException:
            self.vae.clear_cache()
            raise


class WanText:
    """UMT5 embeddings of cleaned prompts, (B, L, D), zero past each prompt's end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: UMT5EncoderModel, device: torch.device) -> None:
        self.tokenizer, self.encoder, self.device = tokenizer, encoder, device

    def __call__(self, prompts: list[str], max_sequence_length: int) -> Tensor:
        tokens = self.tokenizer(
            [clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=max_sequence_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.device)
        hidden = self.encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return (hidden * tokens.attention_mask[..., None]).to(self.device)


class WanImage:
    """CLIP features of a frame: all but the last block of the vision tower, (B, tokens, D)."""

    def __init__(self, encoder: CLIPVisionModel) -> None:
        self.encoder = encoder

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.encoder(self.prepare(pixels), output_hidden_states=True).hidden_states[-2]

    def prepare(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [−1, 1] squashed to CLIP's square: no crop and no antialiasing, as in training."""
        side = self.encoder.config.image_size
        square = functional.interpolate(pixels.float(), size=(side, side), mode="bicubic", align_corners=False)
        mean, std = (square.new_tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        return ((square / 2 + 0.5) - mean) / std


def clean(prompt: str) -> str:
    """The prompt as Wan's text encoder was trained on it: mended Unicode, no HTML entities, single spaces."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()).strip()


@dataclass(frozen=True)
class Modules:
    """The loaded parts. low_noise_transformer: the second expert of Wan 2.2; image_encoder: Wan 2.1 has one."""

    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    image_encoder: CLIPVisionModel | None = None
    low_noise_transformer: WanTransformer3DModel | None = None

    @property
    def transformers(self) -> tuple[WanTransformer3DModel, ...]:
        return tuple(expert for expert in (self.transformer, self.low_noise_transformer) if expert is not None)

    def by_role(self) -> list[tuple[Role, nn.Module]]:
        """The parts that are there, each with what it is to the placement."""
        others = (("vae", self.vae), ("text", self.text_encoder), ("image", self.image_encoder))
        experts = [("expert", expert) for expert in self.transformers]
        return experts + [(role, module) for role, module in others if module is not None]


def load_components(preset: Preset, *, lowered: int = 0) -> Components:
    """Load every part that the transformer's configuration calls for. Parts that do not fit each other are refused.

    lowered: see `components.load`.
    """
    device = device_of(preset)
    dtype = dtype_of(preset, device)
    folder, transformer = preset.path(preset.model), preset.component("transformer")
    if not (transformer.is_file() or (folder.is_dir() and is_original(folder))):
        existing(transformer)
    placement = WanPlacement(preset, device, dtype, sizes_of(preset), lowered=lowered)
    modules = read_modules(preset, dtype, placement)
    check_sequence_length(preset, takes_picture=modules.image_encoder is not None)
    check_base(preset, modules)
    check_parts(modules)
    components = assemble(modules, device=device, dtype=dtype, placement=placement)
    return replace(components, base_weights=base_weights(preset), held_loras=held_loras(preset))


def read_modules(preset: Preset, dtype: torch.dtype, placement: WanPlacement) -> Modules:
    """The parts, in upstream's layout or diffusers'. Whatever scheduler a checkpoint names is left unread.

    Each part of diffusers layout is put in its place before the next is read, the largest first.
    """
    folder = preset.path(preset.model)
    if folder.is_dir() and is_original(folder):
        if own := [name for name, path in preset.components.model_dump().items() if path]:
            raise ConfigError(
                f"“components.{own[0]}” of “{preset.name}” cannot replace a part of {shown(folder)}.",
                "That folder has upstream's layout: give the model in diffusers layout to replace parts of it.",
            )
        return Modules(**vars(load_original(folder, dtype=dtype, settle=placement.settle)))
    settle, part = placement.settle, preset.component
    transformer = settle("expert", read_transformer(part("transformer"), dtype))
    has_two = part("transformer_2").exists()
    takes_picture = transformer.config.image_dim is not None
    return Modules(
        transformer=transformer,
        low_noise_transformer=settle("expert", read_transformer(part("transformer_2"), dtype)) if has_two else None,
        vae=settle("vae", read(AutoencoderKLWan, part("vae"), torch.float32)),
        text_encoder=settle("text", read(UMT5EncoderModel, part("text_encoder"), dtype)),
        tokenizer=read_tokenizer(part("tokenizer")),
        image_encoder=settle("image", read(CLIPVisionModel, part("image_encoder"), torch.float32))
        if takes_picture
        else None,
    )


def read_transformer(path: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    """The transformer in a folder of diffusers layout or in a GGUF file."""
    if path.suffix == ".gguf":
        return load_gguf(path, dtype=dtype)
    return read(WanTransformer3DModel, path, dtype)


def expert_paths(preset: Preset) -> dict[str, Path]:
    """Where the weights of each expert lie, "high" and for Wan 2.2 "low": folders of either layout, or GGUF files."""
    folder = preset.path(preset.model)
    if folder.is_dir() and is_original(folder):
        two = (folder / HIGH_NOISE).is_dir()
        return {"high": folder / HIGH_NOISE, "low": folder / LOW_NOISE} if two else {"high": folder}
    paths = {"high": preset.component("transformer"), "low": preset.component("transformer_2")}
    return {name: path for name, path in paths.items() if path.exists()}


def read_expert(preset: Preset, path: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    """The transformer at one of the `expert_paths`."""
    upstream = path.is_dir() and is_original(preset.path(preset.model))
    return load_transformer(path, dtype=dtype) if upstream else read_transformer(path, dtype)


def base_weights(preset: Preset) -> dict[str, MappedWeights]:
    """The experts' weights by name, read from their files again where a second copy in memory would be too much."""
    if torch.device(device_of(preset)).type == "cpu":
        return {}
    return {name: MappedWeights(path) for name, path in expert_paths(preset).items() if path.is_dir()}


def held_loras(preset: Preset) -> dict[str, tuple[FusedLora, ...]]:
    """What the GGUF files among the experts say that they hold."""
    return {name: read_fused(path) for name, path in expert_paths(preset).items() if path.suffix == ".gguf"}


def assemble(
    modules: Modules, *, device: torch.device, dtype: torch.dtype, placement: WanPlacement | None = None
) -> Components:
    """Components made of loaded modules, each where `placement` wants it; without one, all of them on `device`."""
    for role, module in modules.by_role():
        if placement is not None:
            placement.settle(role, module)
        else:
            make_ready(role, module, device).to(device)
    codec = WanCodec(modules.vae)
    return Components(
        transformer=modules.transformer,
        low_noise_transformer=modules.low_noise_transformer,
        placement=placement,
        codec=codec,
        encode_text=WanText(modules.tokenizer, modules.text_encoder, device),
        encode_image=WanImage(modules.image_encoder) if modules.image_encoder is not None else None,
        prediction="velocity",
        device=device,
        dtype=dtype,
        preview=fit_preview(codec, device),
    )


def read(kind: type[Model], folder: Path, dtype: torch.dtype) -> Model:
    """The model of class `kind` saved in `folder`. Weights that are absent or of another shape are refused."""
    if not (existing(folder) / "config.json").is_file():
        raise WeightsMissing(f"The folder {shown(folder)} has no config.json.", "It must hold a diffusers component.")
    options = {"local_files_only": True, "output_loading_info": True, "use_safetensors": True}
    if kind.__module__.startswith("transformers"):
        options |= {"dtype": dtype, "ignore_mismatched_sizes": True}  # else the shapes are printed, not raised
    else:
        options |= {"torch_dtype": dtype}
    try:
        model, report = kind.from_pretrained(folder, **options)
    except (OSError, SafetensorError) as err:
        raise WeightsMissing(
            f"The folder {shown(folder)} has no readable {kind.__name__} weights.",
            "Download it again as safetensors, or check the preset.",
        ) from err
    except (RuntimeError, ValueError, TypeError) as err:
        if "allocate memory" in str(err):
            raise
        reason = re.search(r"[\w.]+ expected shape .*?, but got torch.Size\(.*?\)", str(err))
        raise mismatch(kind, folder, reason.group() if reason else type(err).__name__) from err
    for key, found, expected in sorted(report["mismatched_keys"]):
        raise mismatch(kind, folder, f"{key} expected shape {tuple(expected)}, but got {tuple(found)}")
    for key in sorted(report["missing_keys"]):
        raise mismatch(kind, folder, f"{key} is missing ({len(report['missing_keys'])} in all)")
    return model


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(existing(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as err:
        raise WeightsMissing(f"The folder {shown(folder)} has no readable tokenizer.", "Download it again.") from err


def mismatch(kind: type, folder: Path, reason: str) -> WeightsMismatch:
    return WeightsMismatch(
        f"The weights in {shown(folder)} do not fit {kind.__name__}: {reason}.", "Check that the folder is complete."
    )


def check_sequence_length(preset: Preset, *, takes_picture: bool) -> None:
    """Raise where the transformer could not tell text tokens from the picture's: it counts on 512 of them."""
    if takes_picture and preset.max_sequence_length != PICTURE_SEQUENCE_LENGTH:
        raise ConfigError(
            f"“max_sequence_length” of “{preset.name}” is {preset.max_sequence_length}.",
            f"With an image encoder, {PICTURE_SEQUENCE_LENGTH} is needed: it tells picture from text tokens.",
        )


def check_base(preset: Preset, modules: Modules) -> None:
    """Raise `WeightsMismatch` when the weights are of another base: LoRAs of 2.1 and 2.2 have the same shapes."""
    config = modules.transformer.config
    if config.in_channels == 48 or config.out_channels == 48:
        found = "Wan 2.2 TI2V 5B"
    elif config.in_channels == config.out_channels:
        found = "a text-to-video model"
    elif modules.low_noise_transformer is not None:
        found = "wan2.2"
    elif config.image_dim is None:
        found = "one expert of Wan 2.2, without transformer_2/,"
    else:
        found = "wan2.1"
    if found != preset.base:
        folder = shown(preset.path(preset.model))
        raise WeightsMismatch(
            f"The preset “{preset.name}” is made for {preset.base}, and {folder} holds {found}.",
            "SVI's LoRAs work on the base they were trained on: choose the matching preset or weights.",
        )


def check_parts(modules: Modules) -> None:
    """Raise when the parts were not made for each other."""
    first, channels = modules.transformer.config, modules.vae.config.z_dim
    mask = modules.vae.config.scale_factor_temporal
    for config in (expert.config for expert in modules.transformers):
        wanted = {
            "in_channels": (config.in_channels, 2 * channels + mask, "noisy latents, mask and condition latents"),
            "out_channels": (config.out_channels, channels, "the channels of the VAE"),
            "text_dim": (config.text_dim, modules.text_encoder.config.d_model, "the width of the text encoder"),
            "num_layers": (config.num_layers, first.num_layers, "the blocks of the other expert"),
        }
        if modules.image_encoder is not None:
            width = modules.image_encoder.config.hidden_size
            wanted["image_dim"] = (config.image_dim, width, "the width of the image encoder")
        for name, (found, expected, meaning) in wanted.items():
            if found != expected:
                raise WeightsMismatch(
                    f"The transformer has {name} {found}, but {meaning} come to {expected}.",
                    "Use the components of one image-to-video model.",
                )


def existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise WeightsMissing(f"The weights folder {shown(folder)} is missing.", "Check the paths in the preset.")
    return folder


def shown(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
