"""How much work a clip costs, beside the plain script that everyone writes first.

Two measurements. `compare`: the same untrained Wan weights in a naive `WanImageToVideoPipeline` loop and in
`LocalBackend`, clip by clip in turn, on one thread, where both must give the same pictures (one motion frame, zero
padding: upstream's Tom & Jerry setting). `endure`: many clips of a preset, whose cost and memory must not grow.

CPU seconds of this process and its children; wall time only for what a person waits for. The naive loop encodes prompts
in every clip, keeps the film as pictures in memory and writes it whole after every clip, with the same video encoder.
"""

import dataclasses
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from PIL import Image
from transformers import CLIPImageProcessor

from engine.backends.base import ClipResult, Interrupted
from engine.backends.local import LocalBackend
from engine.config import ASSETS, ROOT, Preset
from engine.domain import ClipRequest, Resolution
from engine.environment import available_cores
from engine.media import image, video
from engine.models import wan
from engine.models.untrained import WanModules, WanSize, build
from engine.pocket.framing import Framing
from engine.pocket.motion import Motion
from engine.pocket.render import Canvas
from engine.project import takes

TARGET_RATIO = 2.2
LARGEST_SPREAD = 0.15
LARGEST_GROWTH = 0.05
STOP_TARGET_S = 0.5
VERDICTS = {True: "passed", False: "FAILED", None: "not judged, other programs are running"}
PROMPTS = (
    "night falls over the harbour while the camera zooms in",
    "fog rolls in from the sea",
    "the sun comes out again as the camera pans left",
)
UPLOAD = ASSETS / "examples" / "lake.jpg"
NEGATIVE = "blurred, low quality"


@dataclass(frozen=True)
class Setting:
    """What `compare` runs: frames are square and as large as CLIP's input, so that both sides show CLIP the same."""

    side: int
    num_frames: int
    steps: int
    clips: int
    size: WanSize

    @property
    def tokens(self) -> int:
        return (self.side // 16) ** 2 * ((self.num_frames + 3) // 4)


# 7 M parameters: where a step, a VAE pass and a text pass weigh against each other about as on a pocket-sized model.
MODEL = WanSize(
    num_heads=4,
    head_dim=64,
    num_layers=6,
    ffn_dim=1024,
    text_dim=256,
    text_layers=4,
    vae_dim=16,
    vae_multipliers=(1, 2, 4, 4),
    image_dim=128,
    image_layers=4,
    image_patch=16,
)
FULL = Setting(side=128, num_frames=25, steps=4, clips=5, size=dataclasses.replace(MODEL, image_side=128))
QUICK = Setting(side=96, num_frames=17, steps=4, clips=4, size=dataclasses.replace(MODEL, image_side=96))


def run(preset: Preset, *, quick: bool = False) -> dict:
    """Measure; the report is plain data. quick: under a minute, at sizes too small for a headline figure."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "quick": quick,
            "load_average": round(psutil.getloadavg()[0], 2),
            "cold_start": cold_start(preset),
            "compare": compare(QUICK if quick else FULL),
            "endure": endure(preset, marks=(4, 8) if quick else (5, 20, 100), threads=threads),
        }
    finally:
        torch.set_num_threads(threads)


# ---- ours against the naive loop


class ExplicitSigmas(FlowMatchEulerDiscreteScheduler):
    """The stock scheduler with the published noise levels, which the pipeline cannot be given."""

    def set_timesteps(self, num_inference_steps: int, device: torch.device | None = None) -> None:
        super().set_timesteps(sigmas=np.linspace(1, 0, num_inference_steps + 1)[:-1], device=device)


class NaiveLoop:
    """A film as a plain script makes it."""

    def __init__(self, modules: WanModules, setting: Setting, shift: float, folder: Path) -> None:
        side = setting.side
        self.setting, self.file = setting, folder / "film.mp4"
        self.film: list[Image.Image] = []
        self.pipeline = WanImageToVideoPipeline(
            tokenizer=modules.tokenizer,
            text_encoder=modules.text_encoder,
            vae=modules.vae,
            scheduler=ExplicitSigmas(shift=shift),
            image_encoder=modules.image_encoder,
            image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
            transformer=modules.transformer,
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def make(self, request: ClipRequest) -> np.ndarray:
        frames = self.pipeline(
            image=Image.fromarray(request.condition_frames[-1]),
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            height=self.setting.side,
            width=self.setting.side,
            num_frames=request.num_frames,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
            max_sequence_length=512,
            output_type="pil",
        ).frames[0]
        self.film += frames[request.overlap :]
        return np.asarray(frames[-1])

    def write(self, fps: int) -> None:
        video.write_segment((np.asarray(frame) for frame in self.film), self.file, fps=fps)


def compare(setting: Setting) -> dict:
    """CPU seconds a clip of both loops, their ratio, and how far their last frames lie apart."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        preset = Preset(
            name="bench", title="Bench", family="wan", model=".", num_frames=setting.num_frames, device="cpu"
        )
        naive = NaiveLoop(build(setting.size), setting, preset.shift, folder)
        modules = build(setting.size)
        parts = (modules.transformer, modules.vae, modules.text_encoder, modules.tokenizer, modules.image_encoder)
        components = wan.assemble(wan.Modules(*parts), device=torch.device("cpu"), dtype=torch.float32)
        backend = LocalBackend(components, preset)
        rows, frame = [], colour_blobs(setting.side, setting.side)
        for index in range(setting.clips):
            request = make_request(index, frame[None], num_frames=setting.num_frames, steps=setting.steps, guidance=5.0)
            row, frame = compare_clip(request, naive, backend, folder)
            rows.append(row)
    return summary(setting, rows)


def compare_clip(
    request: ClipRequest, naive: NaiveLoop, backend: LocalBackend, folder: Path
) -> tuple[dict, np.ndarray]:
    """What one clip cost on either side, and the frame that both continue from."""
    began = cpu_seconds()
    naive_last = naive.make(request)
    naive_model = cpu_seconds() - began
    naive.write(request.fps)
    naive_film = cpu_seconds() - began - naive_model

    began = cpu_seconds()
    made = generated(backend, request)
    model = cpu_seconds() - began
    commit(folder, request, made)
    stored = cpu_seconds() - began - model
    frames = made.frames
    difference = int(np.abs(frames[-1].astype(int) - naive_last).max())
    row = {
        "naive": {"model": naive_model, "film": naive_film},
        "ours": {"model": model, "film": stored} | {f"  {phase}": s for phase, s in made.timings.items()},
        "last_frame_difference": difference,
    }
    return row, frames[-1]


def summary(setting: Setting, rows: list[dict]) -> dict:
    """The cheapest clip after the first of each side. Steady: a second clip cost at most 15 % more on either side."""
    later = rows[1:]
    totals = {side: sorted(row[side]["model"] + row[side]["film"] for row in later) for side in ("naive", "ours")}
    models = {side: sorted(row[side]["model"] for row in later) for side in ("naive", "ours")}
    spread = max(costs[1] / costs[0] - 1 for costs in models.values())
    ratio = totals["naive"][0] / totals["ours"][0]
    difference = max(row["last_frame_difference"] for row in rows)
    steady = spread <= LARGEST_SPREAD
    return {
        "setting": dataclasses.asdict(setting) | {"tokens": setting.tokens},
        "phases": {
            side: {phase: round(min(row[side][phase] for row in later), 3) for phase in later[0][side]}
            for side in ("naive", "ours")
        },
        "film_cost_by_clip": {side: [round(row[side]["film"], 3) for row in rows] for side in ("naive", "ours")},
        "cpu_s": {side: round(costs[0], 3) for side, costs in totals.items()},
        "ratio": round(ratio, 2) if steady else None,
        "spread": round(spread, 3),
        "steady": steady,
        "last_frame_difference": difference,
        "passed": steady and ratio >= TARGET_RATIO and difference <= 1,
    }


# ---- many clips of one preset


def endure(preset: Preset, *, marks: tuple[int, ...], threads: int) -> dict:
    """Cost and memory of a chain of clips at the clips `marks` on one thread, and how long a person waits with
    `threads`."""
    width, height = preset.resolutions[0]
    variant = preset.variant("film" if "film" in preset.variants else next(iter(preset.variants)))
    picture = image.load(UPLOAD)
    anchor = first_frame(picture, Resolution(width, height), preset)
    handed: tuple[np.ndarray, dict[str, np.ndarray] | None] = (anchor[None], None)
    costs, rss = [], {}
    backend = LocalBackend.open(preset, threads=threads)

    def request(index: int) -> ClipRequest:
        condition, states = handed
        made = make_request(
            index,
            condition,
            num_frames=preset.num_frames,
            steps=preset.num_inference_steps,
            guidance=preset.guidance_scale,
        )
        return dataclasses.replace(
            made,
            variant=variant.name,
            overlap=len(condition) if index else 0,
            fps=preset.fps,
            shift=preset.shift,
            anchor=anchor,
            picture=picture if preset.family == "pocket" else None,
            tail_states=states,
            is_composed=preset.handover == "composed",
        )

    quiet = psutil.getloadavg()[0] <= available_cores()  # else wall time measures the other programs
    first_preview_s, stop_s = waits(backend, request(0))
    torch.set_num_threads(1)
    phases: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        for index in range(marks[-1]):
            asked = request(index)
            began = cpu_seconds()
            made = generated(backend, asked)
            storing = cpu_seconds()
            take = commit(Path(name), asked, made)
            costs.append(cpu_seconds() - began)
            phases.append(made.timings | {"video and tails": cpu_seconds() - storing})
            count = variant.num_motion_frames
            states = takes.tail_states(take, count) if made.tail_states is not None else None
            handed = (made.frames[-count:], states)
            if index + 1 in marks:
                rss[index + 1] = round(psutil.Process().memory_info().rss / 1e6)
    backend.close()
    # The cheapest of the clips before each mark: single ones differ by what else the machine does.
    cost = {mark: round(min(costs[max(mark - 4, 1) : mark]), 3) for mark in marks}
    growth = {"rss": rss[marks[-1]] / rss[marks[0]] - 1, "cpu": cost[marks[-1]] / cost[marks[0]] - 1}
    cheapest = min(phases[1:], key=lambda one: sum(one.values()))
    return {
        "preset": preset.name,
        "clip": f"{width}×{height}, {preset.num_frames} frames, {preset.num_inference_steps} steps",
        "cpu_s_at_clip": cost,
        "rss_mb_at_clip": rss,
        "growth": {name: round(value, 3) for name, value in growth.items()},
        "phases": {phase: round(seconds, 3) for phase, seconds in cheapest.items()},
        "megapixels_a_cpu_s": round(width * height * preset.num_frames / min(cost.values()) / 1e6, 3),
        "outside_denoising": round(1 - cheapest["denoise"] / sum(cheapest.values()), 3),
        "threads": threads,
        "first_preview_s": round(first_preview_s, 2),
        "stop_s": round(stop_s, 2),
        "passed": {
            "memory is flat": growth["rss"] <= LARGEST_GROWTH,
            "cost is flat": growth["cpu"] <= LARGEST_GROWTH,
            "stops in time": stop_s <= STOP_TARGET_S if quiet else None,
        },
    }


def waits(backend: LocalBackend, request: ClipRequest) -> tuple[float, float]:
    """Wall seconds until the first preview, and from a stop in the middle of the next step until it has its effect."""
    asked = [0.0]

    def stop() -> None:
        asked[0] = time.monotonic()
        backend.interrupt()

    began, first_preview_s, timer = time.monotonic(), 0.0, None
    try:
        for _ in backend.generate(request):
            if timer is None:
                first_preview_s = time.monotonic() - began
                timer = threading.Timer(first_preview_s / 3, stop)
                timer.start()
    except Interrupted:
        return first_preview_s, time.monotonic() - asked[0]
    timer.cancel()
    return first_preview_s, 0.0  # the clip was over before the stop


def cold_start(preset: Preset) -> dict:
    """CPU and wall seconds until the model of `preset` is ready, in a process of its own."""
    name = preset.name if preset.folder.name == "presets" else str(preset.folder / f"{preset.name}.yaml")
    code = (
        "import sys; from engine.config import load_preset; from engine.backends import open_backend;"
        "open_backend(load_preset(sys.argv[1]), threads=1)"
    )
    began, wall = cpu_seconds(), time.monotonic()
    subprocess.run([sys.executable, "-c", code, name], check=True, cwd=ROOT, capture_output=True)
    return {"cpu_s": round(cpu_seconds() - began, 2), "wall_s": round(time.monotonic() - wall, 2)}


# ---- shared


def make_request(
    index: int, condition_frames: np.ndarray, *, num_frames: int, steps: int, guidance: float = 1.0
) -> ClipRequest:
    height, width = condition_frames.shape[1:3]
    return ClipRequest(
        digest=f"{index:064x}",
        clip_id=f"{index:026d}",
        index=index,
        variant="film",
        prompt=f"{PROMPTS[index % len(PROMPTS)]}, part {index + 1}",
        negative_prompt=NEGATIVE,
        seed=42 * index,
        num_inference_steps=steps,
        guidance_scale=guidance,
        lora_strength=1.0,
        num_frames=num_frames,
        overlap=1 if index else 0,
        fps=12,
        resolution=Resolution(width, height),
        parent_digest=f"{index - 1:064x}" if index else None,
        anchor=condition_frames[0],
        condition_frames=condition_frames,
    )


def generated(backend: LocalBackend, request: ClipRequest) -> ClipResult:
    result = None
    for item in backend.generate(request):
        result = item
    assert isinstance(result, ClipResult)
    return result


def commit(folder: Path, request: ClipRequest, made: ClipResult) -> Path:
    """Store the clip as a film does; returns its folder."""
    takes.commit(folder, request, made.frames, tail_frames=5, backend="bench", timings={}, tail_states=made.tail_states)
    return folder / request.digest


def first_frame(picture: np.ndarray, size: Resolution, preset: Preset) -> np.ndarray:
    """The film's first frame, as `film.first_frame` makes it."""
    if preset.family != "pocket":
        return image.fit(picture, size)
    framing = Framing.of(picture.shape[1], picture.shape[0], size)
    return Canvas.of(picture, framing).draw_one(Motion.still(1, framing.aspect))


def colour_blobs(width: int, height: int) -> np.ndarray:
    """Soft blobs of colour, the same every time."""
    blobs = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC))


def cpu_seconds() -> float:
    """CPU seconds of this process, all its threads, and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def table(report: dict) -> str:
    """The report for people."""
    compared, endured, cold = report["compare"], report["endure"], report["cold_start"]
    setting = compared["setting"]
    lines = [
        f"One clip, CPU seconds on one thread: untrained Wan, {setting['side']}×{setting['side']}, "
        f"{setting['num_frames']} frames, {setting['tokens']} tokens, {setting['steps']} steps, guidance 5.",
        f"Load average at the start: {report['load_average']}. Cheapest clip after the first of {setting['clips']}.",
        "",
        f"{'phase':24}{'naive':>10}{'ours':>10}",
    ]
    phases = list(dict.fromkeys([*compared["phases"]["naive"], *compared["phases"]["ours"]]))
    for phase in phases:
        cells = [compared["phases"][side].get(phase) for side in ("naive", "ours")]
        lines.append(f"{phase:24}" + "".join(f"{'' if cell is None else f'{cell:.3f}':>10}" for cell in cells))
    lines.append(f"{'one clip':24}{compared['cpu_s']['naive']:>10.3f}{compared['cpu_s']['ours']:>10.3f}")
    first, last = (compared["film_cost_by_clip"]["naive"][i] for i in (0, -1))
    lines.append(f"Writing the film: naive {first:.2f} → {last:.2f} s by clip {setting['clips']}.")
    if compared["steady"]:
        lines.append(
            f"Ratio {compared['ratio']:.2f} (target {TARGET_RATIO}), last frames within "
            f"{compared['last_frame_difference']}/255: {VERDICTS[compared['passed']]}."
        )
    else:
        lines.append(
            f"No ratio: repeats differ by {100 * compared['spread']:.0f} % "
            f"(up to {100 * LARGEST_SPREAD:.0f} % allowed). Stop other programs and measure again."
        )
    lines += [
        "",
        f"{endured['preset']}: {endured['clip']}",
        f"Cold start: {cold['cpu_s']} CPU s, {cold['wall_s']} s. With {endured['threads']} threads: first preview in "
        f"{endured['first_preview_s']} s, a stop in mid-step takes effect in {endured['stop_s']} s.",
        f"CPU s a clip at clip: {endured['cpu_s_at_clip']}. RSS in MB at clip: {endured['rss_mb_at_clip']}.",
        "By phase: " + ", ".join(f"{phase} {seconds:.3f}" for phase, seconds in endured["phases"].items()) + ".",
        f"Outside denoising: {100 * endured['outside_denoising']:.1f} %. "
        f"{endured['megapixels_a_cpu_s']} megapixels a CPU s.",
        *(f"{claim}: {VERDICTS[held]}." for claim, held in endured["passed"].items()),
    ]
    return "\n".join(lines)
