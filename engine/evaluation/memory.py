"""What each memory tier takes, beside what was expected: `bench memory`.

On a GPU a clip is made on every tier, under an artificial limit if one is given, and the allocator's peak is read. On
a CPU there is no allocator to ask. There the published model goes through the same placement on a stand-in that follows
every allocation (`stand_in`), without weights and without time; and where the preset's model can be loaded, clips are
made on every tier, which says what a tier keeps in place, what the process takes and how long a step lasts here.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from unittest import mock

import numpy as np
import psutil
import torch
from diffusers.hooks.group_offloading import ModuleGroup

from engine import tiers
from engine.backends.base import Notice, StepDone
from engine.backends.local import LocalBackend, release_memory
from engine.config import Preset
from engine.domain import Resolution
from engine.errors import ConfigError, ModelError
from engine.evaluation.speed import colour_blobs, make_request
from engine.evaluation.stand_in import DEVICE, Meter, hollow, stand_in
from engine.models import untrained, wan
from engine.models.attention import PlainDenoiser
from engine.models.components import Components, device_of
from engine.models.placement import WanPlacement, machine_here, measure
from engine.tiers import GB, PUBLISHED, TierName

DRY_SIZE, DRY_FRAMES = Resolution(64, 64), 9
UNLIMITED = 1 << 50


@dataclass(frozen=True)
class Row:
    """One tier. peak: of GPU memory, measured or counted; weights: kept in place, and the largest loan on top of them;
    error: why there is no figure. Bytes."""

    tier: str
    expected: int | None = None
    peak: int | None = None
    weights: int | None = None
    resident_set: int | None = None
    seconds_per_step: float | None = None
    error: str = ""


def run(
    preset: Preset,
    *,
    cap_gb: float | None = None,
    size: Resolution | None = None,
    steps: int | None = None,
    num_blocks: int | None = None,
) -> dict:
    """Walk the tiers of `preset`; the report is plain data. cap_gb: the GPU memory to make do with. num_blocks: of
    transformers and encoders on the stand-in, the published numbers unless given."""
    if preset.family != "wan":
        raise ConfigError(f"The preset “{preset.name}” is small: it has one tier.", "Name a Wan preset.")
    resolution = size or preset.offered_resolutions()[0]
    preset = preset.model_copy(update={"resolutions": ((resolution.width, resolution.height),)})
    on_gpu = device_of(preset).type == "cuda"
    machine = limited(machine_here(device_of(preset)), cap_gb)
    report = {
        "preset": preset.name,
        "device": machine.name,
        "clip": f"{resolution.width}×{resolution.height}, {preset.num_frames} frames",
        "cap_gb": cap_gb,
        "method": "measured" if on_gpu else "counted",
    }
    if on_gpu:
        with memory_limit(cap_gb):
            rows = walk(preset, resolution, steps or 3)
        remember(preset, resolution, machine, rows)
        return report | {"rows": [asdict(row) for row in rows], "chosen": chosen(preset, machine)}
    rows = count(preset, resolution, num_blocks=num_blocks)
    dry = dry_walk(preset, steps or 3)
    card = replace(machine, kind="cuda", free_vram=int((cap_gb or 0) * GB), free_ram=UNLIMITED)
    return report | {
        "rows": [asdict(row) for row in rows],
        "chosen": chosen(preset, card) if cap_gb else None,
        "dry_walk": dry,
    }


def limited(machine: tiers.Machine, cap_gb: float | None) -> tiers.Machine:
    if cap_gb is None:
        return machine
    if cap_gb <= 0:
        raise ConfigError(f"A limit of {cap_gb} GB leaves nothing.", "Say, for example, --cap-gb 12.")
    return replace(machine, free_vram=min(machine.free_vram, int(cap_gb * GB)))


def chosen(preset: Preset, machine: tiers.Machine) -> str:
    """The sentence about the tier that would be taken on `machine`."""
    work = tiers.Activations.of(preset.offered_resolutions()[0], preset.num_frames, branches=preset.branches)
    return tiers.choose(machine, tiers.sizes_of(preset), work).sentence


# ---- on a GPU, and as a dry run on a CPU


@contextmanager
def memory_limit(cap_gb: float | None) -> Iterator[None]:
    """Let torch's allocator fail beyond `cap_gb`, as on a smaller card."""
    if cap_gb is None:
        yield
        return
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(cap_gb * GB / total, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def walk(preset: Preset, resolution: Resolution, steps: int) -> list[Row]:
    """A clip on every tier from the first that can be loaded. One that runs out of memory is named and left."""
    backend = LocalBackend.open(preset.model_copy(update={"tier": "resident"}))
    placement, rows = backend.components.placement, []
    try:
        while True:
            rows.append(make_clip(backend, resolution, preset.num_frames, steps))
            if placement.tier == rows[-1].tier and placement.go_down() is None:
                return rows
            if backend.components.device.type == "cuda":
                release_memory()
    finally:
        backend.close()


def make_clip(backend: LocalBackend, resolution: Resolution, num_frames: int, steps: int) -> Row:
    """One clip on the tier where the backend is; it may end on a lower one, which is the next to be measured."""
    placement, on_gpu = backend.components.placement, backend.components.device.type == "cuda"
    tier, expected = placement.tier, placement.expected.vram_bytes
    picture = colour_blobs(resolution.width, resolution.height)
    request = make_request(0, picture[None], num_frames=num_frames, steps=steps)
    variant = next(iter(backend.preset.variants))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    stamps: list[float] = []
    with largest_loan() as loan:
        for item in backend.generate(replace(request, variant=variant)):
            if isinstance(item, Notice) and placement.tier != tier:
                return Row(tier, expected, error="ran out of memory")
            if isinstance(item, StepDone):
                stamps.append(time.perf_counter())
    lasted = np.diff(stamps)[min(1, len(stamps) - 2) :] if len(stamps) > 1 else []  # the first pass finds the order
    return Row(
        tier=tier,
        expected=expected if on_gpu else None,
        peak=torch.cuda.max_memory_allocated() if on_gpu else None,
        weights=placement.kept_whole() + loan.largest,
        resident_set=psutil.Process().memory_info().rss,
        seconds_per_step=round(statistics.median(lasted), 4) if len(lasted) else None,
    )


@dataclass
class Loan:
    """Bytes of weights that offloading groups have on the device."""

    now: int = 0
    largest: int = 0


@contextmanager
def largest_loan() -> Iterator[Loan]:
    """Count what group offloading brings and takes away."""
    loan, out = Loan(), dict[int, int]()
    onload, offload = ModuleGroup.onload_, ModuleGroup.offload_

    def bring(group: ModuleGroup) -> None:
        lent = {id(p): p for p in (*group.parameters, *(p for part in group.modules for p in part.parameters()))}
        out[id(group)] = sum(tensor.numel() * tensor.element_size() for tensor in lent.values())
        loan.now = sum(out.values())
        loan.largest = max(loan.largest, loan.now)
        onload(group)

    def take(group: ModuleGroup) -> None:
        out.pop(id(group), None)
        offload(group)

    with mock.patch.object(ModuleGroup, "onload_", bring), mock.patch.object(ModuleGroup, "offload_", take):
        yield loan


def dry_walk(preset: Preset, steps: int) -> dict:
    """The tiers on this CPU, at a size that says nothing of a GPU; or why the model cannot be loaded."""
    shape = (DRY_SIZE.width, DRY_SIZE.height)
    small = preset.model_copy(update={"num_frames": DRY_FRAMES, "resolutions": (shape,)})
    try:
        if not preset.random_weights and tiers.sizes_of(preset).on_cpu > machine_here().free_ram // 2:
            raise ModelError("The model is too large for a dry run on this CPU.", "Add --random-weights.")
        rows = walk(small, DRY_SIZE, steps)
    except ModelError as err:
        return {"rows": [], "note": str(err)}
    return {"rows": [asdict(row) for row in rows], "note": f"{shape[0]}×{shape[1]}, {DRY_FRAMES} frames, on this CPU"}


def remember(preset: Preset, resolution: Resolution, machine: tiers.Machine, rows: list[Row]) -> None:
    """Keep the time of a step on the fastest tier that fitted, for forecasts; of a published size only."""
    best = next((row for row in rows if row.seconds_per_step), None)
    if best is not None and tiers.sizes_of(preset) == PUBLISHED[preset.base]:
        tiers.learn(tiers.lesson_key(preset, resolution, machine), seconds_per_step=best.seconds_per_step)


# ---- on a stand-in


def count(preset: Preset, resolution: Resolution, *, num_blocks: int | None = None) -> list[Row]:
    """Every tier of the published model on a stand-in for a GPU: the peak of what is allocated."""
    layout = untrained.published_layout(preset)
    if num_blocks is not None:
        layout = shortened(layout, num_blocks)
    rows: dict[str, Row] = {}
    by_vae: dict[bool, int] = {}  # what the VAE takes beside the weights, untiled and tiled: the same on every tier
    for first in ("resident", "float8"):
        modules = untrained.empty_modules(layout, torch.bfloat16)
        for module in modules.values():
            hollow(module)
        with stand_in() as meter:
            components = placed(preset, modules, first)
            placement, vae = components.placement, components.codec.vae
            while placement.tier not in rows:
                if vae.use_tiling not in by_vae:
                    by_vae[vae.use_tiling] = vae_peak(components, meter, resolution, preset.num_frames)
                held = meter.restart()
                imitate_passes(components, resolution, preset.num_frames)
                peak = max(meter.peak, held + by_vae[vae.use_tiling])
                rows[placement.tier] = Row(placement.tier, expected=placement.expected.vram_bytes, peak=peak)
                if first == "float8" or placement.go_down() is None:
                    break
    return [rows[tier] for tier in tiers.MEANINGS if tier in rows]


def shortened(layout: untrained.Layout, num_blocks: int) -> untrained.Layout:
    """`layout` with so many blocks in the transformers and both encoders."""
    image = layout.image and layout.image | {"num_hidden_layers": num_blocks + 1}  # its last one is not used
    text = layout.text | {"num_layers": num_blocks}
    return replace(layout, transformer=layout.transformer | {"num_layers": num_blocks}, text=text, image=image)


def placed(preset: Preset, modules: dict[str, torch.nn.Module], tier: TierName) -> Components:
    """Components on the stand-in, which begin on `tier`."""
    machine = tiers.Machine("stand-in", "cuda", free_ram=UNLIMITED, free_vram=UNLIMITED)
    experts = [modules[name] for name in ("transformer", "low_noise_transformer") if name in modules]
    sizes = measure(experts, modules["vae"], modules["text_encoder"], modules.get("image_encoder"))
    asked = preset.model_copy(update={"tier": tier})
    placement = WanPlacement(asked, DEVICE, torch.bfloat16, sizes, machine=lambda: machine)
    parts = wan.Modules(**modules, tokenizer=untrained.build_tokenizer())
    return wan.assemble(parts, device=DEVICE, dtype=torch.bfloat16, placement=placement)


def imitate_passes(components: Components, resolution: Resolution, num_frames: int) -> None:
    """Let text, picture and a latent video go through their parts, as in a clip."""
    text = components.encode_text(["a prompt"], 512).to(components.device, components.dtype)
    picture = None
    if components.encode_image is not None:
        pixels = torch.empty(1, 3, resolution.height, resolution.width, device=components.device)
        picture = components.encode_image(pixels).to(components.dtype)
    shape = ((num_frames - 1) // 4 + 1, resolution.height // 8, resolution.width // 8)
    model_input = torch.empty(1, 36, *shape, dtype=components.dtype, device=components.device)
    for expert in (components.transformer, components.low_noise_transformer):
        if expert is not None:
            components.placement.bring(expert)
            PlainDenoiser(expert, [text], picture)(model_input, 0.5, 0)


def vae_peak(components: Components, meter: Meter, resolution: Resolution, num_frames: int) -> int:
    """Bytes that the VAE takes beside the weights to encode a clip and to decode it."""
    held = meter.restart()
    pixels = torch.empty(1, 3, num_frames, resolution.height, resolution.width, device=components.device)
    latents = components.codec.encode(pixels)
    del pixels
    components.codec.decode(latents)
    return meter.peak - held


# ---- for people


def table(report: dict) -> str:
    """The report as text."""
    measured = report["method"] == "measured"
    how = "measured by torch's allocator" if measured else "counted on a stand-in for a GPU: nothing is computed"
    lines = [
        f"{report['preset']}: {report['clip']}. {report['device']}. Peaks of GPU memory, {how}.",
        "",
        f"{'tier':18}{'expected':>12}{'peak':>12}{'s a step':>12}",
    ]
    for row in report["rows"]:
        lines.append(
            f"{row['tier']:18}{gb(row['expected']):>12}{row['error'] or gb(row['peak']):>12}"
            f"{seconds(row['seconds_per_step']):>12}"
        )
    if report["chosen"]:
        limit = f"With {report['cap_gb']:g} GB: " if report["cap_gb"] else ""
        lines += ["", f"{limit}{report['chosen']}"]
    dry = report.get("dry_walk")
    if dry:
        lines += ["", f"The same tiers as a dry run: {dry['note']}"]
    if dry and dry["rows"]:
        lines.append(f"{'tier':18}{'weights in place':>18}{'process':>12}{'s a step':>12}")
        lines += [
            f"{row['tier']:18}{row['weights'] / 1e6:>15.2f} MB{gb(row['resident_set']):>12}"
            f"{seconds(row['seconds_per_step']):>12}"
            for row in dry["rows"]
        ]
    return "\n".join(lines)


def gb(num_bytes: int | None) -> str:
    return f"{num_bytes / GB:.2f} GB" if num_bytes is not None else ""


def seconds(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else ""
