"""Drift over long films, measured against the exact truth: `python -m engine bench drift`.

Every arm makes the same films: the base model, a LoRA trained without errors (control), the preset's own LoRA (error
recycling), and films that need no model. `measure` adds to a folder what is missing there, so that a stopped run goes
on where it was; `drift_report` reads the folder.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.backends.local import set_threads
from engine.config import Preset
from engine.errors import ConfigError, InputError
from engine.evaluation import metrics, rollout
from engine.evaluation.arms import Arm, Settings, describe, find_arms
from engine.evaluation.chains import Chain, TrueClip, make_chains, true_film
from engine.evaluation.curves import SHOWN_CLIPS, save_strip, shown
from engine.evaluation.journal import Figures, Journal
from engine.evaluation.metrics import Box
from engine.evaluation.rollout import Film, Sampling
from engine.models import components as models
from engine.models.components import Components
from engine.models.lora import LoraSlot, read_lora
from engine.timeline import Timeline
from engine.training.world import FPS, NUM_FRAMES
from engine.variants import Variant

log = logging.getLogger(__name__)
BATCH = 5  # chains at once: on a CPU core a clip costs the same in any batch, and a kill loses one batch
METRICS = (
    "psnr", "ssim", "psnr_mean", "ssim_mean", "anchored_psnr", "background_psnr", "position_error", "colour_shift",
    "contrast_shift", "sharpness", "block_grid", "dynamic_degree", "motion", "consistency",
)  # fmt: skip
Work = list[tuple[Arm, list[Chain]]]


def measure(preset: Preset, settings: Settings, folder: Path) -> Iterator[dict]:
    """Make and measure the films that `folder` lacks, and yield what happens: an estimate first, then progress.

    One batch of chains after another, all arms in turn, so that what a stop leaves is paired.
    """
    check(preset, settings)
    arms, missing = find_arms(preset, settings)
    with Journal.open(folder, describe(preset, settings)) as journal:
        work = [(arm, group) for group in batches(settings) for arm in arms if not journal.holds(arm, group)]
        if not work:
            return
        set_threads(None)
        components = models.load(preset)
        yield estimate(components, preset, settings, work) | {"left_out": missing}
        began, done, of = time.monotonic(), 0, sum(len(group) for _, group in work)
        for arm, figures, group in make_all(components, preset, settings, work, journal.stills):
            journal.add(arm, group, figures)
            done += len(group)
            minutes = (time.monotonic() - began) / done * (of - done) / 60
            log.info("%s, seed %d: %d of %d films, %.0f min left", arm.name, group[0].seed, done, of, minutes)
            yield {"event": "drift_progress", "arm": arm.name, "films": done, "of": of, "minutes_left": round(minutes)}


def make_all(
    components: Components, preset: Preset, settings: Settings, work: Work, stills: Path
) -> Iterator[tuple[Arm, list[Figures], list[Chain]]]:
    """The figures of every batch of `work`, one after another."""
    slot = LoraSlot(components.transformer)
    loras = {arm.lora: read_lora(arm.lora, components.transformer) for arm, _ in work if arm.lora}
    for arm, group in work:
        slot.fuse([(loras[arm.lora], arm.strength)]) if arm.lora else slot.clear()
        views = [View.of(chain, arm.variant) for chain in group]
        for clips in film_of(arm, components, preset, group, settings.num_inference_steps):
            for view, clip in zip(views, clips, strict=True):
                view.look(clip)
        for view in filter(lambda view: shown(view.chain), views):
            save_strip(view.made, stills / f"{arm.name} {view.chain.index}.png")
            save_strip(view.true, stills / f"truth {view.chain.index}.png")
        yield arm, [view.figures for view in views], group


def check(preset: Preset, settings: Settings) -> None:
    """Raise unless the preset makes films of the pocket world and the counts are possible."""
    if preset.family != "pocket" or preset.num_frames != NUM_FRAMES:
        raise ConfigError(
            f"The preset “{preset.name}” does not make films of the pocket world, {NUM_FRAMES} frames a clip.",
            "Use the preset “pocket”.",
        )
    counts = {"clips": settings.num_clips, "chains": settings.num_chains, "seeds": settings.num_seeds}
    least = {"clips": 2, "chains": 2, "seeds": 1}
    for name, count in counts.items():
        if count < least[name]:
            raise InputError(f"--{name} must be at least {least[name]}, got {count}.")


def batches(settings: Settings) -> Iterator[list[Chain]]:
    """All chains in the order in which they are measured, `BATCH` at a time."""
    for seed in range(settings.num_seeds):
        chains = make_chains(settings.num_chains, seed, settings.num_clips, settings.size)
        for start in range(0, len(chains), BATCH):
            yield chains[start : start + BATCH]


def film_of(arm: Arm, components: Components, preset: Preset, chains: Sequence[Chain], num_steps: int) -> Film:
    """The films that `arm` makes of `chains`. Its LoRA must be what is fused."""
    num_motion_frames = arm.variant.num_motion_frames
    match arm.role:
        case "codec":
            return rollout.codec_film(components, preset, chains, num_motion_frames)
        case "perfect":
            return rollout.perfect_film(components, preset, chains, num_motion_frames)
        case "anchored":
            return rollout.anchored_film(components, preset, chains, num_motion_frames)
        case "copy clips" | "ping-pong":
            return rollout.copied_film(chains, num_motion_frames, turned=arm.role == "ping-pong")
        case "copy image":
            return rollout.still_film(chains)
    return rollout.model_film(components, preset, chains, Sampling(arm.variant, arm.padding, num_steps))


@dataclass
class View:
    """One film while it is measured: the truth so far, the frame that the next clip continues, and the figures."""

    chain: Chain
    truth: Iterator[TrueClip]
    timeline: Timeline
    subject: Box
    first: Tensor
    last: Tensor
    index: int
    figures: Figures
    made: list[Tensor]
    true: list[Tensor]

    @classmethod
    def of(cls, chain: Chain, variant: Variant) -> "View":
        anchor = as_pixels(chain.anchor[None])[0]
        timeline = Timeline(NUM_FRAMES, variant.num_motion_frames, FPS)
        figures: Figures = {name: [] for name in METRICS}
        truth = true_film(chain, variant.num_motion_frames)
        return cls(chain, truth, timeline, metrics.subject_box(anchor), anchor, anchor, 0, figures, [], [])

    def look(self, clip: np.ndarray) -> None:
        """Measure what the next clip, uint8 (F, H, W, 3), adds to the film."""
        added = as_pixels(clip[self.timeline.overlap(self.index) :])
        truth = next(self.truth)
        for name, value in compare(added, self.last, truth, self.first, self.subject).items():
            self.figures[name].append(value)
        self.last = added[-1]
        self.index += 1
        if self.index in SHOWN_CLIPS:
            self.made.append(added[-1])
            self.true.append(truth.after)


def compare(frames: Tensor, start: Tensor, truth: TrueClip, first: Tensor, subject: Box) -> dict[str, float]:
    """Every metric of one clip. frames: what it adds, (n, 3, H, W); start: the frame before; first: the anchor.

    Of the last frame, which the next clip starts from, except for means, motion and consistency.
    """
    last, after = frames[-1], truth.after
    return {
        "psnr": metrics.psnr(last[None], after[None]),
        "ssim": metrics.ssim(last[None], after[None]),
        "psnr_mean": metrics.psnr(frames, truth.frames),
        "ssim_mean": metrics.ssim(frames, truth.frames),
        "anchored_psnr": metrics.psnr(last[None], truth.anchored[None]),
        "background_psnr": metrics.background_psnr(last[None], after[None], subject),
        "position_error": metrics.position_error(last, after, subject),
        "colour_shift": metrics.colour_shift(last, after),
        "contrast_shift": metrics.contrast_shift(last, after),
        "sharpness": metrics.sharpness(last, after),
        "block_grid": metrics.block_grid(last, after),
        "dynamic_degree": metrics.dynamic_degree(last, start, after, truth.before),
        "motion": metrics.motion(frames, start),
        "consistency": metrics.consistency(frames, start, first),
    }


def estimate(components: Components, preset: Preset, settings: Settings, work: Work) -> dict:
    """What `work` will take, from one clip of one batch with the model and one without."""
    group = [dataclasses.replace(c, actions=c.actions[:1], prompts=c.prompts[:1]) for c in work[0][1]]
    cpu_s: dict[str, float] = {}
    total_s = 0.0
    for needs_model, words in ((True, "with the model"), (False, "without the model")):
        same = [(arm, chains) for arm, chains in work if arm.needs_model == needs_model]
        if not same:
            continue
        for _ in range(2):  # the first time pays for what later clips find ready
            began, cpu_began = time.monotonic(), time.process_time()
            clips = next(film_of(same[0][0], components, preset, group, settings.num_inference_steps))
            for chain, clip in zip(group, clips, strict=True):
                View.of(chain, same[0][0].variant).look(clip)
            clip_s = (time.monotonic() - began) / len(group)
            cpu_s[words] = round((time.process_time() - cpu_began) / len(group), 3)
        total_s += clip_s * settings.num_clips * sum(len(chains) for _, chains in same)
    return {
        "event": "drift_started",
        "clips": settings.num_clips * sum(len(chains) for _, chains in work),
        "cpu_s_a_clip": cpu_s,
        "minutes": round(total_s / 60, 1),
        "threads": torch.get_num_threads(),
    }


def as_pixels(frames: np.ndarray) -> Tensor:
    """uint8 (n, H, W, 3) as float (n, 3, H, W) in [−1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() * (2 / 255) - 1
