"""How fast a Wan preset runs on this machine: a CFG step in every way, and whole clips phase by phase.

One call measures, in this order: rates and steps (`step_ways`), clips through `LocalBackend` with the memory they take,
and last a step with the blocks streamed from host memory. Weights may be random: the time does not depend on their
values. No ratio is made of repeats that differ by more than 15 %. Seconds are wall time behind a synchronised GPU, and
CPU seconds on a CPU, where everything is a dry run.
"""

import gc
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import psutil
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.backends.base import ClipResult, Notice
from engine.backends.local import LocalBackend
from engine.config import RANDOM_WEIGHTS, Preset
from engine.domain import ClipRequest, Resolution
from engine.errors import ConfigError, OutOfMemory
from engine.evaluation.speed import LARGEST_GROWTH, LARGEST_SPREAD, colour_blobs, make_request
from engine.evaluation.step_ways import (
    EAGER,
    STREAMED,
    Clock,
    Step,
    StepRow,
    Timing,
    fastest,
    measure_ceiling,
    measure_streaming,
    measure_ways,
    step_work,
    ways_of,
)
from engine.models import components as models
from engine.models import untrained
from engine.models.components import Components, VideoCodec
from engine.models.placement import WHOLE
from engine.models.published import EXPERTS
from engine.training.footprint import LatentShape, measure

STEPS_OF_A_CLIP = 50
STEP_TARGET_S = 5.7  # on an H200: 3.37 PFLOP at 75 % of the 790 TFLOP/s measured on one
OUTSIDE_TARGET = 0.03
STREAMING_TARGET = 0.10
FULL_TOKENS = 32_760  # 81 × 480 × 832
MEMORY_MARKS = (1, 5, 20)
DRY_SIZE, DRY_FRAMES = Resolution(64, 64), 9
PHASES = ("text", "image", "condition", "denoise", "transformer", "decode", "uint8", "other")
DRY = "a dry run on a CPU"


@dataclass(frozen=True)
class Setting:
    """What is run. dry: on a CPU, at a size that says nothing about a GPU."""

    resolution: Resolution
    num_frames: int
    steps: int
    clips: int
    dry: bool

    @property
    def latents(self) -> LatentShape:
        return LatentShape.of(self.resolution.width, self.resolution.height, self.num_frames)


@dataclass(frozen=True)
class Target:
    """A claim, what was found, and "met", "MISSED" or "not judged: why"."""

    claim: str
    found: str
    verdict: str


def run(
    preset: Preset,
    *,
    num_blocks: int | None = None,
    steps: int | None = None,
    clips: int | None = None,
    size: Resolution | None = None,
    compile_blocks: bool = False,
    quick: bool = False,
) -> dict:
    """Measure; the report is plain data.

    num_blocks: of a random transformer, at its published width. steps, clips: of the film that is made. quick: the
    eager step only, which leaves the time for a longer film. compile_blocks: on a CPU too.
    """
    if num_blocks is not None and not preset.random_weights:
        raise ConfigError("The weights decide how many blocks there are.", "Use --blocks with --random-weights.")
    setting = setting_of(preset, models.device_of(preset), steps=steps, clips=clips, size=size)
    shape = (setting.resolution.width, setting.resolution.height)
    preset = preset.model_copy(update={"num_frames": setting.num_frames, "resolutions": (shape,)})
    random = preset.random_weights
    components = untrained.load_random(preset, num_blocks=num_blocks) if random else models.load(preset)
    try:
        return measured(components, preset, setting, compile_blocks=compile_blocks, quick=quick)
    except torch.OutOfMemoryError as err:
        raise OutOfMemory(
            "A step of this size needs more GPU memory than is free.", "Measure fewer --blocks or a smaller --size."
        ) from err


def setting_of(
    preset: Preset, device: torch.device, *, steps: int | None, clips: int | None, size: Resolution | None
) -> Setting:
    """The preset's own size and frames on a GPU, a few tokens on a CPU; two steps and three clips unless asked for."""
    dry = device.type != "cuda"
    resolution = size or (DRY_SIZE if dry else preset.offered_resolutions()[0])
    return Setting(resolution, DRY_FRAMES if dry else preset.num_frames, steps or 2, max(2, clips or 3), dry)


@torch.inference_mode()
def measured(
    components: Components, preset: Preset, setting: Setting, *, compile_blocks: bool = False, quick: bool = False
) -> dict:
    """The report on a loaded model."""
    clock, transformer, device = Clock(components.device), components.transformer, components.device
    placement = components.placement
    tier = placement.tier if placement is not None else "resident"
    if placement is not None:
        placement.bring(transformer)
    work, step = step_work(transformer.config, setting.latents), Step(components, setting.latents)
    ceiling = measure_ceiling(components, setting.latents, clock)
    ways = ways_of(transformer, device, compile_blocks=compile_blocks)
    rows = measure_ways(ways[:1] if quick else ways, step, clock, work, ceiling)
    made = make_clips(components, preset, setting, clock)
    if tier in WHOLE and not quick:
        rows.append(measure_streaming(components, step, clock, work, ceiling))
    report = {
        "preset": preset.name,
        "weights": components.note or "from the preset's files",
        "device": torch.cuda.get_device_name(device) if clock.on_gpu else "CPU",
        "dtype": str(components.dtype).removeprefix("torch."),
        "tier": tier,
        "dry_run": setting.dry,
        "published_size": has_published_size(components, preset),
        "clip": asdict(setting) | {"tokens": measure(transformer.config, None).num_tokens(setting.latents)},
        "step_tflop": work.total / 1e12,
        "ceiling": asdict(ceiling),
        "steps": [asdict(row) for row in rows],
        **made,
    }
    return report | {"targets": [asdict(target) for target in targets(report)]}


def has_published_size(components: Components, preset: Preset) -> bool:
    config, published = components.transformer.config, EXPERTS[preset.base][0]
    whole = all(tuple_of(config[name]) == tuple_of(value) for name, value in published.items())
    return whole and components.note in ("", RANDOM_WEIGHTS)


def tuple_of(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


# ---- whole clips


class Stopwatch:
    """Seconds by phase, and when preparing ended, and decoding began and ended."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.seconds = clock, Counter[str]()
        self.prepared = self.decoding = self.decoded = 0.0

    def around(self, phase: str, work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def timed(*arguments: object) -> Tensor:
            began = self.clock()
            result = work(*arguments)
            ended = self.clock()
            self.seconds[phase] += ended - began
            if phase == "decode":
                self.decoding, self.decoded = began, ended
            else:
                self.prepared = ended
            return result

        return timed

    @contextmanager
    def passes(self, *transformers: WanTransformer3DModel | None) -> Iterator[None]:
        """Count what passes of the transformers take, where the engine calls them whole (on a GPU)."""
        began = 0.0

        def before(*_: object) -> None:
            nonlocal began
            began = self.clock()

        def after(*_: object) -> None:
            self.seconds["transformer"] += self.clock() - began

        present = [transformer for transformer in transformers if transformer is not None]
        hooks = [transformer.register_forward_pre_hook(before) for transformer in present]
        hooks += [transformer.register_forward_hook(after) for transformer in present]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class WatchedCodec:
    """A codec whose work is timed."""

    def __init__(self, codec: VideoCodec, watch: Stopwatch) -> None:
        self.latent_channels = codec.latent_channels
        self.spatial_stride, self.temporal_stride = codec.spatial_stride, codec.temporal_stride
        self.encode = watch.around("condition", codec.encode)
        self.decode = watch.around("decode", codec.decode)


class Memory:
    """Gigabytes: the most that PyTorch held on the GPU since the last reading; what this process holds, on a CPU."""

    def __init__(self, clock: Clock) -> None:
        self.on_gpu = clock.on_gpu
        self.read()

    def read(self) -> float:
        if not self.on_gpu:
            return psutil.Process().memory_info().rss / 1e9
        most = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return most


def make_clips(components: Components, preset: Preset, setting: Setting, clock: Clock) -> dict:
    """A film of `setting.clips` clips, each continuing the one before: phases of a clip, and memory at some of them."""
    watch, image = Stopwatch(clock), components.encode_image
    watched = replace(
        components,
        codec=WatchedCodec(components.codec, watch),
        encode_text=watch.around("text", components.encode_text),
        encode_image=watch.around("image", image) if image is not None else None,
    )
    backend = LocalBackend(watched, preset)
    rows: list[Counter[str]] = []
    notices: list[str] = []
    peaks: dict[int, float] = {}
    request, memory = first_request(preset, setting), Memory(clock)
    try:
        with watch.passes(components.transformer, components.low_noise_transformer):
            for number in range(1, setting.clips + 1):
                result, phases, said = make_clip(backend, request, watch)
                rows.append(phases)
                notices += said
                if number in (*MEMORY_MARKS, setting.clips):
                    peaks[number] = round(memory.read(), 3)
                request = next_request(preset, request, result)
    finally:
        backend.release()
        gc.collect()
    return summary(rows, setting.steps) | {"memory_gb": peaks, "notices": notices}


def first_request(preset: Preset, setting: Setting) -> ClipRequest:
    variant = preset.variant("film" if "film" in preset.variants else next(iter(preset.variants)))
    picture = colour_blobs(setting.resolution.width, setting.resolution.height)
    request = make_request(
        0, picture[None], num_frames=setting.num_frames, steps=setting.steps, guidance=preset.guidance_scale
    )
    return replace(request, variant=variant.name, anchor=picture, shift=preset.shift)


def next_request(preset: Preset, request: ClipRequest, result: ClipResult) -> ClipRequest:
    """What continues the clip that `request` gave."""
    shared = preset.variant(request.variant).num_motion_frames
    made = make_request(
        request.index + 1,
        np.ascontiguousarray(result.frames[-shared:]),
        num_frames=request.num_frames,
        steps=request.num_inference_steps,
        guidance=request.guidance_scale,
    )
    kept = {"variant": request.variant, "anchor": request.anchor, "shift": request.shift}
    return replace(made, overlap=shared, tail_latents=result.tail_latents, **kept)


def make_clip(
    backend: LocalBackend, request: ClipRequest, watch: Stopwatch
) -> tuple[ClipResult, Counter[str], list[str]]:
    """The clip, the seconds of its phases, and what was said meanwhile. What belongs to no phase is "other", as fusing
    a LoRA or a first try that ran out of memory."""
    watch.seconds.clear()
    began, result, notices = watch.clock(), None, []
    for item in backend.generate(request):
        result = item
        if isinstance(item, Notice):
            notices.append(item.text)
    ended = watch.clock()
    assert isinstance(result, ClipResult)
    phases = Counter(watch.seconds)
    phases["denoise"] = watch.decoding - watch.prepared  # the passes of the transformer are a part of it
    phases["uint8"] = ended - watch.decoded
    phases["other"] = ended - began - total(phases)
    return result, phases, notices


def total(phases: Mapping[str, float]) -> float:
    return sum(seconds for name, seconds in phases.items() if name != "transformer")


def summary(rows: Sequence[Mapping[str, float]], steps: int) -> dict:
    """The median clip after the first, and its share outside the transformer as a clip of 50 steps would have it.

    No share when the clips differ, or when there is only one to go by.
    """
    later = rows[1:]
    phases = {name: statistics.median(row.get(name, 0.0) for row in later) for name in PHASES}
    denoise = phases["denoise"]
    passes = phases["transformer"] or denoise  # on a CPU the engine calls the blocks one by one
    around, scale = total(phases) - denoise, STEPS_OF_A_CLIP / steps
    outside = (around + scale * (denoise - passes)) / (around + scale * denoise)
    spread = Timing.of([total(row) for row in later]).spread
    return {
        "first_clip_s": round(total(rows[0]), 4),
        "phases_s": {name: round(seconds, 4) for name, seconds in phases.items() if seconds},
        "clips_spread": round(spread, 3),
        "outside": round(outside, 4) if len(later) > 1 and spread <= LARGEST_SPREAD else None,
    }


# ---- what it means


def targets(report: Mapping) -> list[Target]:
    """The claims that are made for 14B on a GPU; each is judged only by a run that can show it."""
    rows = [StepRow(**row) for row in report["steps"]]
    full = report["published_size"] and report["clip"]["tokens"] == FULL_TOKENS
    unfit = DRY if report["dry_run"] else "" if full else "not the published size"
    return [
        _step_target(rows, unfit or ("" if "H200" in report["device"] else f"this is a {report['device']}")),
        _outside_target(report["outside"], unfit),
        _streaming_target(rows, unfit),
        _memory_target(report["memory_gb"], DRY if report["dry_run"] else ""),
    ]


def _step_target(rows: Sequence[StepRow], unfit: str) -> Target:
    best = fastest(rows)
    claim = f"A CFG step takes at most {STEP_TARGET_S} s on an H200, with exact kernels"
    if unfit or best is None or not best.steady:
        return _not_judged(claim, unfit or "repeats differ")
    return Target(claim, f"{best.seconds:.2f} s ({best.way})", _verdict(best.seconds <= STEP_TARGET_S))


def _outside_target(outside: float | None, unfit: str) -> Target:
    claim = f"At most {OUTSIDE_TARGET:.0%} of a {STEPS_OF_A_CLIP}-step clip is outside the transformer"
    if unfit or outside is None:
        return _not_judged(claim, unfit or "clips differ, or there are too few")
    return Target(claim, f"{outside:.1%}", _verdict(outside <= OUTSIDE_TARGET))


def _streaming_target(rows: Sequence[StepRow], unfit: str) -> Target:
    by_way = {row.way: row for row in rows}
    eager, streamed = by_way[EAGER], by_way.get(STREAMED)
    claim = f"Streaming blocks from host memory is at most {STREAMING_TARGET:.0%} slower than keeping them on the GPU"
    if unfit or streamed is None:
        return _not_judged(claim, unfit or "not measured")
    if not (eager.steady and streamed.steady):
        return _not_judged(claim, streamed.error or eager.error or "repeats differ")
    slower = streamed.seconds / eager.seconds - 1
    return Target(claim, f"{slower:+.1%}", _verdict(slower <= STREAMING_TARGET))


def _memory_target(memory_gb: Mapping[int, float], unfit: str) -> Target:
    last = max(memory_gb)
    claim = f"Memory grows by at most {LARGEST_GROWTH:.0%} after clip 5"
    if unfit or 5 not in memory_gb or last == 5:
        return _not_judged(claim, unfit or "more than five clips are needed")
    growth = memory_gb[last] / memory_gb[5] - 1
    return Target(claim, f"{growth:+.1%} by clip {last}", _verdict(growth <= LARGEST_GROWTH))


def _not_judged(claim: str, why: str) -> Target:
    return Target(claim, "no figure", f"not judged: {why}")


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def table(report: Mapping) -> str:
    """The report for people."""
    clip, resolution, unit = report["clip"], report["clip"]["resolution"], "CPU s" if report["dry_run"] else "s"
    lines = [
        f"{report['preset']}: {report['weights']}. {report['device']}, {report['dtype']}, {report['tier']}.",
        f"{resolution['width']}×{resolution['height']}, {clip['num_frames']} frames, {clip['tokens']:,} tokens; "
        f"{report['step_tflop']:,.4g} TFLOP a CFG step.",
    ]
    if report["dry_run"]:
        lines += [
            "DRY RUN on a CPU, with a small clip: it shows that every part works. It cannot give the seconds of a GPU,",
            "shares of its rate, what streaming costs, or GPU memory; docs/gpu.md has the commands that do.",
        ]
    lines += ["", *_step_lines(report, unit), "", *_clip_lines(report, unit), ""]
    lines += [f"{target['claim']}: {target['found']}, {target['verdict']}." for target in report["targets"]]
    return "\n".join(lines)


def _step_lines(report: Mapping, unit: str) -> list[str]:
    ceiling, rows = report["ceiling"], [StepRow(**row) for row in report["steps"]]
    lines = [
        f"This machine does {ceiling['products']:.4g} TFLOP/s in the model's matrix products and "
        f"{ceiling['attention']:.4g} in its attention.",
    ]
    if not ceiling["steady"]:
        lines.append(f"No shares of that: its repeats differ by more than {LARGEST_SPREAD:.0%}.")
    lines.append(f"{'CFG step':36}{unit:>10}{'of products':>13}{'of both':>10}{'difference':>12}")
    for row in rows:
        if row.seconds is None:
            continue
        shares = f"{_percent(row.share):>13}{_percent(row.of_bound):>10}"
        note = "" if row.steady else f"  repeats differ by {row.spread:.0%}"
        lines.append(f"{row.way:36}{row.seconds:>10.4g}{shares}{row.difference:>12.1e}{note}")
    return lines + [f"Not here: {row.way} ({row.error})" for row in rows if row.seconds is None]


def _clip_lines(report: Mapping, unit: str) -> list[str]:
    phases = ", ".join(f"{name} {seconds:.4g}" for name, seconds in report["phases_s"].items())
    outside, kind = report["outside"], "Memory of the process" if report["dry_run"] else "Most GPU memory"
    found = f"no figure, {report['clip']['clips'] - 1} clips differ by {report['clips_spread']:.0%}"
    return [
        f"A clip of {report['clip']['steps']} steps in {unit}: {phases}.",
        f"The first one, with all that is done once: {report['first_clip_s']:.4g}.",
        f"Outside the transformer, at {STEPS_OF_A_CLIP} steps: {found if outside is None else f'{outside:.1%}'}.",
        *report["notices"],
        f"{kind}: " + ", ".join(f"{gb:.2f} GB at clip {mark}" for mark, gb in report["memory_gb"].items()) + ".",
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
