"""The mistakes that ports of SVI make, each made on purpose in one detail of the yardstick."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanTransformer3DModel
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tests.engine.published.upstream import Clip, Given, Upstream, to_pixels

Loras = Sequence[tuple[Path, float]]


@dataclass(frozen=True)
class Mistake:
    """pitfall: its number among the 25 known ones. film: one that shows it, from clip `clip` on (counted from 1).
    changes: what replaces attributes and methods of `Upstream`."""

    pitfall: int
    film: str
    clip: int
    changes: dict[str, object]


# what the transformer is told


def zero_latents(self: Upstream, frames: list[np.ndarray], anchor: np.ndarray, tail: Tensor | None) -> Tensor:
    latents = Upstream.condition_latents(self, frames, anchor, tail)
    latents[:, :, (len(frames) + 3) // 4 :] = 0
    return latents


def zero_pixels(self: Upstream, anchor: np.ndarray, tail: Tensor | None) -> Tensor:
    pixels = torch.zeros(1, 3, self.settings.num_frames, *anchor.shape[:2])
    pixels[:, :, :1] = to_pixels([anchor])
    latents = self.encode(pixels)
    if tail is not None:
        latents[:, :, 1:2] = tail
    return latents


def encoded_apart(self: Upstream, frames: list[np.ndarray], anchor: np.ndarray, tail: Tensor | None) -> Tensor:
    pixels = self.condition_pixels(frames, anchor)
    return torch.cat([self.encode(pixels[:, :, : len(frames)]), self.encode(pixels[:, :, len(frames) :])], dim=2)


def padded_with_the_newest(self: Upstream, frames: list[np.ndarray], anchor: np.ndarray) -> Tensor:
    return Upstream.condition_pixels(self, frames, frames[-1])


def padded_with_the_motion_frame(self: Upstream, anchor: np.ndarray, tail: Tensor | None) -> Tensor:
    latents = Upstream.joined_latents(self, anchor, None)
    latents[:, :, :1] = latents[:, :, :1] if tail is None else tail
    return latents


def anchor_tokens(self: Upstream, frames: list[np.ndarray], anchor: np.ndarray) -> Tensor:
    return Upstream.picture_tokens(self, [anchor], anchor)


def newest_frame_tokens(self: Upstream, frames: list[np.ndarray], anchor: np.ndarray) -> Tensor:
    return Upstream.picture_tokens(self, frames[-1:], anchor)


def last_layer_tokens(self: Upstream, frames: list[np.ndarray], anchor: np.ndarray) -> Tensor:
    return self.image_encoder(self.squashed(to_pixels(frames[:1])[:, :, 0])).last_hidden_state


def cropped(self: Upstream, pixels: Tensor) -> Tensor:
    side, width = min(pixels.shape[2:]), pixels.shape[3]
    left = (width - side) // 2
    return Upstream.squashed(self, pixels[..., left : left + side])


def antialiased(self: Upstream, pixels: Tensor) -> Tensor:
    side = self.image_encoder.config.image_size
    smooth = functional.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return Upstream.squashed(self, smooth)


def sampled(self: Upstream, pixels: Tensor) -> Tensor:
    drawn = self.vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(0))
    return (drawn - self.mean) / self.std


def not_normalised(self: Upstream, pixels: Tensor) -> Tensor:
    return self.vae.encode(pixels).latent_dist.mode()


def tiled(self: Upstream, pixels: Tensor) -> Tensor:
    self.vae.enable_tiling(32, 32, 16, 16)
    try:
        return Upstream.encode(self, pixels)
    finally:
        self.vae.disable_tiling()


def encoded_again(self: Upstream, clip: Clip) -> Tensor:
    return self.encode(to_pixels(clip.frames))[:, :, -1:]


def four_frames(self: Upstream, frames: np.ndarray) -> list[np.ndarray]:
    return list(frames[-4:])


def in_reverse(self: Upstream, frames: np.ndarray) -> list[np.ndarray]:
    return Upstream.motion(self, frames)[::-1]


def blind_without_the_prompt(self: Upstream, latents: Tensor, sigma: float, given: Given) -> Tensor:
    expert, timestep = self.expert_at(sigma), torch.tensor([self.timestep(sigma)])
    with_prompt, without = (
        expert(torch.cat([latents, y], dim=1), timestep, text, given.picture).sample
        for y, text in zip((given.y, torch.zeros_like(given.y)), given.texts, strict=True)
    )
    return without + self.settings.guidance * (with_prompt - without)


# from noise to frames


def default_sigmas(self: Upstream) -> list[float]:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=self.shift)
    scheduler.set_timesteps(self.settings.steps)
    return scheduler.sigmas.tolist()


def unipc(self: Upstream, given: Given, *, seed: int) -> Tensor:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(self.settings.steps)
    latents = self.noise(given, seed)
    for timestep in scheduler.timesteps:
        latents = scheduler.step(self.velocity(latents, float(timestep) / 1000, given), timestep, latents).prev_sample
    return latents


def whole_timestep(self: Upstream, sigma: float) -> float:
    return float(int(1000 * sigma))


def other_expert(self: Upstream, sigma: float) -> torch.nn.Module:
    return self.experts[0] if sigma < self.boundary else self.experts[-1]


def rounded(self: Upstream, pixels: Tensor) -> np.ndarray:
    return ((pixels[0] + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


# the weights


def only_the_high_noise_lora(self: Upstream, folder: Path, loras: Loras) -> WanTransformer3DModel:
    return Upstream.read_expert(self, folder, () if folder.name == "transformer_2" else loras)


def without_the_distilled_lora(self: Upstream, folder: Path, loras: Loras) -> WanTransformer3DModel:
    return Upstream.read_expert(self, folder, loras[:1])


def every_lora_in_full(self: Upstream, folder: Path, loras: Loras) -> WanTransformer3DModel:
    return Upstream.read_expert(self, folder, [(file, 1.0) for file, _ in loras])


def norms_swapped(self: Upstream, folder: Path, loras: Loras) -> WanTransformer3DModel:
    transformer = Upstream.read_expert(self, folder, loras)
    for block in transformer.blocks:
        block.norm2, block.norm3 = block.norm3, block.norm2
    return transformer


MISTAKES = {
    "a mask over five frames": Mistake(1, "svi-film", 2, {"marked_frames": lambda self, count: count}),
    "a mask over five frames, 2.0": Mistake(1, "svi-2.0", 2, {"marked_frames": lambda self, count: count}),
    "zero latents for grey pixels": Mistake(2, "svi-film", 1, {"condition_latents": zero_latents}),
    "zero latents for grey pixels, Tom": Mistake(2, "svi-tom", 1, {"condition_latents": zero_latents}),
    "grey pixels for zero latents, Pro": Mistake(2, "svi-2.0-pro", 1, {"joined_latents": zero_pixels}),
    "condition and padding encoded apart": Mistake(3, "svi-film", 1, {"condition_latents": encoded_apart}),
    "condition and anchor encoded apart": Mistake(3, "svi-shot", 1, {"condition_latents": encoded_apart}),
    "the latents of the last frame encoded again, Pro": Mistake(3, "svi-2.0-pro", 2, {"tail": encoded_again}),
    "a later frame as the anchor": Mistake(4, "svi-shot", 2, {"condition_pixels": padded_with_the_newest}),
    "a later frame as the anchor, 2.0": Mistake(4, "svi-2.0", 2, {"condition_pixels": padded_with_the_newest}),
    "a later frame as the anchor, 2.2": Mistake(4, "svi-2.0-wan2.2", 2, {"condition_pixels": padded_with_the_newest}),
    "the previous latents as the anchor, Pro": Mistake(
        4, "svi-2.0-pro", 2, {"joined_latents": padded_with_the_motion_frame}
    ),
    "CLIP looks at the anchor": Mistake(4, "svi-shot", 2, {"picture_tokens": anchor_tokens}),
    "CLIP looks at the newest frame": Mistake(4, "svi-film", 2, {"picture_tokens": newest_frame_tokens}),
    "CLIP's last layer": Mistake(4, "svi-film", 1, {"picture_tokens": last_layer_tokens}),
    "five copies of the picture in the first clip": Mistake(5, "svi-film", 1, {"first_clip_copies": 5}),
    "a sample of the posterior": Mistake(6, "svi-film", 1, {"encode": sampled}),
    "latents as they come from the VAE": Mistake(6, "svi-film", 1, {"encode": not_normalised}),
    "the scheduler's own sigmas": Mistake(7, "svi-film", 1, {"sigmas": default_sigmas}),
    "the checkpoint's scheduler": Mistake(7, "svi-film", 1, {"denoise": unipc}),
    "shift 3": Mistake(7, "svi-film", 1, {"shift": 3.0}),
    "whole timesteps": Mistake(7, "svi-film", 1, {"timestep": whole_timestep}),
    "226 tokens": Mistake(8, "svi-2.0-wan2.2", 1, {"text_tokens": 226}),
    "226 tokens beside a picture": Mistake(8, "svi-film", 1, {"text_tokens": 226}),
    "the LoRA loads as nothing": Mistake(9, "svi-film", 1, {"lora_scale": 0.0}),
    "the LoRAs load as nothing": Mistake(9, "svi-2.0-pro", 1, {"lora_scale": 0.0}),
    "alpha 1 for a file without alpha": Mistake(9, "svi-shot", 1, {"lora_scale": 1 / 2}),
    "one LoRA of two": Mistake(9, "svi-2.0-wan2.2", 1, {"read_expert": only_the_high_noise_lora}),
    "norm2 and norm3 swapped": Mistake(11, "svi-film", 1, {"read_expert": norms_swapped}),
    "the checkpoint's boundary": Mistake(12, "svi-2.0-wan2.2", 1, {"boundary": 0.9}),
    "experts swapped": Mistake(12, "svi-2.0-wan2.2", 1, {"expert_at": other_expert}),
    "one seed for all clips": Mistake(13, "svi-film", 2, {"seed_stride": 0}),
    "seeds that count up by one": Mistake(13, "svi-shot", 2, {"seed_stride": 1}),
    "levels rounded": Mistake(15, "svi-film", 1, {"to_frames": rounded}),
    "Lanczos": Mistake(15, "svi-shot", 1, {"resample": Image.Resampling.LANCZOS}),
    "CLIP sees a crop": Mistake(15, "svi-film", 1, {"squashed": cropped}),
    "CLIP sees a smoothed picture": Mistake(15, "svi-film", 1, {"squashed": antialiased}),
    "a tiled condition": Mistake(16, "svi-shot", 1, {"encode": tiled}),
    "a condition for one pass only": Mistake(19, "svi-film", 1, {"velocity": blind_without_the_prompt}),
    "a draft with the shift of a film": Mistake(23, "draft", 1, {"shift": 5.0}),
    "a draft without its LoRAs": Mistake(23, "draft", 1, {"read_expert": without_the_distilled_lora}),
    "a draft's LoRAs in full": Mistake(23, "draft", 1, {"read_expert": every_lora_in_full}),
    "four motion frames": Mistake(25, "svi-film", 2, {"motion": four_frames}),
    "motion frames newest first": Mistake(25, "svi-film", 2, {"motion": in_reverse}),
}
