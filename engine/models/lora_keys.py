"""What the keys of a LoRA file mean, in every spelling in use, and which model the file was made for.

Spellings: SVI 1.0 (`pipe.dit.…lora_A.default.weight`), SVI 2.0 (no prefix), ComfyUI (`diffusion_model.…`), musubi-tuner
(`lora_unet_blocks_0_self_attn_q`), diffusers (`transformer.blocks.0.attn1.to_q`) and peft (`base_model.model.…`), with
lora_A and lora_B or lora_down and lora_up. Knows names only, no numbers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.models.names import module_name
from engine.variants import trained_for
from engine.weights.header import read_header

Role = Literal["down", "up", "alpha", "bias", "offset"]
FittingBase = Literal["wan2.1", "wan2.2-high", "wan2.2-low"]

PREFIXES = (
    "pipe.dit.",
    "model.diffusion_model.",
    "diffusion_model.",
    "base_model.model.",
    "transformer.",
    "lora_unet_",
    "lora_transformer_",
)
DANCE = "dwpose_embedding."  # SVI-Dance's pose encoder, a module beside the transformer
_KEY = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"(?P<factor>lora_A|lora_B|lora_down|lora_up)(?:\.default)?\.(?P<of>weight|bias)|(?P<one>alpha|diff|diff_b|diff_m))"
)
_FACTORS: dict[tuple[str, str], Role] = {
    ("lora_A", "weight"): "down",
    ("lora_down", "weight"): "down",
    ("lora_B", "weight"): "up",
    ("lora_up", "weight"): "up",
    ("lora_B", "bias"): "bias",
    ("lora_up", "bias"): "bias",
}
_TELLING = "base_model|architecture|title|output_name"  # keys of kohya, ModelSpec and our own cards
_METHODS = (  # what changes weights in another way than B·A
    (r"dora_scale|lora_magnitude_vector|\.w_norm$", "a DoRA: it rescales the weights beside adding to them"),
    (r"lokr_|hada_|lora_mid|glora|oft_|boft_", "a LyCORIS file (LoKr, LoHa, OFT)"),
    (r"lora_te\d?_|text_encoder|cond_stage", "a LoRA with a part for a text encoder, which Wan's does not have"),
)
_MODELS = (
    (r"(double|single)(_transformer)?_blocks[._]\d", "Flux or HunyuanVideo"),
    (r"(down|up|input|output)_blocks[._]\d|mid(dle)?_block", "Stable Diffusion or SDXL"),
    (r"(transformer_blocks|layers)[._]\d", "another transformer, such as LTX-Video, Qwen-Image or Z-Image"),
)


@dataclass(frozen=True)
class Meaning:
    """`target`: diffusers' name of the module, or of the parameter when `role` is "offset"."""

    target: str
    role: Role


def meaning(key: str) -> Meaning | None:
    """What a tensor of a LoRA file changes, and which part of the change it is. None: it is not understood.

    `diff` and `diff_b` are added to a weight and a bias, `diff_m` to the modulation of a block or of the head: so the
    LoRAs are written that were extracted from distilled models.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    stem = _without_prefixes(match["module"])
    if match["one"] == "diff_m":
        stem = f"{stem}.modulation"
    module = module_name(stem)
    if module is None:
        return None
    match match["one"]:
        case "alpha":
            return Meaning(module, "alpha")
        case "diff" | "diff_b" | "diff_m" as kind:
            lone = module.endswith("scale_shift_table")  # a parameter itself, not a module that has some
            return Meaning(module if lone else f"{module}.{'bias' if kind == 'diff_b' else 'weight'}", "offset")
    role = _FACTORS.get((match["factor"], match["of"]))
    return Meaning(module, role) if role else None


def other_method(keys: Iterable[str]) -> tuple[str, str] | None:
    """What the file is, and a key that tells it, when it is no LoRA but another way of changing weights."""
    return _first_hit(keys, _METHODS)


def other_model(keys: Iterable[str]) -> tuple[str, str] | None:
    """The model that the keys belong to, and one of them, when they are not those of Wan."""
    return _first_hit(keys, _MODELS)


def guess_base(path: Path) -> FittingBase | None:
    """The base model that a LoRA was made for, by its file name, else by the file's metadata; None when neither tells.

    The shapes cannot tell: LoRAs for Wan 2.1 and for both experts of Wan 2.2 have the same.
    """
    if known := trained_for(path.name):
        row, expert = known
        return "wan2.1" if row.base == "wan2.1" else f"wan2.2-{expert}"
    metadata = read_header(path).metadata
    told = " ".join(value for key, value in metadata.items() if re.search(_TELLING, key))
    texts = (path.stem, told, f"{path.stem} {told}")  # the name may tell the expert only, and the metadata the version
    return next((base for text in texts if (base := _base_named(text))), None)


def _base_named(text: str) -> FittingBase | None:
    """The one base, and for Wan 2.2 the one expert, that `text` names."""
    text = text.lower()
    versions = set(re.findall(r"wan[ ._-]?(?:video[ ._-]?)?v?2[._-]?([12])(?!\d)", text))
    if versions == {"1"} or (not versions and re.match(r"svi[-_](shot|film|tom|talk|dance)(?![a-z])", text)):
        return "wan2.1"
    levels = set(re.findall(r"(high|low)[ ._-]?noise", text)) or set(re.findall(r"(?<![a-z])(high|low)(?![a-z])", text))
    return f"wan2.2-{levels.pop()}" if versions == {"2"} and len(levels) == 1 else None


def _without_prefixes(name: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def _first_hit(keys: Iterable[str], table: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    keys = tuple(keys)
    for pattern, what in table:
        if key := next((key for key in keys if re.search(pattern, key)), None):
            return what, key
    return None
