"""LoRA files of every spelling in use, checked against the transformer and fused into its weights.

diffusers loads upstream's files as nothing, with a warning only; here a file either takes effect in full or is refused
by name. An SVI LoRA must adapt every layer that it was trained on; an extra one (a distillation, a style) may adapt
others and fewer, but every tensor of it must be understood. Fusing adds strength · alpha / rank · B·A in float32.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import WeightsMismatch, WeightsMissing
from engine.models.lora_keys import DANCE, meaning, other_method, other_model
from engine.models.names import PICTURE_PARTS
from engine.models.placement import send_home
from engine.weights.header import read_header

Kind = Literal["svi", "extra"]

MAX_BYTES = 3_000_000_000  # upstream's own files in float32 are 4 · 613,416,960 bytes: a limit of 2 GB refuses them
MAX_RANK = 256
NUMBERS = {"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"}
MODULES_PER_BLOCK = (
    *(f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    "ffn.net.0.proj",
    "ffn.net.2",
)
WIDTHS = {1536: "Wan 1.3B", 3072: "Wan 2.2 5B", 5120: "Wan 14B"}
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class LoraModule:
    """One low-rank change of a weight: down (r, in), up (out, r), scale = alpha / r."""

    down: Tensor
    up: Tensor
    scale: float

    def delta(self, device: torch.device | None = None) -> Tensor:
        up, down = (factor.to(device or factor.device, torch.float32) for factor in (self.up, self.down))
        return self.scale * (up @ down)


@dataclass(frozen=True)
class Offset:
    """One change of a parameter in full: a bias, a norm, a modulation (`diff_b`, `diff`, `diff_m` in the file)."""

    values: Tensor

    def delta(self, device: torch.device | None = None) -> Tensor:
        return self.values.to(device or self.values.device, torch.float32)


@dataclass(frozen=True)
class Lora:
    """Changes of diffusers' `WanTransformer3DModel`: low-rank ones by module, offsets by parameter.

    extras: tensors that are no change of the transformer (Dance). left_out: keys for the picture attention of Wan 2.1
    in a LoRA used with a model that has none; the lightx2v LoRAs for Wan 2.2 carry them, and nothing else can be done.
    """

    name: str
    modules: Mapping[str, LoraModule]
    extras: Mapping[str, Tensor]
    offsets: Mapping[str, Offset] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def changes(self) -> Iterator[tuple[str, LoraModule | Offset]]:
        """Each change with the name of its parameter."""
        for module, change in self.modules.items():
            yield f"{module}.weight", change
        yield from self.offsets.items()


def read_lora(
    path: Path,
    transformer: WanTransformer3DModel,
    *,
    kind: Kind = "svi",
    layers: Mapping[str, nn.Module] | None = None,
) -> Lora:
    """The LoRA in a safetensors file. One that would not take effect in full raises `WeightsMismatch`.

    kind: "svi" must adapt exactly the ten layers of every block. layers: the linear layers by name, when they are not
    where the transformer has them (under an adapter).
    """
    check_file(path)
    return parse_lora(load_file(path), transformer, name=path.name, kind=kind, layers=layers)


def check_file(path: Path) -> None:
    """Raise unless `path` is a whole safetensors file of numbers, small enough for a LoRA. Reads the header only."""
    if not path.is_file():
        raise WeightsMissing(f"The LoRA {path.name} is missing.", "Check `lora:` in the preset.")
    header = read_header(path)
    if header.file_bytes > MAX_BYTES:
        raise WeightsMismatch(
            f"{path.name} has {header.file_bytes / 1e9:.1f} GB; a LoRA has at most {MAX_BYTES / 1e9:.0f} GB.",
            "It may be a whole model: give it as `model:`, not as a LoRA.",
        )
    for key, tensor in header.tensors.items():
        if tensor.dtype not in NUMBERS:
            raise WeightsMismatch(f"{path.name} holds {key} as {tensor.dtype}.", "A LoRA has floating-point numbers.")


def parse_lora(
    tensors: Mapping[str, Tensor],
    transformer: WanTransformer3DModel,
    *,
    name: str,
    kind: Kind = "svi",
    layers: Mapping[str, nn.Module] | None = None,
) -> Lora:
    """Sort tensors into modules, offsets and extras, and check them against `transformer`."""
    found = _sorted(tensors, name)
    if not found.factors and not found.offsets:
        raise _foreign(tensors, name)
    _refuse_other_methods(tensors, name)
    layers = layers or {key: layer for key, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}
    _check_size(found, layers)
    left_out: tuple[str, ...] = ()
    if kind == "svi":
        _check_every_layer(found, transformer)
    else:
        left_out = _take_out_picture_parts(found, layers)
        _check_every_tensor(found, layers)
    modules = {module: _module(module, part, layers[module], name) for module, part in sorted(found.factors.items())}
    for module, part in found.factors.items():
        if "bias" in part:  # peft's lora_bias is scaled like B·A
            found.offsets[f"{module}.bias"] = modules[module].scale * part["bias"].float()
    parameters = dict(transformer.named_parameters())
    offsets = {
        key: _offset(key, tensor, parameters.get(key), found.key(key), name)
        for key, tensor in sorted(found.offsets.items())
    }
    effects = [*(change.up for change in modules.values() if change.scale), *(o.values for o in offsets.values())]
    if not any(effect.any() for effect in effects):
        raise WeightsMismatch(f"{name} would change nothing: every lora_B is zero.", "The LoRA was never trained.")
    return Lora(name, modules, found.extras, offsets, left_out)


def without_weights(config: Mapping[str, object]) -> WanTransformer3DModel:
    """The transformer of a diffusers `config` on the meta device: every name and shape, no numbers."""
    with torch.device("meta"):
        return WanTransformer3DModel.from_config(dict(config))


@dataclass
class _Sorted:
    """A file's tensors by what they change, under diffusers' names; `keys` has the file's own, by role."""

    name: str
    factors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    offsets: dict[str, Tensor] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)

    def key(self, target: str) -> str:
        """How the file spells the first tensor of `target`."""
        return next(iter(self.keys.get(target, {}).values()), target)


def _sorted(tensors: Mapping[str, Tensor], name: str) -> _Sorted:
    found = _Sorted(name)
    for key, tensor in tensors.items():
        if key.startswith(DANCE):
            found.extras[key] = tensor
            continue
        what = meaning(key)
        if what is None:
            found.unknown.append(key)
            continue
        is_offset = what.role == "offset"
        place = found.offsets if is_offset else found.factors.setdefault(what.target, {})
        entry = what.target if is_offset else what.role
        if entry in place:
            raise WeightsMismatch(f"{name} holds {what.target} twice, the second time as {key}.", "Use another file.")
        place[entry] = tensor
        found.keys.setdefault(what.target, {})[what.role] = key
    return found


def _refuse_other_methods(tensors: Mapping[str, Tensor], name: str) -> None:
    if found := other_method(tensors):
        what, key = found
        raise WeightsMismatch(f"{name} is {what} (key {key}).", "It cannot be fused: use a LoRA.")


def _foreign(tensors: Mapping[str, Tensor], name: str) -> WeightsMismatch:
    """What to say of a file in which nothing belongs to a Wan transformer."""
    if found := other_model(tensors):
        model, key = found
        return WeightsMismatch(f"{name} is not a Wan LoRA: it has keys of {model} ({key}).", "Use a LoRA made for Wan.")
    _refuse_other_methods(tensors, name)
    first = next(iter(tensors), "none")
    return WeightsMismatch(f"{name} holds no LoRA weights (first key: {first}).", "Use a LoRA made for Wan.")


def _check_size(found: _Sorted, layers: Mapping[str, nn.Module]) -> None:
    """Raise when most layers of the file are those of a model of another width."""
    widths = Counter(
        part["down"].shape[1]
        for module, part in found.factors.items()
        if module.endswith(("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "ffn.net.0.proj"))
        and "down" in part
        and part["down"].ndim == 2
    )
    own = layers["blocks.0.attn1.to_q"].in_features
    if not widths or (width := widths.most_common(1)[0][0]) == own:
        return
    blocks = 1 + max(int(module.split(".")[1]) for module in found.factors if module.startswith("blocks."))
    raise WeightsMismatch(
        f"{found.name} was made for {WIDTHS.get(width, 'another Wan')} ({width} wide, {blocks} blocks); "
        f"this model is {WIDTHS.get(own, 'a Wan')} ({own} wide).",
        "Use a LoRA made for this model.",
    )


def _check_every_layer(found: _Sorted, transformer: WanTransformer3DModel) -> None:
    """Raise unless exactly the ten adapted layers of every block are there, and nothing else."""
    expected = [f"blocks.{i}.{layer}" for i in range(len(transformer.blocks)) for layer in MODULES_PER_BLOCK]
    adapted = set(found.factors) & set(expected)
    missing = sorted(set(expected) - adapted)
    strange = (found.factors.keys() - adapted) | found.offsets.keys()
    biases = [found.keys[module]["bias"] for module, part in found.factors.items() if "bias" in part]
    unknown = [*map(found.key, sorted(strange)), *biases, *found.unknown]
    if unknown or missing:
        details = f"First missing layer: {missing[0]}. " if missing else ""
        details += f"First unknown key: {unknown[0]}." if unknown else ""
        raise WeightsMismatch(
            f"{found.name} adapts {len(adapted)} of the {len(expected)} layers it should.", details.strip()
        )


def _take_out_picture_parts(found: _Sorted, layers: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Remove the changes of picture attention when the model has none; their keys."""
    if "blocks.0.attn2.add_k_proj" in layers:
        return ()
    absent = [target for target in (*found.factors, *found.offsets) if set(target.split(".")) & set(PICTURE_PARTS)]
    for target in absent:
        found.factors.pop(target, None)
        found.offsets.pop(target, None)
    return tuple(key for target in absent for key in found.keys[target].values())


def _check_every_tensor(found: _Sorted, layers: Mapping[str, nn.Module]) -> None:
    """Raise when the file holds anything that is not understood or changes a layer that the model does not have."""
    strange = [*found.unknown, *(found.key(module) for module in found.factors if module not in layers)]
    if strange:
        raise _no_place(strange[0], len(strange), found.name)


def _no_place(key: str, count: int, name: str) -> WeightsMismatch:
    return WeightsMismatch(
        f"{name} holds what this model has no place for: {key} ({count} such keys).", "Use a LoRA made for this model."
    )


def _module(module: str, part: Mapping[str, Tensor], layer: nn.Module, name: str) -> LoraModule:
    """The factors of one module, whose shapes fit `layer`."""
    if "down" not in part or "up" not in part:
        lacking = "lora_B" if "down" in part else "lora_A"
        raise WeightsMismatch(f"{name} has no {lacking} for {module}.", "The file is incomplete: download it again.")
    if not all(torch.isfinite(tensor.float()).all() for tensor in part.values()):
        raise WeightsMismatch(f"{name} has values for {module} that are not finite.", "Download it again.")
    down, up = part["down"], part["up"]
    rank = down.shape[0] if down.ndim else 0
    expected = ((rank, layer.in_features), (layer.out_features, rank))
    if (tuple(down.shape), tuple(up.shape)) != expected or not rank:
        raise WeightsMismatch(
            f"{name} does not fit {module}: A {tuple(down.shape)} and B {tuple(up.shape)}, "
            f"expected A {expected[0]} and B {expected[1]}.",
            "It was made for another model size.",
        )
    if rank > MAX_RANK:
        raise WeightsMismatch(f"{name} has rank {rank} at {module}.", f"Ranks up to {MAX_RANK} are read.")
    alpha = part.get("alpha", torch.tensor(float(rank)))  # files without alpha mean alpha = rank
    if alpha.numel() != 1:
        raise WeightsMismatch(f"{name} has {alpha.numel()} alphas for {module}.", "Download it again.")
    return LoraModule(down, up, alpha.item() / rank)


def _offset(key: str, tensor: Tensor, parameter: Tensor | None, spelled: str, name: str) -> Offset:
    """The change of `parameter` in full, whose shape fits."""
    if parameter is None:
        raise _no_place(spelled, 1, name)
    if tensor.shape != parameter.shape:
        raise WeightsMismatch(
            f"{name} does not fit {key}: {tuple(tensor.shape)}, expected {tuple(parameter.shape)}.",
            "It was made for another model size.",
        )
    if not torch.isfinite(tensor.float()).all():
        raise WeightsMismatch(f"{name} has values for {key} that are not finite.", "Download it again.")
    return Offset(tensor)


class LoraSlot:
    """Holds the LoRAs that are fused into a transformer, and knows the weights that it had without them.

    base: gives the weights by the parameter's name; without it they are copied to host memory before they are changed.
    device: where the sums are computed; None means where the weight lies.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        base: Callable[[str], Tensor] | None = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        self.transformer = transformer
        self._given, self._copies = base, dict[str, Tensor]()
        self._device = device
        self._changed: set[str] = set()

    @torch.no_grad()
    def fuse(self, changes: Sequence[tuple[Lora, float]]) -> None:
        """Make the weights base + Σ strength · lora, whatever was fused before; summed in float32, rounded once."""
        wanted: dict[str, list[tuple[LoraModule | Offset, float]]] = {}
        for lora, strength in changes:
            for name, change in lora.changes():
                wanted.setdefault(name, []).append((change, strength))
        for name in wanted:
            self._check_plain(name)
        send_home(self.transformer)
        self._changed |= wanted.keys()
        for name in sorted(self._changed):
            parameter = self.transformer.get_parameter(name)
            parameter.copy_(self._sum(name, wanted[name]) if name in wanted else self._as_loaded(name))
        self._changed = set(wanted)

    def clear(self) -> None:
        """Put the base weights back, bit for bit."""
        self.fuse([])

    def _sum(self, name: str, changes: Sequence[tuple[LoraModule | Offset, float]]) -> Tensor:
        """base + Σ strength · change in float32."""
        device = self._device or self.transformer.get_parameter(name).device
        total = self._base(name).to(device, torch.float32, copy=True)
        for change, strength in changes:
            total += strength * change.delta(device)
        return total

    def _as_loaded(self, name: str) -> Tensor:
        """The base weight as it was before any LoRA. One stored in 8 bits had been rounded to the model's dtype first,
        which the patch embedding keeps: diffusers never stores it in 8 bits."""
        base = self._base(name)
        in_8_bits = self.transformer.get_parameter(name).dtype in _FP8
        return base.to(self.transformer.patch_embedding.weight.dtype) if in_8_bits else base

    def _base(self, name: str) -> Tensor:
        parameter = self.transformer.get_parameter(name)
        if self._given is None and name not in self._copies:
            self._copies[name] = parameter.detach().to("cpu", copy=True)
        base = self._copies[name] if self._given is None else self._given(name)
        if base.shape != parameter.shape:
            raise WeightsMismatch(
                f"The base weight {name} is {tuple(base.shape)} in the file and {tuple(parameter.shape)} in the model.",
                "Give the folder that the model came from.",
            )
        return base

    def _check_plain(self, name: str) -> None:
        """Raise for a weight that was quantised: adding to it would round the change away."""
        parameter = self.transformer.get_parameter(name)
        if type(parameter) is not nn.Parameter or not parameter.is_floating_point():
            raise WeightsMismatch(
                f"The weight {name} is quantised ({type(parameter).__name__}): no LoRA can be added to it.",
                "Fuse before quantising: load the model unquantised, or write a quantised file with the LoRA in it.",
            )
        if parameter.dtype in _FP8 and self._given is None and name not in self._copies:
            raise WeightsMismatch(
                f"The weight {name} is stored in 8 bits and its exact values are gone.",
                "Fuse before quantising, or give the base weights from their files.",
            )


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
