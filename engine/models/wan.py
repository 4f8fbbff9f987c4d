"""Wan 2.1 image-to-video from folders in diffusers layout: transformer, VAE, text encoder and, if used, image encoder.

Conventions follow upstream SVI where it differs from diffusers' pipeline: the VAE runs in float32
and untiled, prompts are padded with zeros to 512 tokens, CLIP sees the frame squashed to its square.
Shapes: pixels (B, 3, F, H, W) in [−1, 1]; latents (B, C, f, h, w), normalised.
"""

import html
import re
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
from engine.models.folding import fold_for_cpu
from engine.models.placement import place

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
            latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        finally:
            self.vae.use_tiling = tiling
        return (latents - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode((latents * self.std + self.mean).to(self.vae.dtype), return_dict=False)[0]


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
        ).to(self.encoder.device)
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


def load_components(preset: Preset) -> Components:
    """Load every part that the transformer's configuration calls for. Parts that do not fit each other are refused."""
    device = device_of(preset)
    dtype = dtype_of(preset, device)
    transformer = read(WanTransformer3DModel, preset.component("transformer"), dtype)
    vae = read(AutoencoderKLWan, preset.component("vae"), torch.float32)
    text_encoder = read(UMT5EncoderModel, preset.component("text_encoder"), dtype)
    tokenizer = read_tokenizer(preset.component("tokenizer"))
    takes_picture = transformer.config.image_dim is not None
    if takes_picture and preset.max_sequence_length != PICTURE_SEQUENCE_LENGTH:
        raise ConfigError(
            f"“max_sequence_length” of “{preset.name}” is {preset.max_sequence_length}.",
            f"With an image encoder, {PICTURE_SEQUENCE_LENGTH} is needed: it tells picture from text tokens.",
        )
    image_encoder = read(CLIPVisionModel, preset.component("image_encoder"), torch.float32) if takes_picture else None
    check_parts(transformer, vae, text_encoder, image_encoder)
    return assemble(transformer, vae, text_encoder, tokenizer, image_encoder, device=device, dtype=dtype)


def assemble(
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    image_encoder: CLIPVisionModel | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Components:
    """Components made of loaded modules, which are placed on `device` and, on a CPU, set up for it."""
    for module in (transformer, vae, text_encoder, image_encoder):
        if module is not None:
            module.eval().requires_grad_(False)
    place(transformer, vae, text_encoder, image_encoder, device)
    if device.type == "cpu":
        fold_for_cpu(transformer)
        fold_for_cpu(vae)
    codec = WanCodec(vae)
    return Components(
        transformer=transformer,
        codec=codec,
        encode_text=WanText(tokenizer, text_encoder, device),
        encode_image=WanImage(image_encoder) if image_encoder is not None else None,
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


def check_parts(
    transformer: WanTransformer3DModel,
    vae: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    image_encoder: CLIPVisionModel | None,
) -> None:
    """Raise `WeightsMismatch` when the parts were not made for each other."""
    config, channels = transformer.config, vae.config.z_dim
    mask = vae.config.scale_factor_temporal
    wanted = {
        "in_channels": (config.in_channels, 2 * channels + mask, "noisy latents, mask and condition latents"),
        "out_channels": (config.out_channels, channels, "the channels of the VAE"),
        "text_dim": (config.text_dim, text_encoder.config.d_model, "the width of the text encoder"),
    }
    if image_encoder is not None:
        wanted["image_dim"] = (config.image_dim, image_encoder.config.hidden_size, "the width of the image encoder")
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
