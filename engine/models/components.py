"""What a backend needs of a model, whatever its family: the denoiser, the video codec and the encoders.

Shapes: pixels (B, 3, F, H, W) in [−1, 1]; latents (B, C, f, h, w), normalised. Device and dtype are decided here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import transformers
from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.config import Preset
from engine.domain import ClipRequest, Resolution
from engine.errors import BackendUnavailable, OutOfMemory
from engine.models.folding import fold_for_cpu
from engine.models.gguf_files import FusedLora
from engine.models.lora import Lora, read_lora
from engine.variants import Padding

Prediction = Literal["velocity", "sample"]


class VideoCodec(Protocol):
    """Pixels to normalised latents and back. F = temporal_stride · n + 1 frames give n + 1 latent frames."""

    latent_channels: int
    spatial_stride: int
    temporal_stride: int

    def encode(self, pixels: Tensor) -> Tensor: ...
    def grid(self, height: int, width: int) -> tuple[int, int]: ...
    def decode(self, latents: Tensor) -> Tensor: ...


@runtime_checkable
class PictureCodec(Protocol):
    """A codec whose latents say how frames are made of a picture: without the picture there is nothing to decode.

    condition: latents (1, C, f, h, w) that the clip of a request is conditioned on. told: the same of condition frames
    (n, H, W, 3) and an anchor (H, W, 3), or None for zeros, with nothing else to go by. grid: rows and columns of the
    latents of frames (height, width). tied: noise as the layout of the
    latents has it. draw: a clip's frames from its clean latents; check is called between frames and may raise. peek: a
    few of them.
    """

    latent_channels: int
    temporal_stride: int

    def encode(self, pixels: Tensor) -> Tensor: ...
    def grid(self, height: int, width: int) -> tuple[int, int]: ...
    def condition(self, request: ClipRequest, padding: Padding) -> Tensor: ...
    def told(self, frames: np.ndarray, anchor: np.ndarray | None, num_frames: int) -> Tensor: ...
    def tied(self, noise: Tensor) -> Tensor: ...
    def draw(self, latents: Tensor, request: ClipRequest, check: Callable[[], None]) -> "Drawn": ...
    def peek(self, latents: Tensor, request: ClipRequest, frames: Sequence[int]) -> np.ndarray: ...


@dataclass(frozen=True)
class Drawn:
    """frames uint8 (F, H, W, 3); states: arrays that tell how the last frames are made of the picture, or None where
    clips are not composed; notice: what the person should know of the clip, "" for nothing."""

    frames: np.ndarray
    states: dict[str, np.ndarray] | None
    notice: str = ""


class Placement(Protocol):
    """Where the parts of a model live, and what can be given up when memory runs out."""

    tier: str
    exact: bool  # whether the pictures are those of the other exact tiers
    meaning: str  # of the tier, in words

    def bring(self, expert: WanTransformer3DModel) -> None:
        """Make `expert` ready to compute; the other one may leave the device for it."""
        ...

    def prepare(self, resolution: Resolution, num_frames: int) -> str | None:
        """Make room for clips of this size; says so in a sentence where another tier is needed for it."""
        ...

    def step_down(self) -> str | None:
        """Move to the next tier that needs less memory and say so in a sentence; None when there is none."""
        ...


@dataclass(frozen=True)
class Components:
    """One loaded model.

    encode_text: (prompts, max_sequence_length) -> (B, L, D), zero past each prompt's end. encode_image: pixels
    (B, 3, H, W) -> (B, tokens, D), or None where the transformer takes no picture tokens. prediction: what the
    transformer returns, noise − latents ("velocity") or the clean latents ("sample"). preview: linear map (C + 1, 3)
    from latents and a constant to RGB in [−1, 1], or None where decoding is cheap enough to preview with.
    low_noise_transformer: the second expert of Wan 2.2, or None. placement: where the parts live, or None where there
    is nothing to choose. base_weights: of each expert ("high", "low"), by the parameter's name, where they can be had
    again without a copy. held_loras: what quantised experts came with. read_lora: (path, transformer, kind=) -> the
    LoRA to fuse. note: what must be said of these weights wherever their results are named, "" for those of the
    preset's files.
    """

    transformer: WanTransformer3DModel
    codec: VideoCodec | PictureCodec
    encode_text: Callable[[list[str], int], Tensor]
    encode_image: Callable[[Tensor], Tensor] | None
    prediction: Prediction
    device: torch.device
    dtype: torch.dtype
    preview: Tensor | None = None
    low_noise_transformer: WanTransformer3DModel | None = None
    placement: Placement | None = None
    base_weights: Mapping[str, Callable[[str], Tensor]] = field(default_factory=dict)
    held_loras: Mapping[str, tuple[FusedLora, ...]] = field(default_factory=dict)
    read_lora: Callable[..., Lora] = read_lora
    note: str = ""


def load(preset: Preset, *, lowered: int = 0) -> Components:
    """The components of `preset`. lowered: tiers below the one that would be chosen, after memory ran out on those.

    Raises `WeightsMissing`, `WeightsMismatch`, `BackendUnavailable`, and `OutOfMemory` where no tier fits.
    """
    transformers.utils.logging.disable_progress_bar()
    if preset.random_weights:
        from engine.models.untrained import load_random

        return load_random(preset, lowered=lowered)
    if preset.family == "pocket":
        if lowered:
            raise OutOfMemory(f"The model “{preset.name}” needs more memory than is free.", "Close other programs.")
        return _load_pocket(preset)
    from engine.models import wan

    return wan.load_components(preset, lowered=lowered)


def _load_pocket(preset: Preset) -> Components:
    from engine.pocket import model as pocket

    device = device_of(preset)
    dtype = dtype_of(preset, device)
    loaded = pocket.load_components(preset.path(preset.model), dtype, str(device))
    if device.type == "cpu":
        fold_for_cpu(loaded.transformer)
    return Components(
        transformer=loaded.transformer,
        codec=loaded.codec,
        encode_text=loaded.encode_text,
        encode_image=None,
        prediction=loaded.prediction,
        device=device,
        dtype=dtype,
    )


def device_of(preset: Preset) -> torch.device:
    """The device that `preset` asks for; "auto" prefers CUDA."""
    available = torch.cuda.is_available()
    if preset.device == "cuda" and not available:
        raise BackendUnavailable(
            f"The preset “{preset.name}” asks for a CUDA device and this computer has none.",
            "Set `device: auto`, or choose the preset “pocket”.",
        )
    return torch.device("cuda" if available and preset.device != "cpu" else "cpu")


def dtype_of(preset: Preset, device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA, else float32 (bfloat16 takes twice as long on a CPU without its instructions)."""
    if preset.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, preset.dtype)
