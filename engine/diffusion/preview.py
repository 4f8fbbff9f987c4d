"""A few small frames of the clean estimate, to look at while a clip is being made.

A linear map from latents to RGB costs nothing beside a step. It is fitted on the codec that is in use: no table of
numbers to keep up to date. A model that draws from the picture draws a few frames instead.
"""

import torch
from torch import Tensor
from torch.nn import functional

from engine.domain import ClipRequest
from engine.models.components import Components, PictureCodec, VideoCodec

MAX_FRAMES = 8
MAX_SIDE = 256
FIT_SIDE = 128


def has_preview(step: int, of: int) -> bool:
    """Whether step `step` (from 1) makes a preview: each of up to ten steps, else every fourth from the first on."""
    return of <= 10 or (step - 1) % 4 == 0


def preview_frames(latents: Tensor, components: Components, request: ClipRequest | None = None) -> Tensor:
    """Up to `MAX_FRAMES` frames, uint8 (n, h, w, 3) on the CPU, of clean latents (1, C, f, h, w).

    request: what is drawn from a picture needs the clip's.
    """
    if isinstance(components.codec, PictureCodec):
        frames = components.codec.peek(latents, request, spread(request.num_frames, MAX_FRAMES))
        chosen = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    else:
        if components.preview is None:
            pixels = components.codec.decode(latents)
        else:
            pixels = apply_preview(latents, components.preview.to(latents))
        chosen = pixels[0, :, spread(pixels.shape[2], MAX_FRAMES)].transpose(0, 1)  # (n, 3, h, w)
    shrink = -(-max(chosen.shape[-2:]) // MAX_SIDE)
    if shrink > 1:
        chosen = functional.avg_pool2d(chosen, shrink)
    return to_uint8(chosen).permute(0, 2, 3, 1).contiguous().cpu()


def spread(count: int, most: int) -> list[int]:
    """At most `most` indices of range(count), evenly spread, first and last included."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def apply_preview(latents: Tensor, preview: Tensor) -> Tensor:
    """RGB in about [−1, 1], (B, 3, f, h, w), one pixel per latent place."""
    return torch.einsum("bcfhw,cr->brfhw", latents, preview[:-1]) + preview[-1].view(3, 1, 1, 1)


def fit_preview(codec: VideoCodec, device: torch.device) -> Tensor:
    """The linear map (C + 1, 3) that best predicts the mean colour under a latent (least squares)."""
    pixels = colour_fields(codec.temporal_stride + 1).to(device)
    with torch.inference_mode():
        latents = torch.cat([codec.encode(picture[None]).float() for picture in pixels])
    stride = codec.spatial_stride
    colours = functional.avg_pool2d(pixels[:, :, 0], stride)[:, :, None].expand(-1, -1, latents.shape[2], -1, -1)
    inputs = latents.movedim(1, -1).flatten(0, 3)
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1).double().cpu()
    targets = colours.movedim(1, -1).flatten(0, 3).double().cpu()
    damping = 1e-6 * torch.eye(inputs.shape[1], dtype=torch.float64) * inputs.square().mean()
    gram = inputs.T @ inputs / len(inputs) + damping
    return torch.linalg.solve(gram, inputs.T @ targets / len(inputs)).to(device, torch.float32)


def colour_fields(num_frames: int) -> Tensor:
    """Soft colour fields with some texture, standing still: (N, 3, F, S, S) in [−1, 1], the same every time."""
    generator = torch.Generator().manual_seed(0)
    fields = torch.rand(4, 3, 6, 6, generator=generator) * 2 - 1
    smooth = functional.interpolate(fields, size=(FIT_SIDE, FIT_SIDE), mode="bilinear", align_corners=False)
    texture = torch.rand(4, 1, FIT_SIDE // 4, FIT_SIDE // 4, generator=generator) - 0.5
    pictures = smooth + 0.3 * functional.interpolate(texture, scale_factor=4, mode="nearest")
    return pictures.clamp(-1, 1)[:, :, None].expand(-1, -1, num_frames, -1, -1).contiguous()


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels in [−1, 1] as rounded 8-bit values, on the device they are on."""
    return ((pixels.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
