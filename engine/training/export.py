"""A trained LoRA in the spelling that another program loads, with a card that says what it is.

diffusers: `transformer.blocks.N.attn1.to_q.lora_A.weight`, what `load_lora_weights` takes.
upstream: `pipe.dit.blocks.N.self_attn.q.lora_A.default.weight`, as in the published SVI 1.0 files.
comfy: `diffusion_model.blocks.N.self_attn.q.lora_down.weight` and `.alpha`, the generic names of comfy/lora.py, which
WanVideoWrapper loads too. Only this one has an alpha; in the others alpha = rank, and a scale is worked into B.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from engine.errors import InputError, WeightsMismatch, disk_errors_explained
from engine.models.lora import Lora, LoraModule, read_lora, without_weights
from engine.models.names import upstream_name
from engine.project.files import write_atomically

Layout = Literal["diffusers", "upstream", "comfy"]
Precision = Literal["float16", "bfloat16", "float32"]
_NAME = re.compile(r"\w[\w .+-]*(/\w[\w .+-]*)?")  # a name, or owner/name as on the Hugging Face Hub


@dataclass(frozen=True)
class Spelling:
    """How a layout writes the module, A (down) and B (up)."""

    prefix: str
    down: str
    up: str
    upstream_names: bool
    has_alpha: bool


SPELLINGS: dict[Layout, Spelling] = {
    "diffusers": Spelling("transformer.", "lora_A.weight", "lora_B.weight", False, False),
    "upstream": Spelling("pipe.dit.", "lora_A.default.weight", "lora_B.default.weight", True, False),
    "comfy": Spelling("diffusion_model.", "lora_down.weight", "lora_up.weight", True, True),
}


@dataclass(frozen=True)
class LoraCard:
    """What a LoRA is, for the metadata of its file: names only, never a path. Empty ones are left out."""

    base_model: str = ""
    variant: str = ""
    recipe: str = ""

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if value and not _NAME.fullmatch(value):
                raise InputError(
                    f"“{value}” cannot be the {key.replace('_', ' ')} on a LoRA's card.",
                    "Give a name, such as film or Wan-AI/Wan2.1-I2V-14B-480P; a path is not published.",
                )


@dataclass(frozen=True)
class ExportedLora:
    """What was written: a LoRA of `num_modules` layers and the names of the tensors that are no LoRA (Dance)."""

    path: Path
    layout: Layout
    precision: Precision
    num_modules: int
    rank: str
    extras: tuple[str, ...]
    num_bytes: int


def export_lora(
    source: Path,
    out: Path,
    *,
    layout: Layout,
    transformer_config: Mapping[str, object],
    precision: Precision = "float16",
    card: LoraCard | None = None,
) -> ExportedLora:
    """Write the LoRA in `source`, of any published spelling, to `out`. Without a `card`, that of `source` is kept.

    transformer_config: of the model it was made for, as in transformer/config.json. A file that is no LoRA of that
    model raises what `read_lora` raises; nothing is written then.
    """
    lora = read_lora(source, without_weights(transformer_config))
    return write_lora(lora, out, layout=layout, precision=precision, card=card or read_card(source))


def write_lora(
    lora: Lora, out: Path, *, layout: Layout, precision: Precision = "float16", card: LoraCard | None = None
) -> ExportedLora:
    """Write `lora` to `out`, whole or not at all. `extras` keep their names and numbers in every layout."""
    if out.suffix != ".safetensors":
        raise InputError(f"A LoRA cannot be written to {out.name}.", "Its name must end in .safetensors.")
    tensors = {key: value.contiguous() for key, value in lora.extras.items()}
    for module, change in lora.modules.items():
        tensors |= _spelled(module, change, SPELLINGS[layout], precision, lora.name)
    data = save(tensors, metadata=_metadata(lora, layout, card or LoraCard()))
    with disk_errors_explained(f"the LoRA {out.name}", safe="The LoRA it is made from is untouched."):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, data, point="lora")
    return ExportedLora(out, layout, precision, len(lora.modules), _ranks(lora), tuple(sorted(lora.extras)), len(data))


def read_card(path: Path) -> LoraCard:
    """The card of an exported LoRA; from a file of another origin, what of its metadata is fit for one."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    known = {field.name: metadata.get(field.name, "") for field in fields(LoraCard)}
    return LoraCard(**{key: value for key, value in known.items() if _NAME.fullmatch(value)})


def _spelled(module: str, change: LoraModule, spelling: Spelling, precision: Precision, name: str) -> dict[str, Tensor]:
    """The tensors of one module. `change.scale` goes into alpha, or into B where there is no alpha."""
    stem = spelling.prefix + (upstream_name(module) if spelling.upstream_names else module)
    up = change.up if spelling.has_alpha or change.scale == 1.0 else change.scale * change.up.float()
    factors = {f"{stem}.{spelling.down}": change.down, f"{stem}.{spelling.up}": up}
    tensors = {key: factor.to(getattr(torch, precision)).contiguous() for key, factor in factors.items()}
    if not all(torch.isfinite(factor).all() for factor in tensors.values()):
        raise WeightsMismatch(f"{name} has values for {module} that {precision} cannot hold.", "Export it as bfloat16.")
    if spelling.has_alpha:
        tensors[f"{stem}.alpha"] = torch.tensor(change.scale * len(change.down))
    return tensors


def _metadata(lora: Lora, layout: Layout, card: LoraCard) -> dict[str, str]:
    """Strings for the file's header. alpha: as the file has it, so that alpha / rank is the scale to apply."""
    alphas = {change.scale * len(change.down) for change in lora.modules.values()}
    alpha = _span(alphas) if SPELLINGS[layout].has_alpha else _ranks(lora)
    described = {key: value for key, value in asdict(card).items() if value}
    return {"format": "pt", "layout": layout, "rank": _ranks(lora), "alpha": alpha} | described


def _ranks(lora: Lora) -> str:
    return _span({len(change.down) for change in lora.modules.values()})


def _span(values: set[int] | set[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"
