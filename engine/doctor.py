"""Says what this machine can run, without loading a model."""

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from engine import backends
from engine.config import load_preset, preset_names
from engine.environment import available_cores
from engine.errors import StudioError

PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "peft", "gradio", "av", "pillow")


def examine(folder: Path) -> dict:
    """Python, packages, device, memory, disk at `folder`, the video encoder, and each preset's state."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cores": available_cores(),
        "memory_gb": _memory_gb(),
        "disk_free_gb": round(shutil.disk_usage(_existing(folder)).free / 1e9, 1),
        "device": _device(),
        "torchvision": _torchvision(),
        "h264_encoder": _h264(),
        "presets": {name: _preset_state(name) for name in preset_names()},
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
    for name, state in report["presets"].items():
        out.append(f"{'ready  ' if state['ready'] else 'missing'}  {name}: {state['title']}. {state['note']}".rstrip())
    return out


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


def _preset_state(name: str) -> dict:
    try:
        preset = load_preset(name)
        backends.fingerprint(preset, next(iter(preset.variants)))
    except StudioError as err:
        return {"ready": False, "title": name, "note": str(err)}
    width, height = preset.resolutions[0]
    seconds = preset.num_frames / preset.fps
    return {
        "ready": True,
        "title": preset.title,
        "note": f"{seconds:.1f} s a clip, {width}×{height} at {preset.fps} fps. {preset.description}",
    }


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.absolute().parent)
