"""Settings, validated once at the edge and passed inward as objects.

Order of precedence: defaults here < `assets/presets/<name>.yaml` < environment (`SVI_*`) < flags.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from engine.domain import Resolution, nearest_resolution
from engine.errors import ConfigError, nearest
from engine.variants import METHODS, VARIANTS, Base, Variant, composed, trained_for

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
PRESETS = ASSETS / "presets"
MAX_YAML_BYTES = 256_000
MODELS_PREFIX = "models:"  # models:owner/name/path is a file or folder of that Hub repository in the models folder
RANDOM_WEIGHTS = "random weights"  # said of every result that no trained model made
TierName = Literal["resident", "text on host", "experts in turn", "streamed", "float8", "leaves", "tiled"]
Handover = Literal["frames", "composed"]
Drafter = Literal["auto", "template", "qwen", "endpoint"]
INEXACT_TIERS: tuple[TierName, ...] = ("float8", "tiled")
LOSSY = ("first block", "pyramid", "magcache", "taylor", "sage")  # caches, and attention in 8 bits
Model = TypeVar("Model", bound=BaseModel)


def models_dir() -> Path:
    """Where downloaded weights lie: `SVI_MODELS_DIR`, else models/ beside the studio."""
    return Path(os.environ.get("SVI_MODELS_DIR") or ROOT / "models")


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraPreset(Settings):
    """A LoRA fused beside the variant's own, with the strength for each expert of the model."""

    lora: str
    low_noise_lora: str | None = None
    strength: float = Field(1.0, ge=0.0, le=1.5)
    low_noise_strength: float = Field(1.0, ge=0.0, le=1.5)


class VariantPreset(Settings):
    """What a preset adds to a variant: the published method and the LoRA that makes the base an SVI model."""

    method: str | None = None
    lora: str | None = None
    low_noise_lora: str | None = None
    lora_strength: float = Field(1.0, ge=0.0, le=1.5)
    extra_loras: tuple[LoraPreset, ...] = ()


class DraftPreset(Settings):
    """Few-step sampling with distilled LoRAs; their steps, shift and guidance belong together."""

    num_inference_steps: int = Field(4, ge=1, le=16)
    guidance_scale: float = Field(1.0, ge=0.0, le=30.0)
    shift: float = Field(5.0, gt=0.0)
    loras: tuple[LoraPreset, ...] = Field(min_length=1)


@dataclass(frozen=True)
class LoraChoice:
    """One LoRA for one expert. `own`: the variant's, which must adapt every layer; the project sets its strength."""

    path: Path
    strength: float
    own: bool


class ComponentPaths(Settings):
    """Folders in diffusers layout that replace the sub-folder of the same name under `model`."""

    transformer: str | None = None
    transformer_2: str | None = None
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
    base: Base = "wan2.1"
    model: str
    components: ComponentPaths = ComponentPaths()
    variants: dict[str, VariantPreset] = {"shot": VariantPreset(), "film": VariantPreset()}
    num_frames: int = Field(81, ge=9)
    fps: int = Field(16, ge=1, le=60)
    resolutions: tuple[tuple[int, int], ...] = Field(((832, 480), (480, 832)), min_length=1)
    hd_resolutions: tuple[tuple[int, int], ...] = ()
    num_inference_steps: int = Field(50, ge=1, le=200)
    quality: dict[Literal["fast", "balanced", "best"], int] = {}
    guidance_scale: float = Field(5.0, ge=0.0, le=30.0)
    shift: float = Field(5.0, gt=0.0)
    draft: DraftPreset | None = None
    negative_prompt: str = ""
    max_sequence_length: int = Field(512, ge=1, le=1024)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gpus: int = Field(1, ge=1, le=8)
    tier: TierName | Literal["auto"] = "auto"
    attention: Literal["auto", "native", "flash", "flash_3", "sage", "flex", "xformers"] = "auto"
    compile: bool = False
    cache: Literal["none", "first block", "pyramid", "magcache", "taylor"] = "none"
    cfg: Literal["in turn", "batched"] = "in turn"
    lossy: bool = False
    uint8: Literal["round", "floor"] = "round"
    handover: Handover = "frames"  # composed: a clip is drawn from the picture, through all moves since (pocket only)
    random_weights: bool = False
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("num_frames")
    @classmethod
    def _frames_fold_into_latents(cls, value: int) -> int:
        if value % 4 != 1:
            raise ValueError(f"must be 4n+1, for example {value // 4 * 4 + 1}; got {value}")
        return value

    @field_validator("resolutions", "hd_resolutions")
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

    @model_validator(mode="after")
    def _parts_belong_together(self) -> "Preset":
        for name, entry in self.variants.items():
            row = self.method_row(name)
            if row.name != name:
                raise ValueError(f"“{row.method}” makes a {row.name}, not a {name}")
            if self.family == "wan" and row.base != self.base:
                raise ValueError(f"“{row.method}” was trained on {row.base}, and this preset's base is {self.base}")
            if self.shift != row.shift:
                raise ValueError(f"“{row.method}” was trained with shift {row.shift:g}; got {self.shift:g}")
            self._check_loras(row, entry)
        return self

    @model_validator(mode="after")
    def _shortcuts_are_wanted(self) -> "Preset":
        """A shortcut that makes other pictures than the model would needs the word of who writes the preset."""
        for key, value in (("cache", self.cache), ("attention", self.attention)):
            if value in LOSSY and not self.lossy:
                raise ValueError(f"`{key}: {value}` makes other pictures than the model does; add `lossy: true`")
        if self.handover == "composed" and self.family != "pocket":
            raise ValueError("`handover: composed` needs a model that draws from the picture, which is the pocket's")
        if self.cache == "magcache" and (self.family != "wan" or self.base != "wan2.1"):
            raise ValueError("`cache: magcache` has figures for Wan 2.1 at 480p only")
        if self.cache != "none" and self.gpus > 1:
            raise ValueError(f"`cache: {self.cache}` needs one GPU: each would skip other steps")
        return self

    def _check_loras(self, row: Variant, entry: VariantPreset) -> None:
        """Refuse a published LoRA where another row's, or the other expert's, belongs."""
        for key, expert in (("lora", "high"), ("low_noise_lora", "low")):
            path = getattr(entry, key)
            if path and key == "low_noise_lora" and row.boundary is None:
                raise ValueError(f"“{row.method}” has one expert: there is no place for `{key}`")
            known = trained_for(Path(path).name) if path else None
            if known and known[0].method != row.method:
                raise ValueError(
                    f"{Path(path).name} is the LoRA of “{known[0].method}” ({known[0].base}, "
                    f"{known[0].num_motion_frames} motion frames); this entry is “{row.method}”"
                )
            if known and known[1] != expert:
                raise ValueError(f"{Path(path).name} is for the {known[1]}-noise expert: the two LoRAs are swapped")
        if row.boundary is not None and bool(entry.lora) != bool(entry.low_noise_lora):
            raise ValueError(f"“{row.method}” has two experts: give both `lora` and `low_noise_lora`, or neither")

    def method_row(self, variant: str) -> Variant:
        """The row that makes `variant` here: the one its entry names, else the variant's first published one."""
        method = self.variants[variant].method or VARIANTS[variant].method
        if method not in METHODS:
            raise ValueError(f"unknown method “{method}”. {nearest(method, list(METHODS))}")
        return METHODS[method]

    @property
    def branches(self) -> int:
        """How many branches of guidance one pass of the transformer computes."""
        return 2 if self.cfg == "batched" and self.guidance_scale != 1.0 else 1

    def shortcuts(self) -> dict[str, str | bool]:
        """What is set of the keys that change the pixels, be it by rounding only."""
        set_keys = {name: getattr(self, name) for name in ("attention", "compile", "cache", "cfg")}
        changed = {name: value for name, value in set_keys.items() if value != Preset.model_fields[name].default}
        return changed | ({"tier": self.tier} if self.tier in INEXACT_TIERS else {})

    def path(self, text: str) -> Path:
        """A path as written in the preset: `models:owner/name/…` lies in the models folder, others beside the file."""
        if text.startswith(MODELS_PREFIX):
            return Path(os.path.abspath(models_dir() / text.removeprefix(MODELS_PREFIX)))
        return Path(os.path.abspath(self.folder / text))  # a link keeps its own name, which tells what it is

    def component(self, name: str) -> Path:
        """The folder of one component: its own entry, else the sub-folder of `model`."""
        own = getattr(self.components, name)
        return self.path(own) if own else self.path(self.model) / name

    def variant(self, name: str) -> Variant:
        if name not in self.variants:
            raise ConfigError(f"The preset “{self.name}” has no variant “{name}”.", nearest(name, list(self.variants)))
        row = self.method_row(name)
        return composed(row) if self.handover == "composed" else row

    def lora(self, variant: str) -> Path | None:
        lora = self.variants[variant].lora
        return self.path(lora) if lora else None

    def loras(self, variant: str, expert: Literal["high", "low"], *, strength: float, draft: bool) -> list[LoraChoice]:
        """What is fused into one expert: the variant's LoRA at `strength`, the extra ones, and a draft's own."""
        entry, low = self.variants[variant], expert == "low"
        own = entry.low_noise_lora if low else entry.lora
        chosen = [LoraChoice(self.path(own), strength, own=True)] if own and strength else []
        for extra in (*entry.extra_loras, *(self.draft.loras if draft and self.draft else ())):
            path, amount = (extra.low_noise_lora, extra.low_noise_strength) if low else (extra.lora, extra.strength)
            if path and amount:
                chosen.append(LoraChoice(self.path(path), amount, own=False))
        return chosen

    def offered_resolutions(self, *, hd: bool = False) -> tuple[Resolution, ...]:
        """The sizes of films: `hd` asks for the large ones, which not every base was trained on."""
        if hd and not self.hd_resolutions:
            raise ConfigError(f"The preset “{self.name}” has no large sizes.", "Its base was not trained on them.")
        return tuple(Resolution(*size) for size in (self.hd_resolutions if hd else self.resolutions))

    def resolution_for(self, width: int, height: int, *, hd: bool = False) -> Resolution:
        """The offered size whose shape is nearest to a picture's; its own height is never taken over: upstream limits
        the width only, and a tall picture then gets far from what the model was trained on."""
        return nearest_resolution(width, height, self.offered_resolutions(hd=hd))


class Config(Settings):
    """What the operator of the studio decides."""

    data_dir: Path = Path("projects")
    preset: str = "pocket"
    reserve_bytes: int = Field(500_000_000, ge=0)
    max_clips_per_request: int = Field(200, ge=1, le=1000)
    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=1, le=65535)
    public: bool = False
    random_weights: bool = False
    drafter: Drafter = "auto"
    drafter_model: str = Field("", max_length=500)  # a Hub id such as Qwen/Qwen2.5-VL-3B-Instruct, or a folder
    drafter_precision: Literal["auto", "bfloat16", "float32", "4-bit"] = "auto"
    endpoint_url: str = Field("", max_length=500)  # of an OpenAI-compatible server, ending in /v1
    endpoint_model: str = Field("", max_length=200)
    endpoint_key: SecretStr = SecretStr("")
    endpoint_hosts: str = Field("", max_length=2000)  # with commas: hosts allowed beside this computer
    pictures: str = Field("", max_length=2000)  # with commas: where pictures are looked for by keyword
    pictures_contact: str = Field("", max_length=200, pattern=r"^[\x20-\x27\x2a-\x7e]*$")  # who runs this: sources ask

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


def load_preset(name: str, *, random_weights: bool = False) -> Preset:
    """The preset called `name`, or the one in the YAML file of that path.

    random_weights: the model is built without its files. Only who runs the studio can ask for that: no file may.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        bases = {base.stem: base for base in (PRESETS / "models").glob("*.yaml")}  # to train on, not to offer
        path = bases.get(name, PRESETS / f"{name}.yaml")
        if name not in (*bases, *preset_names()):
            raise ConfigError(f"There is no preset “{name}”.", nearest(name, preset_names()))
    data = read_yaml(path)
    data.setdefault("name", path.stem.lower())
    if data.get("random_weights"):
        raise ConfigError(f"“random_weights” cannot be set in {path.name}.", "Start with --random-weights instead.")
    if random_weights and data.get("family") == "pocket":
        raise ConfigError(
            f"The preset “{data['name']}” is small enough to come with its weights.",
            "Random weights are for Wan: name another preset with --preset.",
        )
    data |= {"folder": path.resolve().parent, "random_weights": random_weights}
    return validated(Preset, data, f"preset {path.name}")
