"""Films of the drift benchmark, clip by clip, many chains at once.

What `film.py` and `LocalBackend` do for one clip, without a project folder: condition, denoise, decode, round to
8 bits, hand the last frames on. Beside the model stand films that need none: exact ones, a model without error, and
three ways to look consistent without making a film. A film is an iterator over clips, (B, F, H, W, 3) uint8.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.backends.local import to_frames
from engine.config import Preset
from engine.diffusion.conditioning import condition_latents, condition_pixels, to_pixels
from engine.diffusion.flow import sigma_schedule
from engine.diffusion.guidance import guide, passes
from engine.diffusion.sampler import draw_noise, sample
from engine.domain import ClipRequest, Resolution
from engine.errors import GenerationError
from engine.evaluation.chains import Chain, TrueClip, true_film
from engine.models.attention import PlainDenoiser, ReusingDenoiser
from engine.models.components import Components
from engine.timeline import Timeline
from engine.training.world import NUM_FRAMES, perform, transition
from engine.variants import Padding, Variant

Film = Iterator[np.ndarray]


@dataclass(frozen=True)
class Sampling:
    """How clips are made from what was handed over."""

    variant: Variant
    padding: Padding  # the variant's own, except for a base model that never saw an anchor
    num_inference_steps: int


def model_film(components: Components, preset: Preset, chains: Sequence[Chain], sampling: Sampling) -> Film:
    """What the model that is loaded makes of `chains`."""
    conditions = [chain.anchor[None] for chain in chains]
    for index in range(len(chains[0].prompts)):
        requests = [
            request_of(chain, index, condition, preset, sampling)
            for chain, condition in zip(chains, conditions, strict=True)
        ]
        frames = generate(components, preset, requests, sampling.padding)
        yield frames
        conditions = list(frames[:, -sampling.variant.num_motion_frames :])


def request_of(chain: Chain, index: int, condition: np.ndarray, preset: Preset, sampling: Sampling) -> ClipRequest:
    """The request that `film.next_request` would make for clip `index` of such a project."""
    height, width = chain.anchor.shape[:2]
    return ClipRequest(
        digest=f"{index:064x}",
        clip_id=f"{index:026d}",
        index=index,
        variant=sampling.variant.name,
        prompt=chain.prompts[index],
        negative_prompt=preset.negative_prompt,
        seed=chain.noise_seed(index),
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=preset.guidance_scale,
        lora_strength=1.0,
        num_frames=preset.num_frames,
        overlap=Timeline(preset.num_frames, sampling.variant.num_motion_frames, preset.fps).overlap(index),
        fps=preset.fps,
        resolution=Resolution(width, height),
        parent_digest=f"{index - 1:064x}" if index else None,
        anchor=chain.anchor,
        condition_frames=condition,
    )


@torch.inference_mode()
def generate(components: Components, preset: Preset, requests: Sequence[ClipRequest], padding: Padding) -> np.ndarray:
    """The clips (B, F, H, W, 3) uint8 of `requests`, which differ in pictures, prompts and seeds only.

    Within one level of 255 of what `LocalBackend` makes of each; `padding` stands for its variant's.
    """
    device, dtype = components.device, components.dtype
    pixels = torch.cat([condition_pixels(request, padding, device) for request in requests])
    condition = condition_latents(pixels, components.codec).to(dtype)
    first = requests[0]
    scales = (first.guidance_scale,)
    texts = [[request.prompt for request in requests], [request.negative_prompt for request in requests]]
    embeds = [components.encode_text(text, preset.max_sequence_length).to(device, dtype) for text in texts]
    kind = ReusingDenoiser if device.type == "cpu" else PlainDenoiser
    denoiser = kind(components.transformer, embeds[: 1 + max(passes(scales))], None)

    def predict(latents: Tensor, sigma: float) -> Tensor:
        model_input = torch.cat([latents.to(dtype), condition], dim=1)
        return guide((denoiser(model_input, sigma, branch).float() for branch in passes(scales)), scales)

    shape = (1, components.codec.latent_channels, *condition.shape[2:])
    noise = torch.cat([draw_noise(shape, request.seed, device) for request in requests])
    sigmas = sigma_schedule(first.num_inference_steps, preset.shift)
    *_, last = sample(predict, noise, sigmas, prediction=components.prediction)
    if not torch.isfinite(last.latents).all():
        raise GenerationError(f"Clip {first.index + 1} broke down into numbers that are no picture.")
    return as_frames(components.codec.decode(last.latents), preset)


def codec_film(components: Components, preset: Preset, chains: Sequence[Chain], num_motion_frames: int) -> Film:
    """The true film, each clip through the codec: no model can come closer to the truth."""
    return exact_film(components, preset, chains, num_motion_frames, lambda clip: clip.after)


def anchored_film(components: Components, preset: Preset, chains: Sequence[Chain], num_motion_frames: int) -> Film:
    """Every move done to the anchor itself, through the codec: it cannot drift, and it forgets what came before."""
    return exact_film(components, preset, chains, num_motion_frames, lambda clip: clip.anchored)


def exact_film(
    components: Components,
    preset: Preset,
    chains: Sequence[Chain],
    num_motion_frames: int,
    goal: Callable[[TrueClip], Tensor],
) -> Film:
    """Exact transitions from one `goal` (3, H, W) to the next, each clip through the codec, nothing handed on."""
    carried = torch.cat([to_pixels(chain.anchor[None], torch.device("cpu")) for chain in chains])
    for clips in zip(*(true_film(chain, num_motion_frames) for chain in chains), strict=True):
        whole = transition(carried[:, :, -1], torch.stack([goal(clip) for clip in clips]))
        pixels = torch.cat([carried, whole[:, :, carried.shape[2] :]], dim=2)
        yield through_codec(components, preset, pixels)
        carried = pixels[:, :, -num_motion_frames:]


def perfect_film(components: Components, preset: Preset, chains: Sequence[Chain], num_motion_frames: int) -> Film:
    """What a model without any error makes, knowing only the frames that it was handed: each move is exact, but it
    starts from frames that went through the codec and 8 bits."""
    carried = torch.cat([to_pixels(chain.anchor[None], torch.device("cpu")) for chain in chains])
    for index in range(len(chains[0].actions)):
        before = carried[:, :, -1]
        after = torch.cat([perform(before[i : i + 1], chain.actions[index]) for i, chain in enumerate(chains)])
        clip = transition(before, after)
        pixels = torch.cat([carried, clip[:, :, carried.shape[2] :]], dim=2)
        frames = through_codec(components, preset, pixels)
        yield frames
        tails = frames[:, -num_motion_frames:]
        carried = torch.cat([to_pixels(tail, torch.device("cpu")) for tail in tails])


def copied_film(chains: Sequence[Chain], num_motion_frames: int, *, turned: bool) -> Film:
    """The first true clip over and over; `turned`: every second time backwards."""
    firsts = [next(true_film(chain, num_motion_frames)).frames for chain in chains]
    clip = np.stack([to_frames(frames.transpose(0, 1)[None], "round") for frames in firsts])
    for index in range(len(chains[0].actions)):
        yield clip[:, ::-1].copy() if turned and index % 2 else clip


def still_film(chains: Sequence[Chain]) -> Film:
    """The anchor, and nothing else."""
    clip = np.stack([np.broadcast_to(chain.anchor, (NUM_FRAMES, *chain.anchor.shape)) for chain in chains])
    for _ in chains[0].actions:
        yield clip


@torch.inference_mode()
def through_codec(components: Components, preset: Preset, pixels: Tensor) -> np.ndarray:
    """Pixels (B, 3, F, H, W), encoded, decoded and rounded to (B, F, H, W, 3) uint8."""
    codec = components.codec
    return as_frames(codec.decode(codec.encode(pixels.to(components.device))), preset)


def as_frames(pixels: Tensor, preset: Preset) -> np.ndarray:
    """(B, 3, F, H, W) in [−1, 1] as (B, F, H, W, 3) uint8, converted as the product does."""
    return np.stack([to_frames(clip[None], preset.uint8) for clip in pixels])
