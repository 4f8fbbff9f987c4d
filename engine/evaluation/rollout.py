"""Films of the drift benchmark, clip by clip, many chains at once.

What `film.py` and `LocalBackend` do for one clip, without a project folder: condition, denoise, draw, hand on. Handed
on are the last frames, as in the paper, or, composed, the states of the last frames, as the studio does by default.
Beside the model stand films that need none: the exact fields handed over either way, and three ways to look consistent
without making a film. A film is an iterator over clips, (B, F, H, W, 3) uint8.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.config import Preset
from engine.diffusion.conditioning import mask_first
from engine.domain import ClipRequest
from engine.errors import GenerationError
from engine.evaluation.chains import Chain, true_film
from engine.models.components import Components
from engine.pocket import codec as fields
from engine.pocket import world
from engine.pocket.encode import fit_clip
from engine.pocket.motion import Motion, from_arrays, last_of
from engine.pocket.sampling import sample
from engine.timeline import Timeline
from engine.variants import Variant, composed

Film = Iterator[np.ndarray]
Predict = Callable[[int, Sequence[ClipRequest]], Tensor]  # index and requests of the clips -> their latents


@dataclass(frozen=True)
class Sampling:
    """How clips are made from what was handed over; composed: states are, else frames."""

    variant: Variant
    num_frames: int
    num_inference_steps: int
    is_composed: bool = False

    @property
    def row(self) -> Variant:
        return composed(self.variant) if self.is_composed else self.variant


def model_film(components: Components, preset: Preset, chains: Sequence[Chain], sampling: Sampling) -> Film:
    """What the model that is loaded makes of `chains`."""
    return film(chains, preset, sampling, lambda _, requests: predicted(components, requests, sampling.row))


def exact_film(preset: Preset, chains: Sequence[Chain], sampling: Sampling) -> Film:
    """What a model without any error makes of `chains`, knowing only what it was handed: every move is exact."""
    return film(
        chains,
        preset,
        sampling,
        lambda index, requests: torch.cat(
            [exact(chain, index, request) for chain, request in zip(chains, requests, strict=True)]
        ),
    )


def film(chains: Sequence[Chain], preset: Preset, sampling: Sampling, predict: Predict) -> Film:
    """The clips that are drawn from what `predict` gives."""
    codec = fields.FieldCodec()
    conditions = [chain.anchor[None] for chain in chains]
    states: list[dict[str, np.ndarray] | None] = [None] * len(chains)
    count = sampling.variant.num_motion_frames
    for index in range(len(chains[0].asked)):
        requests = [
            request_of(chain, index, condition, state, preset, sampling)
            for chain, condition, state in zip(chains, conditions, states, strict=True)
        ]
        latents = predict(index, requests)
        drawn = [codec.draw(one[None], request) for one, request in zip(latents, requests, strict=True)]
        yield np.stack([clip.frames for clip in drawn])
        conditions = [clip.frames[-count:] for clip in drawn]
        if sampling.is_composed:
            states = [last_of(clip.states, count) for clip in drawn]


def request_of(
    chain: Chain,
    index: int,
    condition: np.ndarray,
    states: dict[str, np.ndarray] | None,
    preset: Preset,
    sampling: Sampling,
) -> ClipRequest:
    """The request that `film.next_request` would make for clip `index` of such a project."""
    return ClipRequest(
        digest=f"{index:064x}",
        clip_id=f"{index:026d}",
        index=index,
        variant=sampling.variant.name,
        prompt=chain.asked[index].prompt,
        negative_prompt=preset.negative_prompt,
        seed=chain.noise_seed(index),
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=preset.guidance_scale,
        lora_strength=1.0,
        num_frames=sampling.num_frames,
        overlap=Timeline(sampling.num_frames, sampling.variant.num_motion_frames, preset.fps).overlap(index),
        fps=preset.fps,
        resolution=chain.size,
        parent_digest=f"{index - 1:064x}" if index else None,
        anchor=chain.anchor,
        condition_frames=condition,
        shift=preset.shift,
        picture=chain.picture,
        tail_states=states,
        is_composed=sampling.is_composed,
    )


@torch.inference_mode()
def predicted(components: Components, requests: Sequence[ClipRequest], variant: Variant) -> Tensor:
    """The latents (B, C, f, h, w) of `requests`, which differ in pictures, prompts and seeds only, as `LocalBackend`
    makes each of them."""
    codec = components.codec
    condition = torch.cat([codec.condition(request, variant.padding) for request in requests])
    first, grid = requests[0], tuple(condition.shape[3:])
    latents = sample(
        components,
        mask_first(condition, codec.temporal_stride),
        torch.cat([fields.noise_of(request.seed, request.num_frames, grid) for request in requests]),
        [request.prompt for request in requests],
        first.num_inference_steps,
        first.shift,
    )
    if not torch.isfinite(latents).all():
        raise GenerationError(f"Clip {first.index + 1} broke down into numbers that are no picture.")
    return latents


def exact(chain: Chain, index: int, request: ClipRequest) -> Tensor:
    """Latents (1, C, f, h, w) of the true move from the last of the frames that `request` hands over."""
    first = fields.first_frame(request.condition_frames[0])
    known = known_frames(request)
    move = world.perform(
        chain.asked[index].move.led,
        chain.code(index, request.num_frames),
        world.Statistics.of(request.condition_frames[-1]),
        world.progress(request.num_frames),
        known.aspect,
    )
    latents = fields.content(first, request.num_frames)
    fields.put(latents[0], move.after(known[-1:]), fields.mean_of(first))
    fields.put_paths(latents[0], world.path_amounts(chain.asked[index].move))
    return latents


def known_frames(request: ClipRequest) -> Motion:
    """The handed-over frames' motion relative to the first of them."""
    if request.tail_states is not None:
        tail = from_arrays(request.tail_states)
        return tail.since(tail[:1])
    return fit_clip(request.condition_frames, world.grid_of(request.resolution.width, request.resolution.height))


def copied_film(chains: Sequence[Chain], sampling: Sampling, *, turned: bool) -> Film:
    """The first true clip over and over; `turned`: every second time backwards."""
    truths = [next(true_film(chain, sampling.num_frames, sampling.variant.num_motion_frames)) for chain in chains]
    clip = np.stack([chain.canvas.draw(true.states) for chain, true in zip(chains, truths, strict=True)])
    for index in range(len(chains[0].asked)):
        yield clip[:, ::-1] if turned and index % 2 else clip


def still_film(chains: Sequence[Chain], num_frames: int) -> Film:
    """The first frame, and nothing else."""
    clip = np.stack([np.broadcast_to(chain.anchor, (num_frames, *chain.anchor.shape)) for chain in chains])
    for _ in chains[0].asked:
        yield clip
