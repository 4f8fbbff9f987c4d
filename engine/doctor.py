"""Says what this machine can run, without loading a model."""

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

from engine import backends, tiers
from engine.config import Config, load_preset, preset_names
from engine.environment import available_cores
from engine.errors import StudioError
from engine.story.choose import choose
from engine.tiers import Machine

PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "peft", "gradio", "av", "pillow")


def examine(folder: Path, machine: Machine | None = None) -> dict:
    """Python, packages, device, memory, disk at `folder`, the video encoder, and each preset's state.

    machine: what presets are to run on, this one unless given.
    """
    machine = machine or _machine()
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cores": available_cores(),
        "memory_gb": _memory_gb(),
        "disk_free_gb": round(shutil.disk_usage(_existing(folder)).free / 1e9, 1),
        "device": _device(),
        "notes": list(machine.notes),
        "torchvision": _torchvision(),
        "h264_encoder": _h264(),
        "presets": {name: _preset_state(name, machine) for name in preset_names()},
        "drafters": {name: _drafter(name, machine) for name in preset_names()},
    }


def healthy(report: dict) -> bool:
    """True when at least one preset is ready and video can be encoded."""
    return bool(report["h264_encoder"]) and any(p["ready"] for p in report["presets"].values())


def lines(report: dict) -> list[str]:
    """The report as sentences for a terminal."""
    packages = ", ".join(f"{name} {version or 'missing'}" for name, version in report["packages"].items())
    out = [
        f"Python {report['python']} · {packages}",
        f"{report['device']} · {report['cores']} cores · {report['memory_gb']} GB memory · "
        f"{report['disk_free_gb']} GB free on disk",
        f"torchvision: {report['torchvision']} · H.264 encoder: {'yes' if report['h264_encoder'] else 'missing'}",
    ]
    out += report["notes"]
    for name, state in report["presets"].items():
        out.append(f"{'ready  ' if state['ready'] else 'missing'}  {name}: {state['title']}. {state['note']}".rstrip())
        if state["forecast"]:
            if state["forecast"]["tier"]:
                out.append(f"         {_forecast_line(state['forecast'])}")
            out += [f"         {problem}" for problem in state["forecast"]["problems"]]
    return out + _drafter_lines(report["drafters"])


def _drafter_lines(drafters: dict[str, str]) -> list[str]:
    """Who writes storylines, for all presets that have the same drafter in one line."""
    groups: dict[str, list[str]] = {}
    for name, drafter in drafters.items():
        groups.setdefault(drafter, []).append(name)
    return [f"storylines for {', '.join(names)}: {drafter}" for drafter, names in groups.items()]


def _forecast_line(seen: dict) -> str:
    """What a clip takes, in one line."""
    time = f"about {seen['minutes_per_clip']} min a clip ({seen['basis']})"
    parts = [
        f"tier “{seen['tier']}”",
        f"{seen['vram_gb']} GB GPU memory" if seen["vram_gb"] else "no GPU",
        f"{seen['ram_gb']} GB memory",
        f"{seen['disk_gb']} GB disk",
        time if seen["minutes_per_clip"] is not None else "time a clip not known for this machine",
    ]
    return " · ".join(parts)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _device() -> str:
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()} ({free / 1e9:.0f} of {total / 1e9:.0f} GB free)"
    return f"CPU ({platform.machine()}, {sys.platform})"


def _machine() -> Machine:
    """The machine as its tools tell, or its CPU alone where torch finds no GPU, with the reason."""
    seen = tiers.machine_seen()
    try:
        import torch
    except ImportError:
        return seen
    if not seen.has_gpu or torch.cuda.is_available():
        return seen
    notes = tiers.gpu_notes(torch.version.cuda, driver="see nvidia-smi")
    return replace(seen, name="this CPU", kind="cpu", free_vram=0, total_vram=0, compute_capability=None, notes=notes)


def _torchvision() -> str:
    from engine.environment import ensure_torchvision

    try:
        return ensure_torchvision()
    except (RuntimeError, ImportError) as err:
        return f"broken ({type(err).__name__})"


def _h264() -> bool:
    try:
        import av
    except ImportError:
        return False
    return "libx264" in av.codecs_available


def _preset_state(name: str, machine: Machine) -> dict:
    forecast = None
    try:
        preset = load_preset(name)
        if preset.family == "wan":
            forecast = asdict(tiers.forecast(preset, machine, preset.offered_resolutions()[0]))
        backends.fingerprint(preset, next(iter(preset.variants)))
    except StudioError as err:
        return {"ready": False, "title": name, "note": str(err), "forecast": forecast}
    width, height = preset.resolutions[0]
    seconds = preset.num_frames / preset.fps
    return {
        "ready": True,
        "forecast": forecast,
        "title": preset.title,
        "note": f"{seconds:.1f} s a clip, {width}×{height} at {preset.fps} fps. {preset.description}",
    }


def _drafter(name: str, machine: Machine) -> str:
    """Which drafter would be used for the preset called `name`, and why."""
    try:
        choice = choose(Config.load(), load_preset(name), machine)
    except StudioError as err:
        return f"none. {err}"
    return f"{choice.title}. {choice.why} {choice.hint}".rstrip()


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.absolute().parent)
