"""SVI written straight down with stock diffusers and transformers modules: the yardstick of what the studio makes.

Follows upstream's `test_svi.py`, `inference_svi_2.0.py` and `inference_svi_2.0_pro.py`. It imports nothing of the code
that it judges and writes every constant out again. Whatever is easily done wrong is an attribute or a short method, so
that a test can make that mistake on purpose and see it noticed.

Shapes: frames uint8 (F, H, W, 3); pixels (1, 3, F, H, W) in [−1, 1]; latents (1, 16, f, h, w), normalised.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import ftfy
import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPVisionModel, UMT5EncoderModel

LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LORA_NAMES = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
LoraFiles = Mapping[Literal["high", "low"], Sequence[tuple[Path, float]]]  # file and strength, by expert


@dataclass(frozen=True)
class Method:
    """One published method. motion_frames: the previous clip's frames that a later clip starts from, 0 where its last
    latent frame is handed over instead. overlap: frames at a later clip's head that the film has already. each_prompt:
    clips in a row that a prompt is used for."""

    motion_frames: int
    padding: Literal["anchor", "grey", "latents"]
    overlap: int
    prompts: Literal["first", "stream"] = "stream"
    each_prompt: int = 1


METHODS = {
    "svi-shot": Method(1, "anchor", overlap=1, prompts="first"),
    "svi-film": Method(5, "grey", overlap=5),
    "svi-tom": Method(1, "grey", overlap=1),
    "svi-2.0": Method(5, "anchor", overlap=5, each_prompt=2),
    "svi-2.0-wan2.2": Method(1, "anchor", overlap=1),
    "svi-2.0-pro": Method(0, "latents", overlap=5),
}


@dataclass(frozen=True)
class Settings:
    """What a user may set. size: width and height."""

    size: tuple[int, int]
    num_frames: int
    steps: int
    guidance: float
    negative_prompt: str


@dataclass(frozen=True)
class Given:
    """What the transformer is told: text embeddings (with and without the prompt), picture tokens or None, and y."""

    texts: tuple[Tensor, Tensor]
    picture: Tensor | None
    y: Tensor


@dataclass(frozen=True)
class Clip:
    frames: np.ndarray
    latents: Tensor
    given: Given


def schedule(steps: int, shift: float) -> list[float]:
    """σ = shift·s / (1 + (shift − 1)·s) at s = 1 − i/steps, and the 0 that the last step ends at."""
    even = [1 - i / steps for i in range(steps)]
    return [shift * s / (1 + (shift - 1) * s) for s in even] + [0.0]


class Upstream:
    """One method on the checkpoint in `folder` (diffusers layout), with LoRA files in upstream's spelling."""

    shift = 5.0
    boundary = 0.875
    seed_stride = 42
    text_tokens = 512
    lora_scale = 1.0
    first_clip_copies = 1
    resample = Image.Resampling.BICUBIC

    def __init__(self, folder: Path, method: str, settings: Settings, loras: LoraFiles) -> None:
        self.method, self.settings = METHODS[method], settings
        self.vae = AutoencoderKLWan.from_pretrained(folder / "vae").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.text_encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
        self.experts = [self.read_expert(folder / "transformer", loras.get("high", ()))]
        self.image_encoder = None
        if (folder / "transformer_2").exists():
            self.experts.append(self.read_expert(folder / "transformer_2", loras.get("low", ())))
        else:
            self.image_encoder = CLIPVisionModel.from_pretrained(folder / "image_encoder").eval()
        self.mean, self.std = (torch.tensor(values).view(1, 16, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))

    def read_expert(self, folder: Path, loras: Sequence[tuple[Path, float]]) -> WanTransformer3DModel:
        """The transformer with W += strength · B·A for every layer of every file; no alpha in a file means scale 1."""
        transformer = WanTransformer3DModel.from_pretrained(folder).eval()
        weights = transformer.state_dict()
        for file, strength in loras:
            tensors = load_file(file)
            for key in tensors:
                if found := re.search(r"blocks\.(\d+)\.(\w+\.\w+)\.lora_A\.", key):
                    change = tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
                    weights[f"blocks.{found[1]}.{LORA_NAMES[found[2]]}.weight"] += strength * self.lora_scale * change
        return transformer

    # the film

    @torch.no_grad()
    def film(self, picture: Path, prompts: Sequence[str], made: Sequence[np.ndarray] = ()) -> list[Clip]:
        """Every clip, starting from the one before it as far as the method says.

        made: frames of these clips from elsewhere, to continue instead of its own: a level that tips over at a rounding
        edge would grow from clip to clip. Latents that are handed over are always its own.
        """
        anchor = self.load(picture)
        clips: list[Clip] = []
        for index in range(len(prompts)):
            prompt = prompts[0] if self.method.prompts == "first" else prompts[index]
            if index == 0:
                given = self.given(prompt, [anchor] * self.first_clip_copies, anchor, None)
            else:
                before = made[index - 1] if len(made) else clips[-1].frames
                given = self.given(prompt, self.motion(before) or [anchor], anchor, self.tail(clips[-1]))
            latents = self.denoise(given, seed=self.seed_stride * index)
            clips.append(Clip(self.to_frames(self.decode(latents)), latents, given))
        return clips

    def motion(self, frames: np.ndarray) -> list[np.ndarray]:
        """The previous clip's last frames, which went through 8 bits."""
        return list(frames[len(frames) - self.method.motion_frames :])

    def tail(self, clip: Clip) -> Tensor:
        """The previous clip's last latent frame as it was denoised."""
        return clip.latents[:, :, -1:]

    def load(self, picture: Path) -> np.ndarray:
        return np.asarray(Image.open(picture).convert("RGB").resize(self.settings.size, self.resample))

    # what the transformer is told

    def given(self, prompt: str, frames: list[np.ndarray], anchor: np.ndarray, tail: Tensor | None) -> Given:
        latents = self.condition_latents(frames, anchor, tail)
        y = torch.cat([self.mask(len(frames), latents), latents], dim=1)
        picture = self.picture_tokens(frames, anchor) if self.image_encoder is not None else None
        return Given((self.embed(prompt), self.embed(self.settings.negative_prompt)), picture, y)

    def condition_latents(self, frames: list[np.ndarray], anchor: np.ndarray, tail: Tensor | None) -> Tensor:
        if self.method.padding == "latents":
            return self.joined_latents(anchor, tail)
        return self.encode(self.condition_pixels(frames, anchor))

    def condition_pixels(self, frames: list[np.ndarray], anchor: np.ndarray) -> Tensor:
        """The condition frames, then the anchor over and over or mid-grey, to be encoded together."""
        padding = torch.zeros(1, 3, self.settings.num_frames - len(frames), *anchor.shape[:2])
        if self.method.padding == "anchor":
            padding[:] = to_pixels([anchor])
        return torch.cat([to_pixels(frames), padding], dim=2)

    def joined_latents(self, anchor: np.ndarray, tail: Tensor | None) -> Tensor:
        """2.0 Pro: the anchor's latent frame, the previous clip's last one, then zeros in normalised space."""
        first = self.encode(to_pixels([anchor]))
        zeros = torch.zeros(1, 16, (self.settings.num_frames - 1) // 4, *first.shape[3:])
        latents = torch.cat([first, zeros], dim=2)
        if tail is not None:
            latents[:, :, 1:2] = tail
        return latents

    def mask(self, num_condition_frames: int, latents: Tensor) -> Tensor:
        """Ones over frame 0, however many condition frames there are; folded four frames to a latent frame."""
        frames = torch.zeros(1, self.settings.num_frames, *latents.shape[3:])
        frames[:, : self.marked_frames(num_condition_frames)] = 1
        entries = torch.cat([frames[:, :1].repeat(1, 4, 1, 1), frames[:, 1:]], dim=1)
        return entries.view(1, -1, 4, *latents.shape[3:]).transpose(1, 2)

    def marked_frames(self, num_condition_frames: int) -> int:
        return 1

    def encode(self, pixels: Tensor) -> Tensor:
        return (self.vae.encode(pixels).latent_dist.mode() - self.mean) / self.std

    def picture_tokens(self, frames: list[np.ndarray], anchor: np.ndarray) -> Tensor:
        """CLIP's last block but one, looking at the first condition frame."""
        square = self.squashed(to_pixels(frames[:1])[:, :, 0])
        return self.image_encoder(square, output_hidden_states=True).hidden_states[-2]

    def squashed(self, pixels: Tensor) -> Tensor:
        """Pixels (1, 3, H, W) as CLIP's square, its own mean and deviation: bicubic, no antialiasing, no crop."""
        side = self.image_encoder.config.image_size
        square = functional.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        return ((square + 1) / 2 - mean) / std

    def embed(self, text: str) -> Tensor:
        cleaned = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())
        options = {"padding": "max_length", "max_length": self.text_tokens, "truncation": True, "return_tensors": "pt"}
        tokens = self.tokenizer([cleaned], **options)
        embeds = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        embeds[:, int(tokens.attention_mask.sum()) :] = 0
        return embeds

    # from noise to frames

    def denoise(self, given: Given, *, seed: int) -> Tensor:
        latents = self.noise(given, seed)
        for sigma, next_sigma in pairwise(self.sigmas()):
            latents = latents + self.velocity(latents, sigma, given) * (next_sigma - sigma)
        return latents

    def noise(self, given: Given, seed: int) -> Tensor:
        shape = (1, 16, *given.y.shape[2:])
        return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))

    def sigmas(self) -> list[float]:
        return schedule(self.settings.steps, self.shift)

    def velocity(self, latents: Tensor, sigma: float, given: Given) -> Tensor:
        """Two full passes, both with the same y and picture; none without the prompt where guidance is 1."""
        model_input, timestep = torch.cat([latents, given.y], dim=1), torch.tensor([self.timestep(sigma)])
        expert, scale = self.expert_at(sigma), self.settings.guidance
        with_prompt, without = (expert(model_input, timestep, text, given.picture).sample for text in given.texts)
        return with_prompt if scale == 1 else without + scale * (with_prompt - without)

    def timestep(self, sigma: float) -> float:
        return 1000 * sigma

    def expert_at(self, sigma: float) -> WanTransformer3DModel:
        """The low-noise expert once t < 875, where there are two."""
        return self.experts[-1] if sigma < self.boundary else self.experts[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents * self.std + self.mean).sample

    def to_frames(self, pixels: Tensor) -> np.ndarray:
        """Levels are cut off, not rounded."""
        levels = ((pixels[0] + 1) * 127.5).clamp(0, 255).floor()
        return levels.to(torch.uint8).permute(1, 2, 3, 0).numpy()


def to_pixels(frames: Sequence[np.ndarray]) -> Tensor:
    video = np.stack(frames).astype(np.float32)
    return torch.from_numpy(video).permute(3, 0, 1, 2)[None] * (2 / 255) - 1
