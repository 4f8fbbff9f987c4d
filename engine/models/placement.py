"""Puts the parts of a Wan model where a memory tier wants them, and moves them to a lower one when memory runs out.

`engine.tiers` decides; this module moves. Blocks and layers travel with diffusers' group offloading, 8-bit storage is
its layerwise casting. On a CPU the same hooks copy from host memory to host memory, so that every tier can be walked
there. A block of 14B streams in a fifth of the time that it computes: too little memory needs prefetching first.
"""

import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import HookRegistry, apply_group_offloading
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from torch import nn

from engine import tiers
from engine.config import Preset
from engine.domain import Resolution
from engine.environment import free_memory
from engine.errors import OutOfMemory
from engine.models.folding import fold_for_cpu
from engine.tiers import Activations, Choice, Machine, ModelSizes, Tier

log = logging.getLogger(__name__)
HOST = torch.device("cpu")
Role = Literal["expert", "vae", "text", "image"]
Part = TypeVar("Part", bound=nn.Module)
TRACING_HOOKS = ("layer_execution_tracker", "lazy_prefetch_group_offloading")  # gone after the first pass
OFFLOADING_HOOKS = ("group_offloading", *TRACING_HOOKS)
CASTING_HOOK = "layerwise_casting"
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)  # of those that diffusers offloads and casts
WHOLE = ("resident", "text on host", "experts in turn")  # tiers that keep an expert on the GPU as a whole
HINT = (
    "Close other programs, choose a smaller preset or a GGUF file of this one, or name a tier in the preset (`tier:`) "
    "to try it anyway."
)


class WanPlacement:
    """Where the parts of one model live. It alone moves them. See `Placement` in `components.py`.

    Parts are handed over with `settle`, best as soon as each is read: what goes to the GPU is then gone from host
    memory before the next one comes. machine: looks at what is free; it may describe another machine than `device`'s.
    """

    def __init__(
        self,
        preset: Preset,
        device: torch.device,
        dtype: torch.dtype,
        sizes: ModelSizes,
        *,
        lowered: int = 0,
        machine: Callable[[], Machine] | None = None,
    ) -> None:
        """Choose a tier, `lowered` below the first that fits. Raises `OutOfMemory` when there is none."""
        self.preset, self.device, self.dtype, self.sizes = preset, device, dtype, sizes
        self._machine = machine or (lambda: machine_here(device))
        self._parts: list[tuple[Role, nn.Module]] = []
        self._current: nn.Module | None = None
        largest = max(preset.offered_resolutions(), key=lambda size: size.width * size.height)
        self._clip = (largest, preset.num_frames)
        choice = self._choose(self._look())
        if choice.tier is None:
            raise OutOfMemory(choice.sentence, HINT)
        self._rungs, self._tier = choice.rungs, choice.tier
        for _ in range(lowered):
            if self.step_down() is None:
                raise OutOfMemory(f"The model “{preset.name}” needs more memory than is free.", HINT)
        log.info("%s", choice.sentence)

    @property
    def tier(self) -> str:
        return self._tier.name

    @property
    def exact(self) -> bool:
        return self._tier.exact

    @property
    def meaning(self) -> str:
        return self._tier.meaning

    @property
    def expected(self) -> Tier:
        """The tier with the memory it is expected to take, for the clips it was chosen for."""
        return self._tier

    def settle(self, role: Role, module: Part) -> Part:
        """Take over `module` and put it where the tier wants it; one that was taken over before stays where it is."""
        if not any(part is module for _, part in self._parts):
            self._parts.append((role, make_ready(role, module, self.device)))
            if role == "expert" and self._current is None:
                self._current = module
            self._put(role, module)
        return module

    def bring(self, expert: WanTransformer3DModel) -> None:
        """See `Placement.bring`."""
        self._current = expert
        if self.tier == "experts in turn":
            for other in self._experts():
                if other is not expert:
                    other.to(HOST)
            expert.to(self.device)

    def prepare(self, resolution: Resolution, num_frames: int) -> str | None:
        """See `Placement.prepare`."""
        if (resolution, num_frames) == self._clip:
            return None
        self._clip = (resolution, num_frames)
        seen = self._look()
        if not seen.has_gpu:
            return None
        self._rungs = tiers.ladder(self.sizes, self._work(), in_8_bits=self._in_8_bits)
        names = [tier.name for tier in self._rungs]
        first = names.index(self.tier)
        if self.preset.tier == "auto":
            remembered = tiers.lesson(self._key(seen)).tier_for(seen)
            first = max(first, names.index(remembered) if remembered in names else 0)
            wanted = next((tier for tier in self._rungs[first:] if self._can_hold(tier, seen)), self._rungs[-1])
        else:
            wanted = self._rungs[first]
        if wanted.name == self.tier:
            self._tier = wanted
            return None
        self._move_to(self._rungs, wanted)
        return f"Clips of {resolution.width}×{resolution.height} need more memory: {wanted.meaning} (“{wanted.name}”)."

    def step_down(self) -> str | None:
        """See `Placement.step_down`. Tiers that cannot fit by what is free are skipped; the choice is remembered."""
        seen = self._look()
        rungs, lower = self._lower_tier(seen)
        if lower is None:
            return None
        if self.preset.tier == "auto":  # before the move, which may be what the process does not survive
            tiers.learn(self._key(seen), tier=lower.name, free_vram=seen.free_vram)
        self._move_to(rungs, lower)
        return f"Memory ran out: {lower.meaning} from now on (tier “{lower.name}”), and the clip starts again."

    def go_down(self) -> Tier | None:
        """Move to the very next tier, whether it fits or not, for measuring; None at the end of the ladder."""
        names = [tier.name for tier in self._rungs]
        below = self._rungs[names.index(self.tier) + 1 :]
        if not below:
            return None
        self._move_to(self._rungs, below[0])
        return self._tier

    def held_on_device(self) -> int:
        """Bytes of the weights that lie on the device at this moment."""
        return sum(bytes_of(module, on=self.device) for _, module in self._parts)

    def kept_whole(self) -> int:
        """Bytes of the parts that the tier keeps on the device between passes; what streams is not among them."""
        waiting = [part for part in self._experts() if self.tier == "experts in turn" and part is not self._current]
        whole = [module for _, module in self._parts if not is_offloaded(module) and module not in waiting]
        return sum(map(bytes_of, whole))

    # ---- which tier

    def _work(self) -> Activations:
        return Activations.of(*self._clip, branches=self.preset.branches)

    def _key(self, machine: Machine) -> str:
        return tiers.lesson_key(self.preset, self._clip[0], machine)

    def _choose(self, machine: Machine) -> Choice:
        remembered = tiers.lesson(self._key(machine)).tier_for(machine)
        return tiers.choose(machine, self.sizes, self._work(), asked=self.preset.tier, remembered=remembered)

    def _lower_tier(self, machine: Machine) -> tuple[tuple[Tier, ...], Tier | None]:
        """The next tier down that can fit, and the ladder it is on: the one in 8 bits when host memory is too small."""
        names = [tier.name for tier in self._rungs]
        below = self._rungs[names.index(self.tier) + 1 :]
        if not machine.has_gpu:
            return self._rungs, next(iter(below), None)
        rungs, kept = self._rungs, [tier for tier in below if self._has_host_room(tier, machine)]
        if below and not kept and self.sizes.expert_in_8_bits and self.tier in WHOLE:
            rungs = tiers.ladder(self.sizes, self._work(), in_8_bits=True)
            kept = [tier for tier in rungs if self._has_host_room(tier, machine)]
        return rungs, next((tier for tier in kept if self._can_hold(tier, machine)), kept[-1] if kept else None)

    def _can_hold(self, tier: Tier, machine: Machine) -> bool:
        """True when `machine`, without this model, has room for it on `tier`; what is loaded needs no room for that."""
        in_place = tier.name == self.tier or self._has_host_room(tier, machine)
        return in_place and tier.vram_bytes <= machine.free_vram

    def _has_host_room(self, tier: Tier, machine: Machine) -> bool:
        """True when the host can keep what `tier` leaves there beside all else, or keeps as much already."""
        room = tier.kept_bytes + tiers.reserve(self.sizes) <= machine.free_ram
        return room or tier.kept_bytes <= self._tier.kept_bytes

    def _look(self) -> Machine:
        """The machine as it would be without this model; processes for several GPUs share its host memory."""
        seen = self._machine()
        on_device = self.held_on_device() if seen.has_gpu else 0
        on_host = sum(bytes_of(module) for _, module in self._parts) - on_device
        free_ram = (seen.free_ram + on_host * self.preset.gpus) // self.preset.gpus
        return replace(seen, free_vram=seen.free_vram + on_device, free_ram=free_ram)

    # ---- moving

    def _move_to(self, rungs: tuple[Tier, ...], tier: Tier) -> None:
        self._rungs, self._tier = rungs, tier
        log.info("memory tier %s: about %s", tier.name, tier.needs)
        for role, module in self._parts:
            self._put(role, module)

    def _put(self, role: Role, module: nn.Module) -> None:
        end_offloading(module)
        if role == "vae":
            module.to(self.device)
            if self.tier == "tiled":
                module.enable_tiling()
        elif role == "text":
            module.to(self.device) if self.tier == "resident" else stream_layers(module, self.device)
        elif role == "image":
            module.to(self.device) if self.tier in WHOLE else stream_layers(module, self.device)
        elif self.tier in WHOLE:
            waits = self.tier == "experts in turn" and module is not self._current
            module.to(HOST if waits else self.device)
        else:
            if self._in_8_bits:
                keep_in_8_bits(module, self.dtype)
            if self.tier in ("streamed", "float8"):
                stream_blocks(module, self.device)
            else:
                stream_layers(module, self.device, prefetch=True)

    @property
    def _in_8_bits(self) -> bool:
        return self._rungs[0].name == "float8"

    def _experts(self) -> Iterator[nn.Module]:
        return (module for role, module in self._parts if role == "expert")


def make_ready(role: Role, module: Part, device: torch.device) -> Part:
    """`module` set up to predict. Before any hook is laid on it: hooks keep the forward that they find."""
    module.eval().requires_grad_(False)
    if device.type == "cpu" and role in ("expert", "vae"):
        fold_for_cpu(module)
    return module


# ---- hooks


def stream_blocks(transformer: WanTransformer3DModel, device: torch.device) -> None:
    """Keep the blocks in host memory and copy each while the one before computes."""
    on_gpu = device.type == "cuda"
    transformer.enable_group_offload(
        onload_device=device,
        offload_device=HOST,
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=on_gpu,
        record_stream=on_gpu,
        low_cpu_mem_usage=on_gpu and not can_pin(transformer),
    )


def stream_layers(module: nn.Module, device: torch.device, *, prefetch: bool = False) -> None:
    """Keep every layer in host memory and copy it when it computes; with `prefetch`, the next one meanwhile."""
    streams = prefetch and device.type == "cuda"
    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=HOST,
        offload_type="leaf_level",
        use_stream=streams,
        record_stream=streams,
        low_cpu_mem_usage=streams and not can_pin(module),
    )


def can_pin(module: nn.Module) -> bool:
    """True when host memory holds a pinned copy of `module`: torch rounds each pinned tensor up to a power of two, half
    as much again for the layers of 14B. Without one, each block is pinned again whenever it is copied."""
    rounded = sum(2 ** (_num_bytes(p) - 1).bit_length() for p in module.parameters() if p.numel())
    return free_memory() + bytes_of(module, on=HOST) - rounded >= tiers.HOST_RESERVE


def end_offloading(module: nn.Module) -> None:
    """Undo a group offload, if there is one: what is on loan to the device returns, and no hook of it is left."""
    was_offloaded = is_offloaded(module)
    send_home(module)
    for registry in registries_of(module):
        for name in OFFLOADING_HOOKS:
            registry.remove_hook(name, recurse=False)
    if was_offloaded:
        HookRegistry.check_if_exists_or_initialize(module).invalidate_child_registries_cache()


def send_home(module: nn.Module) -> None:
    """End any group offload's loan of weights to the GPU: after an interrupted pass some still lie there, in the way of
    the next clip, and what is written to them would be lost with them."""
    for registry in registries_of(module):
        if (hook := registry.get_hook(OFFLOADING_HOOKS[0])) is not None:
            hook.group.offload_()


def is_offloaded(module: nn.Module) -> bool:
    return any(OFFLOADING_HOOKS[0] in registry.hooks for registry in registries_of(module))


def registries_of(module: nn.Module) -> list[HookRegistry]:
    """diffusers' hooks on `module` and all its parts."""
    return [part._diffusers_hook for part in module.modules() if hasattr(part, "_diffusers_hook")]


def keep_in_8_bits(transformer: WanTransformer3DModel, dtype: torch.dtype) -> None:
    """Store the layers of the blocks as float8 and compute in `dtype`; norms and embeddings stay. Not to be undone."""
    if not is_in_8_bits(transformer):
        transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)


def is_in_8_bits(transformer: WanTransformer3DModel) -> bool:
    return any(CASTING_HOOK in registry.hooks for registry in registries_of(transformer))


# ---- sizes


def measure(
    experts: Sequence[WanTransformer3DModel], vae: nn.Module, text: nn.Module, image: nn.Module | None
) -> ModelSizes:
    """The sizes of loaded parts."""
    first = experts[0]
    blocks = [bytes_of(block) for block in first.blocks]
    saved = {name: bytes_of(layer) - _elements(layer) for name, layer in castable_layers(first)}
    saved_by_block = sum(saving for name, saving in saved.items() if name.startswith("blocks.0."))
    quantised = getattr(first, "is_quantized", False)
    return ModelSizes(
        expert=bytes_of(first),
        num_experts=len(experts),
        block=max(blocks),
        outside=bytes_of(first) - sum(blocks),
        leaf=max(bytes_of(layer) for layer in first.modules() if isinstance(layer, LAYERS)),
        expert_in_8_bits=None if quantised else bytes_of(first) - sum(saved.values()),
        block_in_8_bits=None if quantised else blocks[0] - saved_by_block,
        text=bytes_of(text),
        text_leaf=max(bytes_of(layer) for layer in text.modules() if isinstance(layer, LAYERS)),
        vae=bytes_of(vae),
        image=bytes_of(image) if image is not None else 0,
    )


def castable_layers(transformer: WanTransformer3DModel) -> Iterator[tuple[str, nn.Module]]:
    """The layers that diffusers' layerwise casting stores in 8 bits, by name."""
    skipped = (
        *DEFAULT_SKIP_MODULES_PATTERN,
        *transformer._keep_in_fp32_modules,
        *transformer._skip_layerwise_casting_patterns,
    )
    for name, layer in transformer.named_modules():
        if isinstance(layer, LAYERS) and not any(re.search(pattern, name) for pattern in skipped):
            yield name, layer


def bytes_of(module: nn.Module, *, on: torch.device | None = None) -> int:
    """Bytes of the parameters, of those that lie on one kind of device if it is given."""
    return sum(_num_bytes(p) for p in module.parameters() if on is None or p.device.type == on.type)


def _num_bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def _elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- the machine


def machine_here(device: torch.device | None = None) -> Machine:
    """This machine as it is now, and why a GPU that it may have is not used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an old driver; the note says it better
        available = torch.cuda.is_available()
    if available and (device is None or device.type == "cuda"):
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own cache
        return Machine(
            name=torch.cuda.get_device_name(device),
            kind="rocm" if torch.version.hip else "cuda",
            free_ram=free_memory(),
            free_vram=free,
            total_vram=total,
            compute_capability=torch.cuda.get_device_capability(device),
            notes=tiers.gpu_notes(
                capability=torch.cuda.get_device_capability(device), is_rocm=bool(torch.version.hip), has_gpu=True
            ),
        )
    has_mps = torch.backends.mps.is_available()
    notes = () if available else tiers.gpu_notes(torch.version.cuda, driver=_nvidia_driver(), has_mps=has_mps)
    return Machine("this CPU", "mps" if has_mps else "cpu", free_memory(), notes=notes)


def _nvidia_driver(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of NVIDIA's driver, "unknown" where only its tool is found, None without one."""
    try:
        found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found.group(1) if found else "unknown" if shutil.which("nvidia-smi") else None
