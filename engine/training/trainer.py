"""One training loop for every variant, size and kind of data, driven by a recipe. It yields what it did.

A LoRA is trained with recycled errors or, as a control, without; a new pocket model is trained whole. A run resumes
exactly: weights, running average, optimizer, banks, random states, position in the data and step are in one checkpoint.
"""

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from engine.diffusion.flow import shift_sigma, to_latents, velocity_from_latents
from engine.errors import TrainingError
from engine.models.components import Components, PictureCodec
from engine.pocket.clips import deviated
from engine.pocket.codec import FieldCodec
from engine.pocket.gates import chain_psnr, held_out_photos, report, score
from engine.pocket.layout import code_of, tied, with_code
from engine.pocket.pictures import PictureSource
from engine.pocket.publish import publish_lora, publish_model
from engine.training import models, samples
from engine.training.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from engine.training.material import Material, TrainingBatch, VideoMaterial, WorldMaterial
from engine.training.recipe import TrainingConfig, read_recipe
from engine.training.recycler import Recycler
from engine.training.recycling import Injected, inject, timestep_weight

log = logging.getLogger(__name__)
LORA_FILE = "lora.safetensors"
BEST_LORA = "best.safetensors"


@dataclass
class TrainingState:
    """What a step changes: the trained modules, their running average, optimizer, data, banks and random states."""

    components: Components
    trained: dict[str, nn.Module]  # by name; wrapped by accelerate
    average: Components  # the same object as components when there is no average
    optimizer: torch.optim.Optimizer
    material: Material
    recycler: Recycler | None
    noise: torch.Generator
    identity: dict[str, Any]
    step: int = 0
    best: float = float("-inf")


def train(recipe: Path, *, changes: Sequence[str] = (), until: int | None = None) -> Iterator[dict[str, Any]]:
    """Run `recipe` with `changes` (see `read_recipe`), or go on where it stopped, and yield a record per event.

    Kinds: "latents", "step", "gates", "best", "sample", "checkpoint", "published". Stops after `until` steps, after the
    last phase, on SIGTERM, or when closed; every way leaves a checkpoint. A loss that is not a number raises
    `TrainingError` and leaves the last good one.
    """
    config = read_recipe(recipe, changes)
    with _accelerator(config) as accelerator:
        for record in _run(config, accelerator, until if until is not None else config.num_steps):
            if accelerator.is_main_process:
                yield record


def _run(config: TrainingConfig, accelerator: Accelerator, until: int) -> Iterator[dict[str, Any]]:
    config.output.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoint_path(config.output, accelerator.process_index)
    with _journal(config.output, accelerator.is_main_process) as journal:
        state = yield from start(config, accelerator, journal)
        if checkpoint.exists():
            restore(state, load_checkpoint(checkpoint), accelerator)
        yield from _steps(state, config, accelerator, journal, checkpoint, min(config.num_steps, until))
        yield journal.write("checkpoint", step=state.step)
        if config.publish_to and state.step == config.num_steps and accelerator.is_main_process:
            yield journal.write("published", **_publish(config))


def _steps(
    state: TrainingState,
    config: TrainingConfig,
    accelerator: Accelerator,
    journal: "Journal",
    checkpoint: Path,
    end: int,
) -> Iterator[dict[str, Any]]:
    saved_at = began = time.monotonic()
    clips, whole = 0, True  # whole: no step is half done
    with _termination() as stopping:
        try:
            while state.step < end and not stopping.is_set():
                whole = False
                figures = train_step(state, config, accelerator)
                whole = True
                clips += figures.pop("clips")
                if state.step % config.log_every == 0 or state.step == end:
                    rate = clips / (time.monotonic() - began)
                    yield journal.write("step", step=state.step, of=config.num_steps, clips_per_s=rate, **figures)
                    began, clips = time.monotonic(), 0
                if state.step % config.evaluate_every == 0 or state.step == config.num_steps:
                    yield from _evaluate(state, config, accelerator, journal)
                if time.monotonic() - saved_at > config.checkpoint_every_s:
                    save_checkpoint(checkpoint, snapshot(state, accelerator))
                    saved_at = time.monotonic()
        finally:
            if whole:
                save_checkpoint(checkpoint, snapshot(state, accelerator))


def start(
    config: TrainingConfig, accelerator: Accelerator, journal: "Journal"
) -> Iterator[dict[str, Any]]:  # returns a TrainingState
    """A fresh state. Yields progress while videos are encoded."""
    torch.manual_seed(config.seed)
    seed = config.seed + 1000 * accelerator.process_index  # every rank draws its own data and noise
    source = None
    if config.world:
        source = PictureSource(
            num_scenes=config.world.num_scenes, photo_share=config.world.photo_share, seed=config.seed
        )
    loaded = models.load(config, accelerator.device)
    if config.videos:
        cache = yield from models.encode_videos(config, loaded, accelerator, journal.write)
        ranks = {"rank": accelerator.process_index, "ranks": accelerator.num_processes}
        models.move_encoders(loaded.components, torch.device("cpu"))  # what a step does not use leaves the GPU
        material: Material = VideoMaterial(config, cache, seed=config.seed, **ranks)
    else:
        material = WorldMaterial(config, source, seed)
    average = models.averaged(loaded) if config.ema else loaded.components
    optimizer = torch.optim.AdamW(
        [p for module in loaded.trained.values() for p in module.parameters() if p.requires_grad],
        lr=config.learning_rate(0),
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    names = list(loaded.trained)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:  # it asks for a data loader, or for this
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = models.batch_size(
            config
        )
    *modules, optimizer = accelerator.prepare(*loaded.trained.values(), optimizer)
    return TrainingState(
        loaded.components,
        dict(zip(names, modules, strict=True)),
        average,
        optimizer,
        material,
        _recycler(config, accelerator, loaded.components, seed),
        torch.Generator().manual_seed(seed),
        loaded.identity,
    )


def train_step(state: TrainingState, config: TrainingConfig, accelerator: Accelerator) -> dict[str, float]:
    """One update. Its figures: loss, gradient_norm, learning_rate, fill of the banks, clips."""
    rate, norm, losses, clips = config.learning_rate(state.step), 0.0, [], 0
    modules = list(state.trained.values())
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    for _ in range(config.gradient_accumulation):
        with accelerator.accumulate(*modules):
            batch = _on_device(state.material.draw(state.step), accelerator.device)
            loss = _loss(state, config, accelerator, batch)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                trainable = [p for module in modules for p in module.parameters() if p.requires_grad]
                norm = float(accelerator.clip_grad_norm_(trainable, config.gradient_clip) or 0.0)
                _check_finite(loss, norm, state.step)
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        clips += len(batch.latents)
    state.step += 1
    if config.ema:
        _average(state, config, accelerator)
    figures = {"loss": sum(losses) / len(losses), "gradient_norm": norm, "learning_rate": rate, "clips": clips}
    return figures | ({"bank_fill": state.recycler.fill} if state.recycler else {})


def _loss(state: TrainingState, config: TrainingConfig, accelerator: Accelerator, batch: TrainingBatch) -> Tensor:
    """The objective of Eq. 6 on one batch; the errors of the prediction go to the banks."""
    components, latents = state.components, batch.latents
    sigma = draw_sigma(len(latents), config, state.noise).to(latents)
    noise = torch.randn(latents.shape, generator=state.noise).to(latents)
    if isinstance(components.codec, FieldCodec):
        if config.videos:  # footage has no seed: any code may have led to it
            latents = with_code(latents, code_of(noise))
        noise = tied(noise, code_of(latents))
    if state.recycler:
        injected, flags = state.recycler.inject(latents, noise, batch.condition, sigma)
    else:
        injected, flags = inject(latents, noise, batch.condition, sigma), None
    predicted = _predict(state, injected, sigma, batch)
    velocity = predicted
    if components.prediction == "sample":
        target = to_latents(injected.noisy_latents, injected.velocity, sigma)
        weights = models.latent_weights(latents.shape[2], config.last_frame_weight).to(latents)
        loss = (weights * (predicted - target).square()).sum(1).mean()
        read = torch.where(weights > 0, predicted, target)  # what nobody reads is no error to recycle
        velocity = velocity_from_latents(injected.noisy_latents, read, sigma)
    else:
        error = (predicted - injected.velocity).square().flatten(1).mean(1)
        loss = (timestep_weight(sigma.flatten(), config.shift) * error).mean()
    if state.recycler:
        with torch.no_grad():
            errors = state.recycler.errors_of(injected, velocity.detach(), sigma)
            state.recycler.keep(errors, sigma, flags, state.step, accelerator.gather)
    return loss


def _predict(state: TrainingState, injected: Injected, sigma: Tensor, batch: TrainingBatch) -> Tensor:
    """What the transformer returns, float32."""
    embeds = batch.prompt_embeds
    if embeds is None:
        with torch.set_grad_enabled("text_encoder" in state.trained):
            embeds = state.components.encode_text(batch.captions, 0)
    seen = torch.cat([injected.noisy_latents, injected.condition], dim=1)
    dtype = state.components.dtype
    extra = {} if batch.image_embeds is None else {"encoder_hidden_states_image": batch.image_embeds.to(dtype)}
    return state.trained["transformer"](
        seen.to(dtype), 1000 * sigma.flatten(), embeds.to(dtype), return_dict=False, **extra
    )[0].float()


def draw_sigma(count: int, config: TrainingConfig, generator: torch.Generator) -> Tensor:
    """Noise levels (count, 1, 1, 1, 1) of training timesteps, shifted towards 1; exactly 1 with `pure_noise`."""
    timestep = torch.randint(1000, (count,), generator=generator)
    sigma = shift_sigma(1 - timestep / 1000, config.shift)
    pure = torch.rand(count, generator=generator) < config.pure_noise
    return torch.where(pure, torch.ones(count), sigma).view(-1, 1, 1, 1, 1)


def snapshot(state: TrainingState, accelerator: Accelerator) -> dict[str, Any]:
    """Everything a resumed run needs, as tensors and plain values. Frozen weights are not repeated."""
    saved = {
        "identity": state.identity,
        "step": state.step,
        "best": state.best,
        "material": state.material.state_dict(),
        "noise": state.noise.get_state(),
        "recycler": state.recycler.state_dict() if state.recycler else None,
        "average": models.trainable(models.modules_of(state.average, state.trained))
        if state.average is not state.components
        else {},
    }
    if sharded(accelerator):
        accelerator.save_state(str(checkpoint_path(Path(accelerator.project_dir)).with_suffix("")))
        return saved
    unwrapped = {name: accelerator.unwrap_model(module) for name, module in state.trained.items()}
    return saved | {"modules": models.trainable(unwrapped), "optimizer": state.optimizer.state_dict()}


def restore(state: TrainingState, saved: dict[str, Any], accelerator: Accelerator) -> None:
    """Continue from `saved`, a `snapshot`. One of another variant, rank or model raises `TrainingError`."""
    made_with = saved.get("identity", {})
    for name, mine in state.identity.items():
        if made_with.get(name) != mine:
            raise TrainingError(
                f"The checkpoint was made with {name} {made_with.get(name)}; the recipe says {mine}.",
                "Use another output folder, or the settings it was made with.",
            )
    try:
        if sharded(accelerator):
            accelerator.load_state(str(checkpoint_path(Path(accelerator.project_dir)).with_suffix("")))
        else:
            unwrapped = {name: accelerator.unwrap_model(module) for name, module in state.trained.items()}
            models.load_trainable(unwrapped, saved["modules"])
            state.optimizer.load_state_dict(saved["optimizer"])
        if saved["average"]:
            models.load_trainable(models.modules_of(state.average, state.trained), saved["average"])
    except (RuntimeError, KeyError, ValueError) as err:
        raise TrainingError(
            "The checkpoint belongs to a model of another shape.",
            "Use another output folder, or the settings it was made with.",
        ) from err
    state.material.load_state_dict(saved["material"])
    state.noise.set_state(saved["noise"])
    if state.recycler:
        state.recycler.load_state_dict(saved["recycler"])
    state.step, state.best = saved["step"], saved["best"]


def sharded(accelerator: Accelerator) -> bool:
    """Whether weights or optimizer are spread over ranks, so that accelerate has to save them."""
    return accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)


def _recycler(config: TrainingConfig, accelerator: Accelerator, components: Components, seed: int) -> Recycler | None:
    if config.recycling is None:
        return None
    is_field = isinstance(components.codec, FieldCodec)
    return Recycler(
        config.recycling,
        shift=config.shift,
        seed=seed + 1,
        folder=config.output / f"banks-{accelerator.process_index}",
        num_ranks=accelerator.num_processes,
        deviate=partial(deviated, padding=config.row.padding) if is_field else None,
    )


def _on_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    moved = {
        name: value.to(device)
        for name in ("latents", "condition", "prompt_embeds", "image_embeds")
        if (value := getattr(batch, name)) is not None
    }
    return replace(batch, **moved)


def _check_finite(loss: Tensor, norm: float, step: int) -> None:
    if not (torch.isfinite(loss) and norm == norm and abs(norm) != float("inf")):
        raise TrainingError(
            f"The loss is not a number at step {step + 1}.",
            "The last good checkpoint is kept. Lower the learning rate, then start again to go on from there.",
        )


@torch.no_grad()
def _average(state: TrainingState, config: TrainingConfig, accelerator: Accelerator) -> None:
    keep = min(config.ema, state.step / (state.step + 10))
    averages = models.modules_of(state.average, state.trained)
    for name, module in state.trained.items():
        pairs = zip(averages[name].parameters(), accelerator.unwrap_model(module).parameters(), strict=True)
        for average, parameter in pairs:
            if parameter.requires_grad:
                average.lerp_(parameter, 1 - keep)


def _evaluate(
    state: TrainingState, config: TrainingConfig, accelerator: Accelerator, journal: "Journal"
) -> Iterator[dict[str, Any]]:
    if not accelerator.is_main_process:
        return
    with models.evaluating(state.average.transformer):
        if config.new_model:
            measured = report(state.average, size=config.evaluate_size)
            figures = {name: round(at.generated, 2) for name, at in measured.moves.items()}
            reached, extra = score(measured), {"passed": measured.passed, "figures": figures}
        elif config.world:
            values = chain_psnr(state.average, config.row, size=config.evaluate_size, num_clips=config.evaluate_clips)
            reached, extra = sum(values) / len(values), {"figures": [round(value, 2) for value in values]}
        else:
            reached, extra = float(state.step), {}  # without a truth the last weights count as the best
        if config.samples and (state.step % config.samples.every == 0 or state.step == config.num_steps):
            yield journal.write("sample", step=state.step, file=str(_sample(state, config)))
    if extra:
        yield journal.write("gates", step=state.step, score=reached, **extra)
    if config.lora:
        models.save_lora(state.average.transformer, config.output / LORA_FILE, config)
    if reached > state.best:
        state.best = reached
        if config.lora:
            models.save_lora(state.average.transformer, config.output / BEST_LORA, config)
        else:
            models.save_model(state.average, config.output / "best")
        yield journal.write("best", step=state.step)


def _sample(state: TrainingState, config: TrainingConfig) -> Path:
    """A film with the weights of this step, longer at the end, as a contact sheet."""
    last = state.step == config.num_steps
    num_clips = max(config.samples.clips, config.samples.long_clips if last else 0)
    latents, prompts = state.material.story(num_clips)
    models.move_encoders(state.components, state.components.device)
    if latents is None or isinstance(state.components.codec, PictureCodec):  # whose latents hold no picture
        size = config.videos.size if config.videos else config.evaluate_size
        anchor = held_out_photos(size)[0]
    else:
        anchor = samples.first_frame(state.components, latents)
    clips = samples.make_film(state.average, config, anchor, prompts)
    if config.videos:
        models.move_encoders(state.components, torch.device("cpu"))
    return samples.write_sheet(anchor, clips, config.output / "samples" / f"step-{state.step:06d}.png")


def _publish(config: TrainingConfig) -> dict[str, Any]:
    if config.lora:
        publish_lora(config.output / BEST_LORA, config.publish_to)
        return {"replaced": True}
    measured, replaced = publish_model(config.output / "best", config.publish_to)
    return {"replaced": replaced, "passed": measured.passed, "score": score(measured)}


class Journal:
    """Records of a run: a JSON line each in log.jsonl, and their numbers as TensorBoard events."""

    def __init__(self, lines: TextIO | None, board: Any) -> None:
        self.lines, self.board = lines, board

    def write(self, kind: str, **values: Any) -> dict[str, Any]:
        rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in values.items()}
        entry = {"kind": kind, **rounded}
        if self.lines is None:
            return entry
        self.lines.write(json.dumps(entry) + "\n")
        self.lines.flush()
        for key, value in values.items():
            if isinstance(value, float) and "step" in values:
                self.board.add_scalar(f"{kind}/{key}", value, values["step"])
        return entry


@contextmanager
def _journal(output: Path, is_main: bool) -> Iterator[Journal]:
    """Only the main process writes."""
    if not is_main:
        yield Journal(None, None)
        return
    from tensorboardX import SummaryWriter

    with (output / "log.jsonl").open("a", encoding="utf-8") as lines, SummaryWriter(str(output / "board")) as board:
        yield Journal(lines, board)


@contextmanager
def _accelerator(config: TrainingConfig) -> Iterator[Accelerator]:
    """An Accelerator for this run. Its state is one per process: it is dropped at the end, so that another run in the
    same process may choose another precision."""
    accelerator = Accelerator(
        mixed_precision=config.precision if config.precision != "no" else None,  # None: as the launcher says
        gradient_accumulation_steps=config.gradient_accumulation,
        project_dir=str(config.output),
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],  # ranks wait while one encodes videos
    )
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        if accelerator.distributed_type == DistributedType.NO:
            AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, so that a step is finished and the checkpoint written before the end.

    Ctrl-C then ends the block with KeyboardInterrupt. A second one does not wait.
    """
    stopping, interrupted = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def interrupt(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set(), stopping.set()

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: stopping.set())}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # the studio's worker leaves Ctrl-C to its parent
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupted.is_set():
        raise KeyboardInterrupt
