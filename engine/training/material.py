"""What a step trains on: encoded clips with their conditions, from the pocket world or from cached videos."""

import random
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.diffusion.conditioning import mask_first
from engine.pocket import clips
from engine.pocket.gates import STORY, plain_prompt
from engine.pocket.pictures import PictureSource
from engine.pocket.world import GROUP, TILE_SIDE
from engine.training.checkpoint import random_state, restore_random
from engine.training.latent_cache import LatentCache, LatentSample
from engine.training.recipe import TrainingConfig


@dataclass(frozen=True)
class TrainingBatch:
    """latents (B, C, f, h, w) of the whole clips; condition (B, 4 + C, f, h, w): mask, then latents of the condition
    frames and the padding. Either captions to encode, or prompt_embeds (B, L, D)."""

    latents: Tensor
    condition: Tensor
    captions: list[str]
    prompt_embeds: Tensor | None = None
    image_embeds: Tensor | None = None


class Material(Protocol):
    """An endless stream of batches that can be put back to where it was.

    story: latents (C, f, h, w) whose first frame a sample film starts from (None: a held-out photograph), and prompts.
    """

    def draw(self, step: int) -> TrainingBatch: ...
    def story(self, num_clips: int) -> tuple[Tensor | None, list[str]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class WorldMaterial:
    """Clips of the pocket's world, drawn as latents."""

    def __init__(self, config: TrainingConfig, source: PictureSource, seed: int) -> None:
        self.config, self.source = config, source
        self.random = random.Random(seed)

    @torch.no_grad()
    def draw(self, step: int) -> TrainingBatch:
        phase, _ = self.config.phase_at(step)
        bucket = self.random.choices(phase.buckets, [bucket.weight for bucket in phase.buckets])[0]
        rows, columns = (side * TILE_SIDE for side in bucket.grid)
        drawn = []
        for _ in range(bucket.num_pictures):
            picture = self.source.draw(rows, columns, self.random)
            drawn += [self._clip(picture, bucket.num_frames) for _ in range(bucket.prompts_per_picture)]
        latents, condition = (torch.stack([getattr(clip, name) for clip in drawn]) for name in ("latents", "condition"))
        return TrainingBatch(latents, mask_first(condition, GROUP), [clip.text for clip in drawn])

    def _clip(self, picture: Tensor, num_frames: int) -> clips.WorldClip:
        padding, frames = self.config.row.padding, motion_frames(self.config, self.random)
        if self.config.new_model and self.random.random() < self.config.world.anchored:
            padding, frames = "anchor", 1  # one base serves Film and Shot
        moves = self.random.choice(self.config.world.earlier_moves)
        return clips.draw(
            picture,
            self.random,
            num_frames=num_frames,
            num_motion_frames=frames,
            padding=padding,
            earlier_moves=max(moves, int(frames > 1)),
        )

    def story(self, num_clips: int) -> tuple[Tensor | None, list[str]]:
        return None, [plain_prompt(STORY[index % len(STORY)]) for index in range(num_clips)]

    def state_dict(self) -> dict[str, Any]:
        return {"random": random_state(self.random)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore_random(self.random, state["random"])


class VideoMaterial:
    """Cached windows of videos, every one once before any comes again, in an order that changes each time."""

    def __init__(self, config: TrainingConfig, cache: LatentCache, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.config, self.cache, self.rank, self.ranks = config, cache, rank, ranks
        self.random = random.Random(seed)  # the order is the same on every rank, each takes its share
        self.order: list[int] = []

    def draw(self, step: int) -> TrainingBatch:
        samples = [self._sample() for _ in range(self.config.videos.batch_size)]
        images = [sample.image_embeds for sample in samples]
        return TrainingBatch(
            torch.stack([sample.latents for sample in samples]).float(),
            torch.stack([sample.condition for sample in samples]).float(),
            [sample.caption for sample in samples],
            torch.stack([sample.prompt_embeds for sample in samples]),
            torch.stack(images) if images[0] is not None else None,
        )

    def story(self, num_clips: int) -> tuple[Tensor | None, list[str]]:
        captions = [self.cache.sample(index % len(self.cache)).caption for index in range(num_clips)]
        return self.cache.sample(0).latents, captions

    def state_dict(self) -> dict[str, Any]:
        return {"random": random_state(self.random), "order": list(self.order)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore_random(self.random, state["random"])
        self.order = list(state["order"])

    def _sample(self) -> LatentSample:
        if len(self.order) < self.ranks:
            self.order = list(range(len(self.cache)))
            self.order += [self.random.randrange(len(self.cache)) for _ in range(-len(self.order) % self.ranks)]
            self.random.shuffle(self.order)
        taken, self.order = self.order[: self.ranks], self.order[self.ranks :]
        frames, anchor = motion_frames(self.config, self.random), self.random.random()
        return self.cache.sample(taken[self.rank], num_condition_frames=frames, anchor=anchor)


def motion_frames(config: TrainingConfig, rng: random.Random) -> int:
    """How many frames condition the next batch: the variant's, or one, as in the first clip of a film."""
    frames = config.row.num_motion_frames
    return frames if frames > 1 and rng.random() < config.motion_frames_probability else 1
