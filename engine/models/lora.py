"""LoRA files of every spelling in use, checked against the transformer and fused into its weights.

diffusers loads upstream's files as nothing, with a warning only; here a file either takes effect in full
or is refused by name. Fusing adds strength · alpha / rank · B·A in float32. The base weights stay in host memory, so
that another LoRA or strength starts from the same numbers again.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import WeightsMismatch, WeightsMissing

PREFIXES = ("pipe.dit.", "model.diffusion_model.", "diffusion_model.", "base_model.model.", "transformer.")
UPSTREAM_NAMES = (
    ("self_attn", "attn1"),
    ("cross_attn", "attn2"),
    ("attn1.o", "attn1.to_out.0"),
    ("attn2.o", "attn2.to_out.0"),
    *((f"{attention}.{letter}", f"{attention}.to_{letter}") for attention in ("attn1", "attn2") for letter in "qkv"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
)
MODULES_PER_BLOCK = (
    *(f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    "ffn.net.0.proj",
    "ffn.net.2",
)
_PART = re.compile(
    r"^(?P<module>.+?)\.(?:(?P<factor>lora_A|lora_B|lora_down|lora_up)(?:\.default)?\.weight|(?P<alpha>alpha))$"
)
_FACTORS = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}


@dataclass(frozen=True)
class LoraModule:
    """One low-rank change: down (r, in), up (out, r), scale = alpha / r."""

    down: Tensor
    up: Tensor
    scale: float

    def delta(self) -> Tensor:
        return self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True)
class Lora:
    """Changes by module name of diffusers' `WanTransformer3DModel`; `extras` are tensors that are no LoRA (Dance)."""

    name: str
    modules: Mapping[str, LoraModule]
    extras: Mapping[str, Tensor]


def read_lora(path: Path, transformer: WanTransformer3DModel, *, layers: Mapping[str, nn.Module] | None = None) -> Lora:
    """The LoRA in a safetensors file. One that would not take effect in full raises `WeightsMismatch`.

    layers: the linear layers by name, when they are not where the transformer has them (under an adapter).
    """
    if not path.is_file():
        raise WeightsMissing(f"The LoRA {path.name} is missing.", "Check `lora:` in the preset.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as err:
        raise WeightsMissing(f"The LoRA {path.name} is damaged.", "Download it again.") from err
    return parse_lora(tensors, transformer, name=path.name, layers=layers)


def parse_lora(
    tensors: Mapping[str, Tensor],
    transformer: WanTransformer3DModel,
    *,
    name: str,
    layers: Mapping[str, nn.Module] | None = None,
) -> Lora:
    """Sort tensors into modules and extras, and check them against `transformer`."""
    parts: dict[str, dict[str, Tensor]] = {}
    spelled: dict[str, str] = {}
    extras: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _PART.match(key)
        if match is None:
            extras[key] = tensor
            continue
        module = diffusers_name(match["module"])
        spelled.setdefault(module, key)
        parts.setdefault(module, {})["alpha" if match["alpha"] else _FACTORS[match["factor"]]] = tensor
    if not any("up" in part or "down" in part for part in parts.values()):
        first = next(iter(tensors), "none")
        raise WeightsMismatch(f"{name} holds no LoRA weights (first key: {first}).", "Use an SVI LoRA for this model.")
    layers = layers or dict(transformer.named_modules())
    check_names(parts, spelled, transformer, name)
    modules = {module: checked(module, part, layers[module], name) for module, part in sorted(parts.items())}
    if not any(module.up.any() for module in modules.values()):
        raise WeightsMismatch(f"{name} would change nothing: every lora_B is zero.", "The LoRA was never trained.")
    return Lora(name, modules, extras)


def diffusers_name(module: str) -> str:
    """`blocks.N.…` as diffusers calls it, from any of the spellings in use."""
    for prefix in PREFIXES:
        module = module.removeprefix(prefix)
    for upstream, ours in UPSTREAM_NAMES:
        module = re.sub(rf"(?<=\.){re.escape(upstream)}(?=\.|$)", ours, module)
    return module


def upstream_name(module: str) -> str:
    """`blocks.N.…` as upstream calls it: the inverse of `diffusers_name` but for the prefix."""
    for upstream, ours in reversed(UPSTREAM_NAMES):
        module = re.sub(rf"(?<=\.){re.escape(ours)}(?=\.|$)", upstream, module)
    return module


def without_weights(config: Mapping[str, object]) -> WanTransformer3DModel:
    """The transformer of a diffusers `config` on the meta device: every name and shape, no numbers."""
    with torch.device("meta"):
        return WanTransformer3DModel.from_config(dict(config))


def check_names(parts: Mapping, spelled: Mapping[str, str], transformer: WanTransformer3DModel, name: str) -> None:
    """Raise unless exactly the ten adapted layers of every block are there."""
    expected = [f"blocks.{i}.{layer}" for i in range(len(transformer.blocks)) for layer in MODULES_PER_BLOCK]
    unknown = sorted(set(parts) - set(expected))
    missing = sorted(set(expected) - set(parts))
    if unknown or missing:
        details = f"First missing layer: {missing[0]}. " if missing else ""
        details += f"First unknown key: {spelled[unknown[0]]}." if unknown else ""
        raise WeightsMismatch(
            f"{name} adapts {len(set(parts) - set(unknown))} of the {len(expected)} layers it should.",
            details.strip(),
        )


def checked(module: str, part: Mapping[str, Tensor], layer: nn.Linear, name: str) -> LoraModule:
    """The factors of one module, whose shapes fit `layer`."""
    if "down" not in part or "up" not in part:
        lacking = "lora_B" if "down" in part else "lora_A"
        raise WeightsMismatch(f"{name} has no {lacking} for {module}.", "The file is incomplete: download it again.")
    down, up = part["down"], part["up"]
    if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise WeightsMismatch(f"{name} has values for {module} that are not finite.", "Download it again.")
    rank = down.shape[0]
    expected = ((rank, layer.in_features), (layer.out_features, rank))
    if (tuple(down.shape), tuple(up.shape)) != expected:
        raise WeightsMismatch(
            f"{name} does not fit {module}: A {tuple(down.shape)} and B {tuple(up.shape)}, "
            f"expected A {expected[0]} and B {expected[1]}.",
            "It was made for another model size.",
        )
    scale = float(part["alpha"]) / rank if "alpha" in part else 1.0  # files without alpha mean alpha = rank
    return LoraModule(down, up, scale)


class LoraSlot:
    """Holds at most one LoRA fused into a transformer, and the base weights that it replaced."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        self.transformer = transformer
        self._base: dict[str, Tensor] = {}

    @torch.no_grad()
    def fuse(self, changes: Sequence[tuple[Lora, float]]) -> None:
        """Make the weights base + Σ strength · lora, whatever was fused before; summed in float32, rounded once."""
        adapted = {module for lora, _ in changes for module in lora.modules}
        for module in sorted(adapted | self._base.keys()):
            weight = self.transformer.get_submodule(module).weight
            base = self._base.setdefault(module, weight.detach().to("cpu", copy=True))
            total = base.to(weight.device, torch.float32)
            for lora, strength in changes:
                if module in lora.modules:
                    total = total + strength * lora.modules[module].delta().to(weight.device)
            weight.copy_(total)

    @torch.no_grad()
    def clear(self) -> None:
        """Put the base weights back, bit for bit."""
        for module, base in self._base.items():
            self.transformer.get_submodule(module).weight.copy_(base)


@torch.no_grad()
def load_into_adapter(transformer: WanTransformer3DModel, path: Path, *, rank: int) -> None:
    """Let training go on from the LoRA in `path`: its factors become the values of the adapter that peft added.

    The file must fit the model in full and have the adapter's `rank`. Its scale is worked into B.
    """
    layers = {name: layer for name, layer in transformer.named_modules() if hasattr(layer, "lora_A")}
    lora = read_lora(path, transformer, layers={name: layer.base_layer for name, layer in layers.items()})
    for name, change in lora.modules.items():
        if len(change.down) != rank:
            raise WeightsMismatch(f"{path.name} has rank {len(change.down)}; the recipe asks for {rank}.")
        (adapter,) = layers[name].lora_A
        layers[name].lora_A[adapter].weight.copy_(change.down)
        layers[name].lora_B[adapter].weight.copy_(change.scale / layers[name].scaling[adapter] * change.up)
