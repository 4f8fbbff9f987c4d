"""Training of the pocket model: one loop, driven by a YAML file, that yields what it did.

The transformer predicts clean latents; half of the noise levels are exactly 1, where only the prompt tells what to do.
A run resumes exactly: weights, averaged weights, optimizer, random states and step are in one checkpoint.
"""

import copy
import json
import logging
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from engine.config import read_yaml, validated
from engine.diffusion.flow import add_noise, shift_sigma
from engine.errors import TrainingError
from engine.models import pocket, pocket_codec
from engine.models.pocket import PocketComponents, PocketShape, PocketText
from engine.training import world
from engine.training.checkpoint import load_checkpoint, random_state, restore_random, save_checkpoint
from engine.training.pictures import Batch, PictureSource, condition_pixels, make_batch
from engine.training.gates import report, score
from engine.training.publish import publish

log = logging.getLogger(__name__)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bucket(Settings):
    """One kind of batch: `num_pictures` × `prompts_per_picture` clips of `size` (height, width)."""

    size: tuple[int, int]
    num_pictures: int = Field(ge=1)
    prompts_per_picture: int = Field(ge=1)
    weight: float = Field(1.0, gt=0)


class Phase(Settings):
    """A stretch of training with its batches; the learning rate goes in a straight line between its two values."""

    steps: int = Field(ge=1)
    learning_rate: tuple[float, float]
    buckets: tuple[Bucket, ...] = Field(min_length=1)


class CodecSettings(Settings):
    num_spatial: int = Field(39, ge=1, le=192)
    num_motion: int = Field(6, ge=1)
    num_pictures: int = Field(800, ge=8)


class TransformerSettings(Settings):
    num_heads: int = Field(6, ge=6)
    num_layers: int = Field(4, ge=1)
    ffn_dim: int = Field(640, ge=1)
    text_dim: int = Field(96, ge=8)
    text_tokens: int = Field(20, ge=4)


class LoraSettings(Settings):
    """Train low-rank changes of a finished model instead of a new model."""

    base: Path
    rank: int = Field(32, ge=1)


class TrainingConfig(Settings):
    """Everything a run depends on. Paths are relative to the working directory."""

    output: Path
    publish_to: Path | None = None
    seed: int = 0
    num_scenes: int = Field(300, ge=1)
    photo_share: float = Field(0.6, ge=0, le=1)
    codec: CodecSettings = CodecSettings()
    transformer: TransformerSettings = TransformerSettings()
    lora: LoraSettings | None = None
    phases: tuple[Phase, ...] = Field(min_length=1)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    ema: float = Field(0.998, ge=0, lt=1)
    padding: Literal["zeros", "anchor"] = "zeros"
    five_motion_frames: float = Field(0.5, ge=0, le=1)
    pure_noise: float = Field(0.5, ge=0, le=1)
    shift: float = Field(5.0, gt=0)
    last_frame_weight: float = Field(2.0, gt=0)
    evaluate_every: int = Field(250, ge=1)
    evaluate_size: tuple[int, int] = (64, 96)
    checkpoint_every_s: float = Field(120.0, gt=0)

    @property
    def num_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[Phase, float]:
        """The phase of `step` and the share of it that is done."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step / phase.steps
            step -= phase.steps
        return self.phases[-1], 1.0

    def learning_rate(self, step: int) -> float:
        phase, done = self.phase_at(step)
        start, end = phase.learning_rate
        return (start + done * (end - start)) * min(1.0, (step + 1) / max(self.warmup_steps, 1))


@dataclass
class TrainingState:
    """What a step changes: the trained modules, their running average, the optimizer and the random states."""

    components: PocketComponents
    average: PocketComponents
    optimizer: torch.optim.Optimizer
    pictures: random.Random
    noise: torch.Generator
    step: int = 0
    best: float = float("-inf")

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.components.transformer, "text_encoder": self.components.encode_text.encoder}

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.average.transformer, "text_encoder": self.average.encode_text.encoder}


def read_config(path: Path) -> TrainingConfig:
    """The recipe in `path`; what is wrong with it is said in one sentence (`ConfigError`)."""
    return validated(TrainingConfig, read_yaml(path), f"recipe {path.name}")


def train(recipe: Path, *, until: int | None = None) -> Iterator[dict[str, Any]]:
    """Run the training file `recipe`, or go on where it stopped, and yield a record per event.

    Kinds: "step", "gates", "best", "checkpoint", "published". Stops after `until` steps, after the last phase, on
    SIGTERM, or when closed; every way leaves a checkpoint.
    """
    config = read_config(recipe)
    checkpoint = config.output / "checkpoint.pt"
    source = PictureSource(num_scenes=config.num_scenes, photo_share=config.photo_share, seed=config.seed)
    state = start(config, source)
    if checkpoint.exists():
        restore(state, load_checkpoint(checkpoint))
    config.output.mkdir(parents=True, exist_ok=True)
    end = min(config.num_steps, until if until is not None else config.num_steps)
    with _termination() as stopping, (config.output / "log.jsonl").open("a", encoding="utf-8") as journal:
        saved_at, began, clips = time.monotonic(), time.monotonic(), 0
        try:
            while state.step < end and not stopping.is_set():
                figures = train_step(state, config, source)
                clips += figures.pop("clips")
                if state.step % 20 == 0:
                    rate = clips / (time.monotonic() - began)
                    yield _record(journal, "step", step=state.step, of=config.num_steps, clips_per_s=rate, **figures)
                    began, clips = time.monotonic(), 0
                if state.step % config.evaluate_every == 0 or state.step == config.num_steps:
                    yield from _evaluate(state, config, journal)
                if time.monotonic() - saved_at > config.checkpoint_every_s:
                    save_checkpoint(checkpoint, snapshot(state))
                    saved_at = time.monotonic()
        finally:
            save_checkpoint(checkpoint, snapshot(state))
        yield _record(journal, "checkpoint", step=state.step)
        if config.publish_to and state.step == config.num_steps:
            yield _record(journal, "published", **_publish(config))


def start(config: TrainingConfig, source: PictureSource) -> TrainingState:
    """A fresh state: a new model at its analytic starting point, or a finished one with an untrained LoRA."""
    torch.manual_seed(config.seed)
    components = _with_lora(config.lora) if config.lora else _new_model(config, source)
    transformer, text = components.transformer.train(), components.encode_text
    average = PocketComponents(
        copy.deepcopy(transformer).eval().requires_grad_(False),
        components.codec,
        PocketText(text.tokenizer, copy.deepcopy(text.encoder).eval().requires_grad_(False), text.num_tokens),
    )
    if not config.lora:
        pocket.hold_constant(transformer, components.codec)
    optimizer = torch.optim.AdamW(
        [p for p in (*transformer.parameters(), *text.encoder.parameters()) if p.requires_grad],
        lr=config.learning_rate(0),
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )
    noise = torch.Generator().manual_seed(config.seed)
    return TrainingState(components, average, optimizer, random.Random(config.seed), noise)


def _new_model(config: TrainingConfig, source: PictureSource) -> PocketComponents:
    shape = PocketShape(**config.transformer.model_dump())
    codec = fit_codec(source, random.Random(config.seed), config.codec)
    text = pocket.build_text(known_words(), shape)
    return PocketComponents(pocket.build_transformer(codec, shape), codec, text)


def _with_lora(settings: LoraSettings) -> PocketComponents:
    components = pocket.load_components(settings.base)
    components.transformer.requires_grad_(False)
    components.encode_text.encoder.requires_grad_(False)
    pocket.add_lora(components.transformer, settings.rank)
    return components


def train_step(
    state: TrainingState, config: TrainingConfig, source: PictureSource, alter: Callable[[Tensor], Tensor] | None = None
) -> dict[str, float]:
    """One update. `alter`, if given, maps condition latents (B, 4 + C, f, h, w): the place for injected errors."""
    batch = draw_batch(config, source, state)
    with torch.no_grad():
        latents = state.components.codec.encode(batch.clips)
        condition = pocket.condition_latents(state.components.codec, condition_pixels(batch, config.padding))
    if alter:
        condition = alter(condition)
    sigma = draw_sigma(len(latents), config, state.noise)
    noise = torch.randn(latents.shape, generator=state.noise)
    noisy = add_noise(latents, noise, sigma)
    embeds = state.components.encode_text(batch.captions)
    seen = torch.cat([noisy, condition], dim=1)
    predicted = state.components.transformer(seen, 1000 * sigma.flatten(), embeds, return_dict=False)[0]
    weights = loss_weights(state.components.codec, latents.shape[2], config.last_frame_weight)
    loss = (weights * (predicted - latents).square()).sum(1).mean()
    rate = config.learning_rate(state.step)
    norm = _update(state, loss, rate, config)
    return {"loss": loss.item(), "gradient_norm": norm, "learning_rate": rate, "clips": len(latents)}


def draw_batch(config: TrainingConfig, source: PictureSource, state: TrainingState) -> Batch:
    phase, _ = config.phase_at(state.step)
    bucket = state.pictures.choices(phase.buckets, [bucket.weight for bucket in phase.buckets])[0]
    return make_batch(
        source,
        state.pictures,
        size=bucket.size,
        num_pictures=bucket.num_pictures,
        prompts_per_picture=bucket.prompts_per_picture,
        num_motion_frames=5 if state.pictures.random() < config.five_motion_frames else 1,
    )


def draw_sigma(count: int, config: TrainingConfig, generator: torch.Generator) -> Tensor:
    """Noise levels (count, 1, 1, 1, 1): exactly 1 with probability `pure_noise`, else shifted towards 1."""
    sigma = shift_sigma(torch.rand(count, generator=generator), config.shift)
    pure = torch.rand(count, generator=generator) < config.pure_noise
    return torch.where(pure, torch.ones(count), sigma).view(-1, 1, 1, 1, 1)


def loss_weights(codec: pocket_codec.PocketCodec, num_latent_frames: int, last_frame_weight: float) -> Tensor:
    """Weights (1, C, f, 1, 1) that turn squared latent errors into squared pixel errors, plus a small floor.

    A motion coefficient is spread over four frames, a spatial one is repeated in each of them. Channels sum to 1.
    """
    variance = codec.std.square()
    variance = torch.cat([variance[: codec.num_spatial], variance[codec.num_spatial :] / pocket_codec.GROUP])
    channels = variance / variance.sum() + 0.1 / len(variance)
    channels = torch.cat([channels, channels.new_full((pocket_codec.COORDINATES,), 1e-3)])
    frames = torch.ones(num_latent_frames)
    frames[-1] = last_frame_weight
    return (channels / channels.sum()).view(1, -1, 1, 1, 1) * (frames / frames.mean()).view(1, 1, -1, 1, 1)


def fit_codec(source: PictureSource, rng: random.Random, settings: CodecSettings) -> pocket_codec.PocketCodec:
    """Fit the codec to crops of the training pictures, half of them after a move, and to groups of moving frames."""
    plain = torch.stack([source.draw(64, 64, rng) for _ in range(settings.num_pictures)])
    moved = torch.cat([world.perform(picture[None], rng.choice(world.ACTIONS)) for picture in plain])
    changes = []
    for picture, after in zip(plain[::3, None], moved[::3, None], strict=True):
        groups = world.transition(picture, after)[:, :, 1:].unflatten(2, (-1, pocket_codec.GROUP))
        group = groups[:, :, rng.randrange(1, groups.shape[2])]
        changes.append(group - group.mean(2, keepdim=True))
    return pocket_codec.fit(
        torch.cat([plain, moved]), torch.cat(changes), num_spatial=settings.num_spatial, num_motion=settings.num_motion
    )


def known_words() -> list[str]:
    """Every word that a training caption can contain, lower case."""
    texts = [phrase for action in world.ACTIONS for phrase in (*action.phrases, *action.keywords)]
    texts += [*world.SUBJECTS, *world.OPENINGS, *world.ENDINGS]
    return sorted({word for text in texts for word in world.words_of(text.replace("{subject}", ""))})


def snapshot(state: TrainingState) -> dict[str, Any]:
    """Everything a resumed run needs, as tensors and plain values."""
    return {
        "step": state.step,
        "best": state.best,
        "modules": {name: module.state_dict() for name, module in state.modules().items()},
        "average": {name: module.state_dict() for name, module in state.averaged_modules().items()},
        "codec": state.components.codec.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "pictures": random_state(state.pictures),
        "noise": state.noise.get_state(),
    }


def restore(state: TrainingState, saved: dict[str, Any]) -> None:
    """Continue from `saved`, a `snapshot`."""
    try:
        for name, module in state.modules().items():
            module.load_state_dict(saved["modules"][name])
        for name, module in state.averaged_modules().items():
            module.load_state_dict(saved["average"][name])
        state.components.codec.load_state_dict(saved["codec"])
    except (RuntimeError, KeyError) as err:
        raise TrainingError(
            "The checkpoint belongs to a model of another shape.",
            "Use another output folder, or the settings it was made with.",
        ) from err
    state.optimizer.load_state_dict(saved["optimizer"])
    restore_random(state.pictures, saved["pictures"])
    state.noise.set_state(saved["noise"])
    state.step, state.best = saved["step"], saved["best"]


def _update(state: TrainingState, loss: Tensor, rate: float, config: TrainingConfig) -> float:
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, config.gradient_clip).item()
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    keep = min(config.ema, state.step / (state.step + 10))
    with torch.no_grad():
        for name, module in state.averaged_modules().items():
            for average, parameter in zip(module.parameters(), state.modules()[name].parameters(), strict=True):
                average.lerp_(parameter, 1 - keep)
    return norm


def _evaluate(state: TrainingState, config: TrainingConfig, journal) -> Iterator[dict[str, Any]]:
    measured = report(
        state.average,
        size=config.evaluate_size,
        num_toys=0,
        linear=False,
        padding=config.padding,
        later=bool(config.lora),
    )
    figures = {name: round(at.generated, 2) for name, at in measured.photos.items()}
    yield _record(journal, "gates", step=state.step, score=score(measured), passed=measured.passed, figures=figures)
    if score(measured) > state.best:
        state.best = score(measured)
        if config.lora:
            pocket.save_lora(state.average.transformer, config.output / "best.safetensors")
        else:
            pocket.save_components(state.average, config.output / "best")
        yield _record(journal, "best", step=state.step)


def _publish(config: TrainingConfig) -> dict[str, Any]:
    if config.lora:
        config.publish_to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config.output / "best.safetensors", config.publish_to)
        return {"replaced": True}
    measured, replaced = publish(config.output / "best", config.publish_to)
    return {"replaced": replaced, "passed": measured.passed, "score": score(measured)}


def _record(journal, kind: str, **values: Any) -> dict[str, Any]:
    rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in values.items()}
    entry = {"kind": kind, **rounded}
    journal.write(json.dumps(entry) + "\n")
    journal.flush()
    return entry


@contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that a step is finished and the checkpoint written before the process ends."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGTERM, before)
