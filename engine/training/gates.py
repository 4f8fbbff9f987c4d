"""Gates of the pocket model: what it may claim, measured on photographs it never saw.

For every action: PSNR of the generated last frame against the true one, beside "nothing moves", the best linear map
of codes fitted for that action alone, and the codec's ceiling. An action that fails its gate is not in the vocabulary.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.diffusion.conditioning import condition_latents
from engine.diffusion.flow import euler_step, sigma_schedule, velocity_from_latents
from engine.models.components import Components
from engine.training.metrics import affine_fit, psnr
from engine.training.pictures import HELD_OUT, find_photos, fit_photo, load_photo, toy_scenes
from engine.training.world import ACTIONS, BY_NAME, NUM_FRAMES, Action, perform, transition
from engine.variants import Variant

CODEC_GATE = 29.0
STAY_MARGIN = 3.0
LIGHT_GATE = 28.0
LIGHT_GAIN = 10.0
TOY_SEED = 20_000
PROMPT_SUBJECT = "the old harbour"  # a subject that no training caption contains
SHIPPED_SIZE = (192, 288)


@dataclass(frozen=True)
class Figures:
    """PSNR in dB of the last frame, averaged over pictures."""

    generated: float
    still: float
    linear: float
    ceiling: float
    worst: float

    def passes(self, action: Action) -> bool:
        if action.kind == "stay":
            return self.generated >= self.ceiling - STAY_MARGIN
        return self.generated >= LIGHT_GATE and self.generated >= self.still + LIGHT_GAIN


@dataclass(frozen=True)
class Report:
    """Figures per action for held-out photographs and for toy scenes, and the pictures they were measured on."""

    photos: dict[str, Figures]
    toys: dict[str, Figures]
    codec: float
    size: tuple[int, int]
    num_inference_steps: int

    @property
    def passed(self) -> list[str]:
        """Names of the actions that may be offered: none when the codec itself is too poor."""
        if self.codec < CODEC_GATE:
            return []
        return [name for name, figures in self.photos.items() if figures.passes(BY_NAME[name])]

    def as_dict(self) -> dict:
        """Plain values, in the order of the vocabulary."""
        return {**asdict(self), "passed": self.passed}


def report(
    components: Components,
    *,
    size: tuple[int, int] = SHIPPED_SIZE,
    num_inference_steps: int = 1,
    shift: float = 5.0,
    num_toys: int = 4,
    sheet: Path | None = None,
    actions: Sequence[Action] = ACTIONS,
    linear: bool = True,
) -> Report:
    """Measure every action; with `sheet`, also write a contact sheet (truth above what was generated)."""
    photos = held_out_photos(size)
    toys = toy_scenes(num_toys, *size, TOY_SEED) if num_toys else photos[:0]
    pictures = torch.cat([photos, toys])
    seen = toy_scenes(24, 64, 96, TOY_SEED + 1) if linear else None
    by_action, columns = {}, [pictures]
    for action in actions:
        truth = perform(pictures, action)
        clips = generate(components, pictures, [prompt(action)] * len(pictures), num_inference_steps, shift)
        coded = components.codec.decode(components.codec.encode(transition(pictures, truth)))
        mapped = linear_outcome(components, action, seen, pictures) if linear else pictures
        columns += [truth, clips[:, :, -1]]
        by_action[action.name] = [psnr(x, truth) for x in (clips[:, :, -1], pictures, mapped, coded[:, :, -1])]
    if sheet:
        write_sheet(columns, sheet)
    photos = pictures[: len(photos)]
    still_clip = transition(photos, photos)
    codec = psnr(components.codec.decode(components.codec.encode(still_clip)), still_clip).mean().item()
    count = len(photos)
    return Report(
        {name: _figures([v[:count] for v in values]) for name, values in by_action.items()},
        {name: _figures([v[count:] for v in values]) for name, values in by_action.items()} if num_toys else {},
        codec,
        size,
        num_inference_steps,
    )


@torch.no_grad()
def chain_psnr(
    components: Components,
    variant: Variant,
    *,
    size: tuple[int, int],
    num_clips: int,
    num_toys: int = 4,
    shift: float = 5.0,
    seed: int = 0,
) -> list[float]:
    """PSNR in dB of each clip's last frame against the truth, along one chain of moves a picture, as Film and Shot
    hand over. One sampling step; the pictures are the held-out photographs and scenes."""
    anchors = torch.cat([held_out_photos(size), toy_scenes(num_toys, *size, TOY_SEED)])
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    orders = [_shuffled_rounds(num_clips, rng) for _ in anchors]
    truth, carried, values = anchors, anchors[:, :, None], []
    for index in range(num_clips):
        actions = [order[index] for order in orders]
        truth = torch.cat([perform(picture[None], action) for picture, action in zip(truth, actions, strict=True)])
        missing = NUM_FRAMES - carried.shape[2]
        rest = anchors[:, :, None] if variant.padding == "anchor" else torch.zeros_like(anchors)[:, :, None]
        pixels = torch.cat([carried, rest.expand(-1, -1, missing, -1, -1)], dim=2)
        embeds = components.encode_text([prompt(action) for action in actions], 0)
        made = sample(components, pixels, embeds, 1, shift, generator).clamp(-1, 1)
        carried = made[:, :, -variant.num_motion_frames :].add(1).mul(127.5).round().div(127.5).sub(1)
        values.append(psnr(carried[:, :, -1], truth).mean().item())
    return values


def score(measured: Report) -> float:
    """One number to keep the best weights by: mean PSNR of the generated last frames on photographs."""
    return sum(figures.generated for figures in measured.photos.values()) / len(measured.photos)


def prompt(action: Action) -> str:
    return action.phrases[1 if action.kind == "stay" else 0].format(subject=PROMPT_SUBJECT)


def held_out_photos(size: tuple[int, int]) -> Tensor:
    return torch.stack([fit_photo(load_photo(path), *size) for path in find_photos(HELD_OUT)])


@torch.no_grad()
def generate(
    components: Components,
    pictures: Tensor,
    prompts: list[str],
    num_inference_steps: int,
    shift: float,
    seed: int = 0,
) -> Tensor:
    """Clips (B, 3, 25, H, W) from one condition frame and grey padding, one picture at a time."""
    generator = torch.Generator().manual_seed(seed)
    embeds = components.encode_text(prompts, 0)
    clips = []
    for picture, embed in zip(pictures, embeds, strict=True):
        pixels = picture.new_zeros(1, 3, NUM_FRAMES, *picture.shape[1:])
        pixels[:, :, 0] = picture
        clips.append(sample(components, pixels, embed[None], num_inference_steps, shift, generator))
    return torch.cat(clips).clamp(-1, 1)


def sample(
    components: Components,
    pixels: Tensor,
    embeds: Tensor,
    num_inference_steps: int,
    shift: float,
    generator: torch.Generator,
) -> Tensor:
    """Pixels of one Euler run under the condition video `pixels`."""
    condition = condition_latents(pixels, components.codec)
    channels = components.codec.latent_channels
    latents = torch.randn(condition[:, :channels].shape, generator=generator)
    sigmas = sigma_schedule(num_inference_steps, shift)
    for sigma, next_sigma in pairwise(sigmas):
        timestep = torch.full((len(latents),), 1000 * sigma)
        clean = components.transformer(torch.cat([latents, condition], 1), timestep, embeds, return_dict=False)[0]
        latents = euler_step(latents, velocity_from_latents(latents, clean, sigma), sigma, next_sigma)
    return components.codec.decode(latents)


def linear_outcome(components: Components, action: Action, seen: Tensor, pictures: Tensor) -> Tensor:
    """`pictures` after the best affine map of single codes, fitted on the pictures `seen`."""
    codec = components.codec
    before, after = codec.encode(seen[:, :, None]), codec.encode(perform(seen, action)[:, :, None])
    weights, bias = affine_fit(_rows(before), _rows(after))
    codes = codec.encode(pictures[:, :, None])
    mapped = (_rows(codes).double() @ weights + bias).float()
    shape = codes.transpose(0, 1).shape
    return codec.decode(mapped.T.reshape(shape).transpose(0, 1))[:, :, 0]


def write_sheet(columns: list[Tensor], path: Path) -> None:
    """First column the pictures; then, per action, truth above the generated last frame."""
    first, rest = columns[0], columns[1:]
    strips = []
    for index in range(len(first)):
        truth = torch.cat([first[index], *(column[index] for column in rest[0::2])], dim=2)
        made = torch.cat([first[index], *(column[index] for column in rest[1::2])], dim=2)
        strips += [truth, made]
    pixels = torch.cat(strips, dim=1).permute(1, 2, 0).add(1).mul(127.5).round().clamp(0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy().astype(np.uint8)).save(path)


def _shuffled_rounds(count: int, rng: random.Random) -> list[Action]:
    rounds = [rng.sample(ACTIONS, len(ACTIONS)) for _ in range(-(-count // len(ACTIONS)))]
    return [action for moves in rounds for action in moves][:count]


def _rows(latents: Tensor) -> Tensor:
    return latents.transpose(0, 1).flatten(1).T


def _figures(values: list[Tensor]) -> Figures:
    generated, still, linear, ceiling = (value.mean().item() for value in values)
    return Figures(generated, still, linear, ceiling, values[0].min().item())
