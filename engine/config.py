"""Settings, validated once at the edge and passed inward as objects.

Order of precedence: defaults here < `assets/presets/<name>.yaml` < environment (`SVI_*`) < flags.
"""

import os
from pathlib import Path
from typing import Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from engine.domain import Resolution, nearest_resolution
from engine.errors import ConfigError, nearest
from engine.variants import VARIANTS, Variant

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
PRESETS = ASSETS / "presets"
MAX_YAML_BYTES = 256_000
Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VariantPreset(Settings):
    """What a preset adds to a variant: the LoRA that makes the base model an SVI model."""

    lora: str | None = None
    lora_strength: float = Field(1.0, ge=0.0, le=1.5)


class ComponentPaths(Settings):
    """Folders in diffusers layout that replace the sub-folder of the same name under `model`."""

    transformer: str | None = None
    vae: str | None = None
    text_encoder: str | None = None
    tokenizer: str | None = None
    image_encoder: str | None = None


class Preset(Settings):
    """A model and its sampling settings. Paths are relative to the YAML file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    title: str
    description: str = ""
    family: Literal["pocket", "wan"]
    model: str
    components: ComponentPaths = ComponentPaths()
    variants: dict[str, VariantPreset] = {"shot": VariantPreset(), "film": VariantPreset()}
    num_frames: int = Field(81, ge=9)
    fps: int = Field(16, ge=1, le=60)
    resolutions: tuple[tuple[int, int], ...] = Field(((832, 480), (480, 832)), min_length=1)
    num_inference_steps: int = Field(50, ge=1, le=200)
    quality: dict[Literal["fast", "balanced", "best"], int] = {}
    guidance_scale: float = Field(5.0, ge=0.0, le=30.0)
    shift: float = Field(5.0, gt=0.0)
    negative_prompt: str = ""
    max_sequence_length: int = Field(512, ge=1, le=1024)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    uint8: Literal["round", "floor"] = "round"
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("num_frames")
    @classmethod
    def _frames_fold_into_latents(cls, value: int) -> int:
        if value % 4 != 1:
            raise ValueError(f"must be 4n+1, for example {value // 4 * 4 + 1}; got {value}")
        return value

    @field_validator("resolutions")
    @classmethod
    def _sides_are_multiples_of_16(cls, value: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        for width, height in value:
            if width % 16 or height % 16 or width < 16 or height < 16:
                raise ValueError(f"sides must be multiples of 16; got {width}×{height}")
        return value

    @field_validator("variants")
    @classmethod
    def _variants_exist(cls, value: dict[str, VariantPreset]) -> dict[str, VariantPreset]:
        for name in value:
            if name not in VARIANTS:
                raise ValueError(f"unknown variant “{name}”. {nearest(name, list(VARIANTS))}")
        return value

    def path(self, text: str) -> Path:
        return (self.folder / text).resolve()

    def component(self, name: str) -> Path:
        """The folder of one component: its own entry, else the sub-folder of `model`."""
        own = getattr(self.components, name)
        return self.path(own) if own else self.path(self.model) / name

    def variant(self, name: str) -> Variant:
        if name not in self.variants:
            raise ConfigError(f"The preset “{self.name}” has no variant “{name}”.", nearest(name, list(self.variants)))
        return VARIANTS[name]

    def lora(self, variant: str) -> Path | None:
        lora = self.variants[variant].lora
        return self.path(lora) if lora else None

    def offered_resolutions(self) -> tuple[Resolution, ...]:
        return tuple(Resolution(width, height) for width, height in self.resolutions)

    def resolution_for(self, width: int, height: int) -> Resolution:
        return nearest_resolution(width, height, self.offered_resolutions())


class Config(Settings):
    """What the operator of the studio decides."""

    data_dir: Path = Path("projects")
    preset: str = "pocket"
    reserve_bytes: int = Field(500_000_000, ge=0)
    max_clips_per_request: int = Field(200, ge=1, le=1000)
    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=1, le=65535)
    public: bool = False

    @classmethod
    def load(cls, **flags: object) -> "Config":
        """Defaults, then `SVI_DATA_DIR`, `SVI_PRESET`, …, then the flags that are not None."""
        values: dict[str, object] = {
            name: os.environ[f"SVI_{name.upper()}"] for name in cls.model_fields if f"SVI_{name.upper()}" in os.environ
        }
        values |= {name: value for name, value in flags.items() if value is not None}
        return validated(cls, values, "the settings")


def validated(model: type[Model], data: object, source: str) -> Model:
    """`model` built from `data`; the first problem becomes one `ConfigError` that names the key and the nearest one."""
    try:
        return model.model_validate(data)
    except ValidationError as err:
        first = err.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        if first["type"] == "extra_forbidden":
            known = _settings_at(model, first["loc"][:-1]).model_fields
            hint = nearest(str(first["loc"][-1]), [name for name in known if name != "folder"])
            raise ConfigError(f"Unknown key “{key}” in {source}.", hint) from err
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"“{key}” in {source} is wrong: {reason}.") from err


def _settings_at(model: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel]:
    """The settings that hold the key at `location` of `model`, through lists, mappings and optional parts."""
    for name in location:
        if name in model.model_fields:
            parts = [model.model_fields[name].annotation]
            while parts and not (isinstance(parts[0], type) and issubclass(parts[0], BaseModel)):
                parts = [*parts[1:], *get_args(parts[0])]
            model = parts[0] if parts else model
    return model


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file; missing, oversized or malformed files raise `ConfigError`."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(f"{path.name} is larger than {MAX_YAML_BYTES // 1000} kB: that is not a settings file.")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ConfigError(f"There is no file {path.name}.", "Check the path.") from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path.name} could not be read ({type(err).__name__}).") from err
    except RecursionError as err:
        raise ConfigError(f"{path.name} is nested too deeply.") from err
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path.name} is not valid YAML{where}.") from err
    if not isinstance(data, dict):
        raise ConfigError(f"{path.name} must hold “key: value” lines.")
    return data


def preset_names() -> list[str]:
    """Presets that ship with the studio (training recipes and launcher settings are not presets)."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml") if not p.stem.startswith(("train-", "accelerate-")))


def load_preset(name: str) -> Preset:
    """The preset called `name`, or the one in the YAML file of that path."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        bases = {base.stem: base for base in (PRESETS / "models").glob("*.yaml")}  # to train on, not to offer
        path = bases.get(name, PRESETS / f"{name}.yaml")
        if name not in (*bases, *preset_names()):
            raise ConfigError(f"There is no preset “{name}”.", nearest(name, preset_names()))
    data = read_yaml(path)
    data.setdefault("name", path.stem.lower())
    return validated(Preset, data | {"folder": path.resolve().parent}, f"preset {path.name}")
