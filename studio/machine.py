"""What runs on this machine, and what it takes: the panel beside the film, as plain data, before anything is loaded.

The worker looks at the machine; `engine.tiers` does the arithmetic. A figure is measured, computed, or not given.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from engine import backends, tiers
from engine.config import Preset, models_dir, preset_names
from engine.domain import Resolution
from engine.errors import StudioError
from engine.tiers import GB, Activations, Forecast, Machine
from engine.weights.inventory import bytes_missing, in_words, items, state_of
from engine.weights.lock import read_lock
from engine.weights.needs import check_present, needs_of
from studio.feed import Paces
from studio.words import eta_text, steps_text

FULL_SIZE = 2 * GB  # of one expert: a smaller one computes on a CPU as well
POCKET_COMMAND = "python app.py"
Row = tuple[str, str]


@dataclass(frozen=True)
class Sized:
    """What one size of film takes here: rows of the panel, and one sentence each for what stands in the way."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...] = ()


def panel(preset: Preset, machine: Machine | None, paces: Paces, *, preset_file: str = "") -> dict[str, Any]:
    """Everything the page says about model and machine. machine: None until the worker has looked.

    preset_file: how the operator named the preset, where it is a file of theirs.
    """
    lacking = missing(preset, preset_file)
    sizes = offered_sizes(preset)
    return {
        "known": machine is not None,
        "about": about(preset),
        "sizes": {name: asdict(sized(preset, machine, paces, shapes[0])) for name, shapes in sizes.items()},
        "missing": lacking,
        "without_gpu": without_gpu(preset, machine, preset_file) if machine and not preset.random_weights else None,
        "welcome": welcome(lacking),
    }


def offered_sizes(preset: Preset) -> dict[str, tuple[Resolution, ...]]:
    """The sizes that films can have, one for each shape of picture: sd, and hd where the model was trained on it."""
    large = {"hd": preset.offered_resolutions(hd=True)} if preset.hd_resolutions else {}
    return {"sd": preset.offered_resolutions()} | large


def about(preset: Preset) -> str:
    """What the model is for, and what its clips are."""
    size, seconds = preset.offered_resolutions()[0], preset.num_frames / preset.fps
    clips = f"Clips are {size} or the nearest shape to your picture, {seconds:.1f} s each."
    return f"{preset.description} {clips}".strip()


def sized(preset: Preset, machine: Machine | None, paces: Paces, resolution: Resolution) -> Sized:
    if machine is None:
        return Sized((("Model", preset.title), ("Runs on", "looking at this machine…")))
    rows = [("Model", preset.title), ("Runs on", device_text(machine))]
    if preset.random_weights or not is_full_size(preset):
        random = [("Weights", "random, as large as this machine holds")] if preset.random_weights else []
        return Sized((*rows, *random, *time_rows(preset, paces, resolution)), machine.notes)
    try:
        expected = tiers.forecast(preset, machine, resolution)
    except StudioError:  # the models folder cannot be read, which `missing` says
        return Sized((*rows, *time_rows(preset, paces, resolution)), machine.notes)
    times = time_rows(preset, paces, resolution, expected)
    return Sized(
        (*rows, *needs_rows(expected, machine), *times), tuple(dict.fromkeys(expected.problems + machine.notes))
    )


def is_full_size(preset: Preset) -> bool:
    return preset.family == "wan" and tiers.sizes_of(preset).expert >= FULL_SIZE


def device_text(machine: Machine) -> str:
    """For example “NVIDIA H200, 150 GB, compute capability 9.0”."""
    if not machine.has_gpu:
        return machine.name
    parts = [machine.name, f"{tiers.in_gb(machine.total_vram)} GB"]
    if machine.compute_capability:
        parts.append(f"compute capability {'.'.join(map(str, machine.compute_capability))}")
    return ", ".join(parts)


def needs_rows(expected: Forecast, machine: Machine) -> list[Row]:
    """What full size takes, beside what was free when the worker looked."""
    rows = [("Memory tier", f"{expected.tier}: {tiers.MEANINGS[expected.tier]}")] if expected.tier else []
    if machine.has_gpu:
        rows.append(("GPU memory", f"about {expected.vram_gb:g} GB; {tiers.in_gb(machine.free_vram)} GB were free"))
    rows.append(("Host memory", f"about {expected.ram_gb:g} GB; {tiers.in_gb(machine.free_ram)} GB were free"))
    return [*rows, *([("Disk", f"about {expected.disk_gb:g} GB for the weights")] if expected.disk_gb else [])]


def time_rows(preset: Preset, paces: Paces, resolution: Resolution, expected: Forecast | None = None) -> list[Row]:
    """What a clip takes in full quality, and as a draft: measured here, else computed, else not known."""
    steps = preset.num_inference_steps
    full_s = paces.at(preset.name, resolution, steps).clip_s(steps)
    rows = [(f"A clip of {steps_text(steps)}", time_text(full_s, expected))]
    if preset.draft:
        steps = preset.draft.num_inference_steps
        draft_s = paces.at(preset.name, resolution, steps, draft=True).clip_s(steps)
        rows.append((f"A draft of {steps_text(steps)}", time_text(draft_s)))
    return rows


def time_text(measured_s: float | None, expected: Forecast | None = None) -> str:
    if measured_s is not None:
        return f"{eta_text(measured_s)}, measured here"
    if expected is None or expected.minutes_per_clip is None:
        return "not measured yet"
    basis = "measured here" if expected.basis == "measured" else "computed from the card’s speed"
    return f"{eta_text(60 * expected.minutes_per_clip)}, {basis}"


# Weights that are not here


def missing(preset: Preset, preset_file: str = "") -> dict[str, str] | None:
    """Which weights are not here and the command that fetches them, or None when all are."""
    if preset.random_weights:
        return None
    models = models_dir()
    try:
        lock, needs = read_lock(models), needs_of(preset)
        files = items(needs.wanted, models, lock)
        lacking = [item for item in files if state_of(item, models, lock) not in ("ready", "unverified")]
        absent = [path for path in needs.unknown if not (models / path).exists()]
    except StudioError as err:
        return {"text": str(err), "command": "", "only_drafts": ""}
    if not lacking and not absent:
        return None
    titles = list(dict.fromkeys(item.entry.title for item in lacking)) + absent
    text = f"Not here yet: {'; '.join(titles)}"
    if lacking:
        size, how_sure = bytes_missing(lacking)
        text += f" ({how_sure} {in_words(size)})".replace("exactly ", "")
    command = f"python -m engine weights download --preset {name_for_commands(preset, preset_file)}" if lacking else ""
    only_drafts = "Full quality can be made without: only drafts need it." if can_render(preset) else ""
    return {"text": f"{text}.", "command": command, "only_drafts": only_drafts}


def can_render(preset: Preset) -> bool:
    """Whether every kind of film can be made in full quality with the weights that are here."""
    try:
        for variant in preset.variants:
            check_present(preset, variant)
    except StudioError:
        return False
    return True


def why_not(preset: Preset, variant: str) -> str:
    """Why no film of this kind can be made with `preset` here, in words and with the command that helps, or ""."""
    try:
        preset.variant(variant)
        backends.fingerprint(preset, variant)
    except StudioError as err:
        return str(err)
    return ""


def name_for_commands(preset: Preset, preset_file: str) -> str:
    """What stands after --preset: a name that ships, else the operator's file."""
    return preset.name if preset.name in preset_names() or not preset_file else preset_file


def welcome(lacking: dict[str, str] | None) -> str:
    """What is said beside the first button, before there is a film."""
    if lacking and not lacking["only_drafts"]:
        return "The weights are not here yet: you can draft a storyline, and generate once they are. See below."
    return ""


# No GPU


def without_gpu(preset: Preset, machine: Machine, preset_file: str = "") -> dict[str, Any] | None:
    """What a full-size model needs, and what this machine can do instead; None where there is nothing to say."""
    if machine.has_gpu or not is_full_size(preset):
        return None
    disk = 0
    with suppress(StudioError):
        disk = tiers.disk_needs(preset)[0]
    rows = tier_rows(preset)
    try_it = f"python app.py --preset {name_for_commands(preset, preset_file)} --random-weights"
    return {
        "title": f"{preset.title} needs a GPU",
        "text": f"PyTorch finds none here. It runs from {rows[0][0]} of GPU memory up; more is quicker.",
        "tiers": rows,
        "basis": "Computed, not measured." + (f" The weights take about {in_words(disk)} of disk." if disk else ""),
        "ways": [
            {"text": "Meanwhile the pocket model makes films on this computer:", "command": POCKET_COMMAND},
            {"text": "To try this page without weights, with noise for pictures:", "command": try_it},
        ],
    }


def tier_rows(preset: Preset) -> list[tuple[str, str, str]]:
    """GPU memory, host memory and way of the tiers, the smallest first; none that takes more than a quicker one."""
    work = Activations.of(preset.offered_resolutions()[0], preset.num_frames, branches=preset.branches)
    sizes = tiers.sizes_of(preset)
    rungs = [
        *tiers.ladder(sizes, work),
        *(tiers.ladder(sizes, work, in_8_bits=True)[:1] if sizes.expert_in_8_bits else ()),
    ]
    kept: list[tiers.Tier] = []
    for rung in rungs:
        if all(rung.vram_bytes < other.vram_bytes or rung.ram_bytes < other.ram_bytes for other in kept):
            kept.append(rung)
    kept.sort(key=lambda rung: (rung.vram_bytes, -rung.ram_bytes))
    return [(f"{tiers.in_gb(one.vram_bytes)} GB", f"{tiers.in_gb(one.ram_bytes)} GB", one.meaning) for one in kept]
