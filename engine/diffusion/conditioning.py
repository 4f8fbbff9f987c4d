"""What the transformer is told about a clip: prompt, condition frames and padding.

Shapes: frames uint8 (n, H, W, 3); pixels (B, 3, F, H, W) in [−1, 1]; latents (B, C, f, h, w), normalised.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.domain import ClipRequest
from engine.errors import GenerationError
from engine.models.components import Components, PictureCodec, VideoCodec
from engine.variants import Padding, Variant


@dataclass
class Counters:
    """What a backend has done since it was opened; tests hold it to doing nothing twice."""

    text_encoder_calls: int = 0
    image_encoder_calls: int = 0
    frames_encoded: int = 0
    clips_decoded: int = 0
    transformer_passes: int = 0
    lora_fusions: int = 0


@dataclass(frozen=True)
class Conditioning:
    """prompt_embeds and negative_prompt_embeds (1, L, D), the latter None when guidance does not ask for it;
    image_embeds (1, tokens, D) or None; condition_latents (1, 4 + C, f, h, w): mask, then latents."""

    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None
    image_embeds: Tensor | None
    condition_latents: Tensor


class TextCache:
    """Embeddings of the texts seen last, on the host, so that each distinct text is encoded once."""

    def __init__(self, encode: Callable[[list[str], int], Tensor], counters: Counters, *, size: int = 64) -> None:
        self.encode, self.counters, self.size = encode, counters, size
        self.embeds: OrderedDict[tuple[str, int], Tensor] = OrderedDict()

    def __call__(self, text: str, max_sequence_length: int) -> Tensor:
        key = (text, max_sequence_length)
        if key not in self.embeds:
            self.counters.text_encoder_calls += 1
            self.embeds[key] = self.encode([text], max_sequence_length).cpu()
            while len(self.embeds) > self.size:
                self.embeds.popitem(last=False)
        self.embeds.move_to_end(key)
        return self.embeds[key]


def to_pixels(frames: np.ndarray, device: torch.device) -> Tensor:
    """Frames uint8 (n, H, W, 3) as pixels (1, 3, n, H, W), float32 in [−1, 1]."""
    return torch.tensor(frames, device=device).permute(3, 0, 1, 2)[None].float() * (2 / 255) - 1


def condition_pixels(request: ClipRequest, padding: Padding, device: torch.device) -> Tensor:
    """The clip's F frames before encoding: the condition frames, then the anchor repeated, or mid-grey ("zeros")."""
    given = to_pixels(request.condition_frames, device)
    missing = request.num_frames - given.shape[2]
    if given.shape[2] < 1 or missing < 0:
        raise GenerationError(
            f"A clip of {request.num_frames} frames cannot be conditioned on {given.shape[2]} frames."
        )
    if padding == "anchor":
        rest = to_pixels(request.anchor[None], device).expand(-1, -1, missing, -1, -1)
    else:
        rest = given.new_zeros(1, 3, missing, *given.shape[3:])
    return torch.cat([given, rest], dim=2)


def condition_latents(pixels: Tensor, codec: VideoCodec) -> Tensor:
    """Mask and latents (B, 4 + C, f, h, w) of F frames encoded together: the codec is causal, so parts would differ.

    The mask is 1 in latent frame 0 only, with one motion frame as with five: upstream's `ref_pad_cfg` is off.
    """
    return with_mask(codec.encode(pixels), codec)


def with_mask(latents: Tensor, codec: VideoCodec) -> Tensor:
    """Latents (B, C, f, h, w) behind their mask; see `mask_first`."""
    return mask_first(latents, codec.temporal_stride)


def mask_first(latents: Tensor, temporal_stride: int) -> Tensor:
    """Latents (B, C, f, h, w) behind a mask (B, 4, f, h, w): ones in latent frame 0, zeros elsewhere."""
    mask = latents.new_zeros(len(latents), temporal_stride, *latents.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat([mask, latents], dim=1)


def handed_over_latents(request: ClipRequest, codec: VideoCodec, device: torch.device) -> Tensor:
    """Mask and latents (1, 4 + C, f, h, w) of SVI 2.0 Pro: the anchor's latent frame, the previous clip's last denoised
    ones, then zeros in normalised space. The one method that joins latents; nothing of the previous clip is encoded.
    """
    anchor = codec.encode(to_pixels(request.anchor[None], device))
    frames = (request.num_frames - 1) // codec.temporal_stride + 1
    latents = anchor.new_zeros(1, anchor.shape[1], frames, *anchor.shape[3:])
    latents[:, :, :1] = anchor
    if request.tail_latents is not None:
        tail = torch.tensor(request.tail_latents, device=device)[None]
        if tail.shape[1] != anchor.shape[1] or tail.shape[3:] != anchor.shape[3:]:
            raise GenerationError(
                f"Clip {request.index + 1} was handed latents {tuple(tail.shape[1:])} that do not fit its size.",
                "Regenerate the clip before it.",
            )
        latents[:, :, 1 : 1 + tail.shape[2]] = tail
    return with_mask(latents, codec)


def prepare(
    request: ClipRequest,
    components: Components,
    *,
    variant: Variant,
    texts: TextCache,
    max_sequence_length: int,
    needs_negative: bool,
    counters: Counters,
) -> Conditioning:
    """Everything the denoise loop needs besides noise, on the device and in the dtype of `components`."""
    like = {"device": components.device, "dtype": components.dtype}
    prompt = texts(request.prompt, max_sequence_length).to(**like)
    negative = texts(request.negative_prompt, max_sequence_length).to(**like) if needs_negative else None
    picture = None
    if components.encode_image is not None:
        counters.image_encoder_calls += 1
        first = to_pixels(request.condition_frames[:1], components.device)[:, :, 0]  # never the anchor
        picture = components.encode_image(first).to(**like)
    if isinstance(components.codec, PictureCodec):
        counters.frames_encoded += len(request.condition_frames)
        latents = components.codec.condition(request, variant.padding).to(components.device)
        condition = mask_first(latents, components.codec.temporal_stride)
    elif variant.num_motion_latents:
        counters.frames_encoded += 1
        condition = handed_over_latents(request, components.codec, components.device)
    else:
        pixels = condition_pixels(request, variant.padding, components.device)
        counters.frames_encoded += pixels.shape[2]
        condition = condition_latents(pixels, components.codec)
    return Conditioning(prompt, negative, picture, condition.to(**like))
