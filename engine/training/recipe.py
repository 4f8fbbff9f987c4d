"""What a training run depends on, read once from a YAML file and validated there."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.config import load_preset, read_yaml, validated
from engine.errors import ConfigError
from engine.training.error_bank import Replacement, Storage
from engine.training.recycling import Chances, Reference
from engine.variants import VARIANTS, Variant


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bucket(Settings):
    """One kind of batch: `num_pictures` × `prompts_per_picture` clips of `num_frames` on rows × columns of tiles."""

    grid: tuple[int, int]
    num_frames: int = Field(81, ge=9)
    num_pictures: int = Field(ge=1)
    prompts_per_picture: int = Field(ge=1)
    weight: float = Field(1.0, gt=0)


class Phase(Settings):
    """A stretch of training; the learning rate goes in a straight line between its two values.

    buckets: the batches of the pocket world; a run on videos has none.
    """

    steps: int = Field(ge=1)
    learning_rate: tuple[float, float]
    buckets: tuple[Bucket, ...] = ()


class WorldSettings(Settings):
    """The pocket world: pictures and the exact fields of moves, made on the fly."""

    num_scenes: int = Field(300, ge=1)
    photo_share: float = Field(0.6, ge=0, le=1)
    earlier_moves: tuple[int, ...] = Field((0, 0, 1, 1, 2), min_length=1)  # before a clip begins; drawn from these
    anchored: float = Field(0.0, ge=0, le=1)  # share of clips that see the way back to the picture, as Shot's do


class VideoSettings(Settings):
    """A folder of videos with captions; each window is encoded once and kept on disk."""

    folder: Path
    size: tuple[int, int]  # height, width
    num_frames: int = Field(81, ge=5)
    fps: float | None = Field(None, gt=0)  # None: consecutive frames, as upstream
    windows_per_video: int = Field(1, ge=1)
    anchor: Literal["inside", "outside"] = "inside"  # of the window (SVI 1.0) or anywhere else in the video (2.x)
    anchors_per_window: int = Field(1, ge=1)
    batch_size: int = Field(1, ge=1)
    cache: Path | None = None  # default: latents/ in the output folder

    @model_validator(mode="after")
    def _shapes_fold_into_latents(self) -> "VideoSettings":
        if self.num_frames % 4 != 1:
            raise ValueError(f"num_frames must be 4n+1, got {self.num_frames}")
        if any(side % 16 for side in self.size):
            raise ValueError(f"the sides of size must be multiples of 16, got {list(self.size)}")
        return self


class TransformerSettings(Settings):
    num_heads: int = Field(6, ge=1)
    num_layers: int = Field(4, ge=1)
    ffn_dim: int = Field(640, ge=1)
    text_dim: int = Field(96, ge=8)
    text_layers: int = Field(2, ge=1)
    text_tokens: int = Field(16, ge=4)


class NewModel(Settings):
    """A pocket model from scratch."""

    transformer: TransformerSettings = TransformerSettings()


class LoraSettings(Settings):
    """Low-rank changes of a finished model. targets and init as published: every attention and feed-forward layer,
    A Kaiming-uniform and B zero."""

    preset: str  # a name, or the path of a preset file
    rank: int = Field(128, ge=1)
    alpha: float | None = Field(None, gt=0)  # None: equal to rank
    start: Path | None = None  # a LoRA to go on from


class BankRecipe(Settings):
    num_grids: int = Field(50, ge=1)
    capacity: int = Field(500, ge=1)
    storage: Storage = "bfloat16"
    replacement: Replacement = "most_similar"
    pooling: int = Field(1, ge=1)
    on_disk: bool = False
    fit: bool = False  # less, in 8 bits or on disk, when this machine has no room for what is asked
    budget_gb: float | None = Field(None, gt=0)  # None: half of the free memory, or disk, of this machine


class Recycling(Settings):
    """Which errors are injected how often, and what is kept (arXiv 2510.09212 §4, upstream's arguments)."""

    noise: float = Field(0.01, ge=0, le=1)
    latents: float = Field(0.9, ge=0, le=1)
    image: float = Field(0.9, ge=0, le=1)
    clean: float = Field(0.5, ge=0, le=1)
    clean_update: float = Field(0.1, ge=0, le=1)
    image_frames: int = Field(3, ge=1)
    image_from: Literal["all", "nearest", "noise"] = "all"  # every grid, the sample's own, or that of pure noise
    image_window: Literal["any", "last"] = "any"
    image_draws: int = Field(1, ge=1)  # up to so many errors are added up, as clips in a row do; 1 in the paper
    keep: Literal["all", "clean condition"] = "all"  # what goes to the banks; sums want errors of single clips
    modulate: float = Field(0.0, ge=0, le=1)
    reference: Reference = "recycled"
    warmup_steps: int = Field(50, ge=0)
    bank: BankRecipe = BankRecipe()

    @property
    def chances(self) -> Chances:
        return Chances(self.noise, self.latents, self.image, self.clean)


class Samples(Settings):
    """Films made while training: every `every` steps a chain of `clips`, written as a contact sheet."""

    every: int = Field(100, ge=1)
    clips: int = Field(4, ge=1)
    long_clips: int = Field(0, ge=0)  # of the last sample
    num_inference_steps: int | None = None


class TrainingConfig(Settings):
    """Everything a run depends on. Paths are relative to the working directory."""

    output: Path
    publish_to: Path | None = None
    seed: int = 0
    variant: Literal["shot", "film"]
    new_model: NewModel | None = None
    lora: LoraSettings | None = None
    world: WorldSettings | None = None
    videos: VideoSettings | None = None
    recycling: Recycling | None = None
    phases: tuple[Phase, ...] = Field(min_length=1)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float = Field(1.0, gt=0)
    gradient_accumulation: int = Field(1, ge=1)
    gradient_checkpointing: bool = False
    precision: Literal["no", "bf16"] = "no"
    ema: float = Field(0.0, ge=0, lt=1)  # 0: no running average
    motion_frames_probability: float = Field(0.9, ge=0, le=1)  # else one condition frame, when the variant has more
    pure_noise: float = Field(0.0, ge=0, le=1)
    shift: float = Field(5.0, gt=0)
    last_frame_weight: float = Field(1.0, gt=0)
    evaluate_every: int = Field(250, ge=1)
    evaluate_size: tuple[int, int] = (64, 96)
    evaluate_clips: int = Field(12, ge=1)
    log_every: int = Field(20, ge=1)
    checkpoint_every_s: float = Field(120.0, gt=0)
    samples: Samples | None = None

    @model_validator(mode="after")
    def _one_model_and_one_material(self) -> "TrainingConfig":
        if (self.new_model is None) == (self.lora is None):
            raise ValueError("give either new_model or lora")
        if (self.world is None) == (self.videos is None):
            raise ValueError("give either world or videos")
        if self.new_model and (self.videos or self.recycling):
            raise ValueError("a new model is trained on the world and without errors; those enter with its LoRAs")
        if self.world and not all(phase.buckets for phase in self.phases):
            raise ValueError("every phase needs buckets when it trains on the world")
        return self

    @cached_property
    def row(self) -> Variant:
        """How films of this variant are made with the model that the LoRA is for: it is trained like that.

        Raises `ConfigError` where one LoRA would not do.
        """
        if self.lora is None:
            return VARIANTS[self.variant]
        preset = load_preset(self.lora.preset)
        row = preset.variant(self.variant)
        if row.boundary is not None:
            raise ConfigError(
                f"“{preset.title}” shares a clip between two experts, and a LoRA is trained for one model only.",
                "Choose a preset on Wan 2.1, such as svi-1 or svi-2.",
            )
        return row

    @property
    def num_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[Phase, float]:
        """The phase of `step` and the share of it that is done."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step / phase.steps
            step -= phase.steps
        return self.phases[-1], 1.0

    def learning_rate(self, step: int) -> float:
        phase, done = self.phase_at(step)
        start, end = phase.learning_rate
        return (start + done * (end - start)) * min(1.0, (step + 1) / max(self.warmup_steps, 1))


def read_recipe(path: Path, changes: Sequence[str] = ()) -> TrainingConfig:
    """The recipe in `path` with `changes` such as "recycling.image=0" or "recycling=null", whose values are YAML.

    What is wrong is said in one sentence (`ConfigError`).
    """
    data = read_yaml(path)
    for change in changes:
        _set(data, change)
    return validated(TrainingConfig, data, f"recipe {path.name}")


def _set(data: dict, change: str) -> None:
    key, equals, value = change.partition("=")
    *folders, last = key.split(".")
    for folder in folders:
        data = data.setdefault(folder, {}) if isinstance(data, dict) else None
    if not equals or not isinstance(data, dict):
        raise ConfigError(f"“{change}” is not a change of a recipe.", "Write it as key=value, or part.key=value.")
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as err:
        raise ConfigError(f"The value in “{change}” is not valid YAML.") from err
