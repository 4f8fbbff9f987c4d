"""The drift benchmark: the same long films made in every way there is, each measured against its exact truth.

Arms are ways to make the films (`arms`): with the base model, with the LoRAs that were trained without and with errors,
composed to the picture, with exact fields, and films that need no model. `measure` adds to a folder what is missing
there, so that a stopped run goes on where it was; `drift_report` reads the folder.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.backends.local import set_threads
from engine.config import Preset
from engine.errors import ConfigError, InputError
from engine.evaluation import metrics, rollout
from engine.evaluation.arms import Arm, Settings, describe, find_arms
from engine.evaluation.chains import Chain, TrueClip, in_view_all_along, make_chains, true_film
from engine.evaluation.curves import SHOWN_CLIPS, save_strip, shown
from engine.evaluation.journal import Figures, Journal
from engine.evaluation.rollout import Film, Sampling
from engine.models import components as models
from engine.models.components import Components
from engine.models.lora import LoraSlot, read_lora
from engine.pocket import world
from engine.timeline import Timeline

log = logging.getLogger(__name__)
BATCH = 5  # chains at once: on a CPU core a clip costs the same in any batch, and a kill loses one batch
EVERY = world.GROUP  # of so many frames of a clip one is compared with the truth
LEAST_FRAMES = 13  # five of them are handed over
METRICS = (
    "psnr", "ssim", "psnr_mean", "camera_error", "colour_shift", "contrast_shift", "sharpness", "dynamic_degree",
    "motion", "consistency",
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
        sampling = sampling_of(arm, settings)
        views = [View.of(chain, sampling) for chain in group]
        for clips in film_of(arm, components, preset, group, sampling):
            for view, clip in zip(views, clips, strict=True):
                view.look(clip)
        for view in filter(lambda view: shown(view.chain), views):
            save_strip(view.made, stills / f"{arm.name} {view.chain.index}.png")
            save_strip(view.true, stills / f"truth {view.chain.index}.png")
        yield arm, [view.figures for view in views], group


def check(preset: Preset, settings: Settings) -> None:
    """Raise unless the preset makes films of the pocket's world and the counts are possible."""
    check_world(preset, settings.num_frames)
    counts = {"clips": settings.num_clips, "chains": settings.num_chains, "seeds": settings.num_seeds}
    least = {"clips": 2, "chains": 2, "seeds": 1}
    for name, count in counts.items():
        if count < least[name]:
            raise InputError(f"--{name} must be at least {least[name]}, got {count}.")


def check_world(preset: Preset, num_frames: int) -> None:
    """Raise unless the preset makes films of the pocket's world, in clips of so many frames."""
    if preset.family != "pocket":
        raise ConfigError(
            f"The preset “{preset.name}” does not make films of the pocket's world: they have no truth.",
            "Use the preset “pocket”.",
        )
    if num_frames % world.GROUP != 1 or num_frames < LEAST_FRAMES:
        raise InputError(f"--frames must be 4 n + 1 and at least {LEAST_FRAMES}, got {num_frames}.")


def batches(settings: Settings) -> Iterator[list[Chain]]:
    """All chains in the order in which they are measured, `BATCH` at a time."""
    for seed in range(settings.num_seeds):
        chains = make_chains(settings.num_chains, seed, settings.num_clips, settings.size)
        for start in range(0, len(chains), BATCH):
            yield chains[start : start + BATCH]


def sampling_of(arm: Arm, settings: Settings) -> Sampling:
    return Sampling(arm.variant, settings.num_frames, settings.num_inference_steps, arm.is_composed)


def film_of(arm: Arm, components: Components, preset: Preset, chains: Sequence[Chain], sampling: Sampling) -> Film:
    """The films that `arm` makes of `chains`. Its LoRA must be what is fused."""
    match arm.role:
        case "exact" | "perfect":
            return rollout.exact_film(preset, chains, sampling)
        case "copy clips" | "ping-pong":
            return rollout.copied_film(chains, sampling, turned=arm.role == "ping-pong")
        case "copy image":
            return rollout.still_film(chains, sampling.num_frames)
    return rollout.model_film(components, preset, chains, sampling)


@dataclass
class View:
    """One film while it is measured: its truth, which pixels are judged, the frame that the next clip continues and its
    true one, and the figures."""

    chain: Chain
    truth: list[TrueClip]
    seen: Callable
    timeline: Timeline
    last: np.ndarray
    true_last: np.ndarray
    index: int
    figures: Figures
    made: list[np.ndarray]
    true: list[np.ndarray]

    @classmethod
    def of(cls, chain: Chain, sampling: Sampling) -> "View":
        truth = list(true_film(chain, sampling.num_frames, sampling.variant.num_motion_frames))
        seen = in_view_all_along([chain.start, *(clip.after for clip in truth)], chain.size)
        timeline = Timeline(sampling.num_frames, sampling.variant.num_motion_frames, 1)
        return cls(chain, truth, seen, timeline, chain.anchor, chain.anchor, 0, {name: [] for name in METRICS}, [], [])

    def look(self, clip: np.ndarray) -> None:
        """Measure what the next clip, uint8 (F, H, W, 3), adds to the film."""
        added, states = clip[self.timeline.overlap(self.index) :], self.truth[self.index].states
        chosen = range(len(states) - 1, -1, -EVERY)
        true = self.chain.canvas.draw(states, chosen)  # the last first
        masks = [self.seen(states[at : at + 1]) for at in chosen]
        pairs = list(zip(added[list(chosen)], true, masks, strict=True))
        figures = compare(pairs, added, self.last, self.true_last, self.chain.anchor)
        for name, value in figures.items():
            self.figures[name].append(value)
        self.last, self.true_last = added[-1], true[0]
        self.index += 1
        if self.index in SHOWN_CLIPS:
            self.made.append(added[-1])
            self.true.append(true[0])


def compare(
    pairs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    frames: np.ndarray,
    start: np.ndarray,
    true_start: np.ndarray,
    first: np.ndarray,
) -> dict[str, float]:
    """Every metric of one clip. pairs: some of its frames, the last one first, each with the true one (H, W, 3) and the
    pixels (H, W) that are judged. frames: what it adds; start, true_start: the frame before; first: of the film.

    Of the last frame, which the next clip starts from, except for the mean, motion and consistency.
    """
    last, true, seen = pairs[0]
    return {
        "psnr": metrics.psnr(last, true, seen),
        "ssim": metrics.ssim(last, true, seen),
        "psnr_mean": float(np.mean([metrics.psnr(*pair) for pair in pairs])),
        "camera_error": metrics.camera_error(last, true),
        "colour_shift": metrics.colour_shift(last, true, seen),
        "contrast_shift": metrics.contrast_shift(last, true, seen),
        "sharpness": metrics.sharpness(last, true, seen),
        "dynamic_degree": metrics.dynamic_degree(last, start, true, true_start, seen),
        "motion": metrics.motion(frames, start),
        "consistency": metrics.consistency(frames, start, first),
    }


def estimate(components: Components, preset: Preset, settings: Settings, work: Work) -> dict:
    """What `work` will take, from two clips of one batch with the model and two without."""
    group = [dataclasses.replace(chain, asked=chain.asked[:2]) for chain in work[0][1]]
    cpu_s: dict[str, float] = {}
    total_s = 0.0
    for needs_model, words in ((True, "with the model"), (False, "without the model")):
        same = [(arm, chains) for arm, chains in work if arm.needs_model == needs_model]
        if not same:
            continue
        sampling = sampling_of(same[0][0], settings)
        views = [View.of(chain, sampling) for chain in group]
        began, cpu_began = time.monotonic(), time.process_time()
        for clips in film_of(same[0][0], components, preset, group, sampling):  # the second clip counts
            for view, clip in zip(views, clips, strict=True):
                view.look(clip)
            clip_s = (time.monotonic() - began) / len(group)
            cpu_s[words] = round((time.process_time() - cpu_began) / len(group), 3)
            began, cpu_began = time.monotonic(), time.process_time()
        total_s += clip_s * settings.num_clips * sum(len(chains) for _, chains in same)
    return {
        "event": "drift_started",
        "clips": settings.num_clips * sum(len(chains) for _, chains in work),
        "cpu_s_a_clip": cpu_s,
        "minutes": round(total_s / 60, 1),
        "threads": torch.get_num_threads(),
    }
