"""The arms of the drift benchmark: every way in which the same films are made, and which of them can be made here."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine import backends
from engine.config import Preset, VariantPreset
from engine.domain import Resolution
from engine.errors import ConfigError
from engine.pocket import render, world
from engine.variants import VARIANTS, Variant

VERSION = 3  # raised when the same settings give other numbers
Role = Literal[
    "exact",
    "perfect",
    "composed",
    "base",
    "control",
    "erft",
    "strength",
    "ablation",
    "copy clips",
    "ping-pong",
    "copy image",
]
EXACT: tuple[Role, ...] = ("exact", "perfect")  # true moves, no model: composed, and handed over by frames
COMPOSED: tuple[Role, ...] = ("exact", "composed")  # the others hand over frames
FOOLING: tuple[Role, ...] = ("copy clips", "ping-pong", "copy image")  # of the paper's Table 5


@dataclass(frozen=True)
class Settings:
    """What is measured. Chains, seeds and arms may be added to a folder later; the rest may not change."""

    num_clips: int
    num_chains: int
    num_seeds: int
    size: Resolution
    num_inference_steps: int
    num_frames: int = 25
    variants: tuple[str, ...] = tuple(VARIANTS)
    loras: Path | None = None
    strengths: tuple[float, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One way to make the films. `weights` names the LoRA file by its content, and its strength; empty without one."""

    name: str
    role: Role
    variant: Variant
    lora: Path | None = None
    strength: float = 1.0
    weights: str = ""

    @property
    def needs_model(self) -> bool:
        return self.role not in (*EXACT, *FOOLING)

    @property
    def is_composed(self) -> bool:
        return self.role in COMPOSED

    @property
    def label(self) -> str:
        """The name without its variant."""
        return self.name.removeprefix(f"{self.variant.name} ")


def find_arms(preset: Preset, settings: Settings) -> tuple[list[Arm], dict[str, str]]:
    """The arms that can be measured, and those that cannot, with the reason."""
    arms: list[Arm] = []
    missing: dict[str, str] = {}
    for name in settings.variants:
        variant = preset.method_row(name)
        arms += [plain(variant, role) for role in (*EXACT, "composed", "base")]
        for label, role, file, strength in loras_of(preset, settings, name):
            if not file.is_file():
                missing[f"{name} {label}"] = f"there is no {file.name}"
                continue
            weights = f"{hashlib.sha256(file.read_bytes()).hexdigest()[:16]} × {strength:g}"
            arms.append(Arm(f"{name} {label}", role, variant, file, strength, weights))
        arms += [plain(variant, role) for role in FOOLING]
    return arms, missing


def plain(variant: Variant, role: Role) -> Arm:
    """An arm without a LoRA."""
    return Arm(f"{variant.name} {role}", role, variant)


def loras_of(preset: Preset, settings: Settings, variant: str) -> list[tuple[str, Role, Path, float]]:
    """Label, role, file and strength of every arm of `variant` that needs a LoRA, whether its file exists or not.

    The variant's own is the preset's, or the one beside the model that is named as it. The control is trained like it,
    on the same data, without errors. All are for frames that are handed over.
    """
    beside, strength = preset.path(preset.model) / "loras", preset.variants[variant].lora_strength
    lora, control = preset.lora(variant) or beside / f"{variant}.safetensors", beside / f"{variant}-control.safetensors"
    folder = settings.loras
    if folder and not folder.is_dir():
        raise ConfigError(f"There is no folder {folder.name}/.", "Name a folder of LoRAs: --loras DIR.")
    others = sorted(folder.glob(f"{variant}-*.safetensors")) if folder else []
    return [
        ("control", "control", control, 1.0),
        ("erft", "erft", lora, strength),
        *((f"erft × {other:g}", "strength", lora, other) for other in settings.strengths if other != strength),
        *((file.stem.removeprefix(f"{variant}-"), "ablation", file, 1.0) for file in others if file != control),
    ]


def describe(preset: Preset, settings: Settings) -> dict:
    """Everything that a figure depends on besides the LoRA, the seed and the chain; plain values."""
    bare = preset.model_copy(update={"variants": {name: VariantPreset() for name in preset.variants}})
    return {
        "version": VERSION,
        "preset": preset.name,
        "weights": backends.fingerprint(bare, next(iter(bare.variants))),
        "world": hashlib.sha256(repr((world.LIGHTS, world.CAMERAS, world.LITTLE)).encode()).hexdigest(),
        "renderer": render.VERSION,
        "clips": settings.num_clips,
        "size": str(settings.size),
        "frames": settings.num_frames,
        "steps": settings.num_inference_steps,
        "sampling": [preset.shift, preset.guidance_scale, preset.dtype, preset.uint8],
    }
