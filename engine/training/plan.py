"""What a training run will need, said before it starts: parameters, memory, disk and time, and what is missing.

A plan is computed from sizes (`footprint`) for a `Machine`, this one or another, and holds plain values only. Not
counted: the CUDA context, NCCL's buffers, fragmentation, and Python itself.
"""

import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from engine.environment import free_memory
from engine.training.error_bank import BankSettings, ErrorBank
from engine.training.footprint import (
    Checkpointing,
    Dtype,
    Item,
    LatentShape,
    Strategy,
    TransformerSize,
    activation_bytes,
    measure,
    state_items,
    step_flops,
)
from engine.training.latent_cache import cache_bytes

BANK_SHARE = 0.5  # of the free memory or disk: writing a checkpoint copies the banks once
NUM_BANKS = 2  # latent errors and noise errors
SMALL_BANK = 100  # errors a noise level that lose little: 68.5 for 69.3 with 500 (paper, Table 8, subject consistency)
SMALLEST_BANK = 10  # 67.4 there; one error a level reaches 67.8, so less than this is not worth having
WARMUP_STEPS = 50  # steps in which every rank stores the errors of all (upstream's buffer_warmup_iter)
LAUNCHERS: dict[Strategy, str] = {"zero2": "accelerate-zero2.yaml", "fsdp": "accelerate-fsdp.yaml"}


@dataclass(frozen=True)
class Machine:
    """What is free on a machine. gpu_memory_bytes: of each GPU; with none, everything is in host memory."""

    num_gpus: int
    gpu_memory_bytes: int
    host_ram_bytes: int
    disk_free_bytes: int

    @classmethod
    def here(cls, folder: Path) -> "Machine":
        """This machine, with the disk that `folder` is or will be on; memory is that of the fullest GPU."""
        gpus = torch.cuda.device_count()
        memory = min((torch.cuda.mem_get_info(index)[0] for index in range(gpus)), default=0)
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        return cls(gpus, memory, free_memory(), shutil.disk_usage(existing).free)


@dataclass(frozen=True)
class TrainingRun:
    """What is to be trained, in sizes.

    config: the transformer's, as in its config.json. rank: of the LoRA, None to train every weight. latents: of one
    window; a step takes `batch_size` of them on each rank. num_windows: in the latent cache, with `num_conditions`
    each; encoders: what is loaded to make it, beside the base weights. bank: None trains without recycling, "fit" takes
    what `fitting_bank` finds. num_ranks: None is one for each GPU.
    """

    config: Mapping[str, object]
    latents: LatentShape
    rank: int | None
    num_steps: int
    strategy: Strategy = "plain"
    checkpointing: Checkpointing = "blocks"
    dtype: Dtype = "bfloat16"
    batch_size: int = 1
    num_ranks: int | None = None
    text_tokens: int = 512
    picture_tokens: int = 257
    num_windows: int = 0
    num_conditions: int = 1
    encoders: tuple[Item, ...] = ()
    running_average: bool = False
    bank: BankSettings | Literal["fit"] | None = "fit"
    checkpoints: int = 1


@dataclass(frozen=True)
class Group:
    """Items held at the same time in one place, which has `available` bytes."""

    title: str
    items: tuple[Item, ...]
    available: int

    @property
    def total(self) -> int:
        return sum(item.num_bytes for item in self.items)

    @property
    def missing(self) -> int:
        return max(0, self.total - self.available)


@dataclass(frozen=True)
class FittingBank:
    """The settings to use, None when no bank worth having fits; the bytes of both full banks of a rank; and why."""

    settings: BankSettings | None
    num_bytes: int
    sentence: str


@dataclass(frozen=True)
class Plan:
    """What a run needs, and what stands in its way: `problems` is empty when it fits."""

    size: TransformerSize
    num_tokens: int
    num_ranks: int
    strategy: Strategy
    checkpointing: Checkpointing
    groups: tuple[Group, ...]
    bank: FittingBank | None
    flops_per_step: int
    num_steps: int
    tflops: float | None
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def seconds_per_step(self) -> float | None:
        """At the measured rate of matrix products, which a step does not reach: a lower bound. None if unmeasured."""
        return self.flops_per_step / (self.tflops * 1e12) if self.tflops else None

    def table(self) -> str:
        """The plan as lines for a terminal."""
        lines = [_trained(self.size), _arrangement(self)]
        for group in self.groups:
            lines += ["", group.title]
            lines += [f"  {item.name:<50}{_gb(item.num_bytes):>12}" for item in group.items]
            verdict = f"{_gb(group.missing)} too much for" if group.missing else "of"
            lines.append(f"  {'together':<50}{_gb(group.total):>12}  {verdict} {_gb(group.available)}")
        lines += ["", *([self.bank.sentence] if self.bank else []), _duration(self)]
        lines += [f"Problem: {problem}" for problem in self.problems] or ["It fits."]
        return "\n".join(lines)


def training_plan(run: TrainingRun, machine: Machine, *, tflops: float | None = None) -> Plan:
    """The plan of `run` on `machine`. Without `tflops`, as measured (`measure_tflops`), no time is stated."""
    size, ranks = measure(run.config, run.rank), run.num_ranks or max(machine.num_gpus, 1)
    bank = _bank(run, machine, ranks)
    groups = _groups(run, size, machine, ranks, bank)
    shapes = {"batch_size": run.batch_size, "text_tokens": run.text_tokens, "picture_tokens": run.picture_tokens}
    return Plan(
        size=size,
        num_tokens=run.batch_size * size.num_tokens(run.latents),
        num_ranks=ranks,
        strategy=run.strategy,
        checkpointing=run.checkpointing,
        groups=groups,
        bank=bank,
        flops_per_step=step_flops(size, run.latents, checkpointing=run.checkpointing, **shapes),
        num_steps=run.num_steps,
        tflops=tflops,
        problems=tuple(_problems(run, size, machine, ranks, bank, groups)),
    )


def fitting_bank(
    latents: LatentShape,
    machine: Machine,
    *,
    num_ranks: int | None = None,
    folder: Path = Path("banks"),
    wanted: BankSettings | None = None,
) -> FittingBank:
    """The bank to use on `machine`: as `wanted` (default: the paper's) if both banks of every rank fit, else less.

    In this order: fewer errors a noise level, down to `SMALL_BANK`; 8 bits, as many; the wanted bank in files under
    `folder`; 8 bits and pooling, down to `SMALLEST_BANK`. Memory and disk are used up to `BANK_SHARE`.
    """
    wanted, ranks = wanted or BankSettings(), num_ranks or max(machine.num_gpus, 1)
    memory, disk = (int(BANK_SHARE * free / ranks) for free in (machine.host_ram_bytes, machine.disk_free_bytes))
    choices = [
        (wanted, wanted.capacity, disk if wanted.folder else memory),
        (wanted, SMALL_BANK, disk if wanted.folder else memory),
        (replace(wanted, storage="float8"), SMALL_BANK, memory),
        (replace(wanted, folder=folder), wanted.capacity, disk),
        (replace(wanted, storage="float8", pooling=2), SMALLEST_BANK, memory),
    ]
    for settings, least, budget in choices:
        capacity = min(wanted.capacity, budget // bank_bytes(latents, replace(settings, capacity=1)))
        if capacity >= min(least, wanted.capacity):
            chosen = replace(settings, capacity=capacity)
            return FittingBank(chosen, bank_bytes(latents, chosen), _bank_sentence(latents, chosen, wanted, budget))
    least = bank_bytes(latents, replace(wanted, storage="float8", pooling=2, capacity=SMALLEST_BANK))
    sentence = f"No error bank fits: the smallest worth having takes {_gb(least)} a rank, {_gb(memory)} may be used."
    return FittingBank(None, 0, sentence)


def bank_bytes(latents: LatentShape, settings: BankSettings) -> int:
    """Bytes of both banks of one rank, full: 209.7 GB for the paper's 500 errors at each of 50 noise levels at 480p."""
    return NUM_BANKS * ErrorBank(torch.empty(settings.num_grids), latents.as_tuple, settings).full_bytes


def measure_tflops(device: torch.device, *, repeats: int = 5) -> float:
    """The device's rate of matrix products in TFLOP/s, median of `repeats`: bfloat16 on a GPU, float32 elsewhere."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        wait()
        began = time.perf_counter()
        left @ right
        wait()
        times.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(times[1:]) / 1e12


# What is held where


def _groups(
    run: TrainingRun, size: TransformerSize, machine: Machine, ranks: int, bank: FittingBank | None
) -> tuple[Group, ...]:
    training, inputs = _training(run, size, ranks)
    weights = Item(f"base weights, {run.dtype}", size.weight_bytes(run.dtype))
    encoding = (weights, *run.encoders) if run.encoders else ()
    host = [Item(f"checkpointed activations{_of(ranks)}", ranks * inputs)]
    if bank and bank.settings:
        host += [Item(f"error banks{_of(ranks)}, full", 0 if bank.settings.folder else ranks * bank.num_bytes)]
        host += [Item("copy of them while a checkpoint is written", ranks * _held(run, ranks, bank))]
    disk = Group("Disk", _present(_disk(run, size, ranks, bank)), machine.disk_free_bytes)
    if not machine.num_gpus:
        everything = [Item(item.name, ranks * item.num_bytes) for item in training]
        return Group(f"Memory{_of(ranks)}", _present([*everything, *host]), machine.host_ram_bytes), disk
    loading = Item(f"base weights, read in whole{_of(ranks)}", ranks * weights.num_bytes)
    groups = (
        Group("Each GPU, training", _present(training), machine.gpu_memory_bytes),
        Group("GPU, while the latent cache is made", encoding, machine.gpu_memory_bytes),
        Group("Host memory, while the model is loaded", (loading,), machine.host_ram_bytes),
        Group("Host memory, training", _present(host), machine.host_ram_bytes),
        disk,
    )
    return tuple(group for group in groups if group.items)


def _training(run: TrainingRun, size: TransformerSize, ranks: int) -> tuple[list[Item], int]:
    """What one rank holds on its device, and the bytes of activations it keeps on the host."""
    device, host = activation_bytes(
        size,
        run.latents,
        batch_size=run.batch_size,
        text_tokens=run.text_tokens,
        picture_tokens=run.picture_tokens,
        strategy=run.strategy,
        dtype=run.dtype,
        checkpointing=run.checkpointing,
    )
    average = size.weight_bytes(run.dtype) + 4 * size.lora_parameters if run.running_average else 0
    items = [
        *state_items(size, run.strategy, ranks, run.dtype),
        Item("running average: a copy of the whole model", average),
        Item("activations at the peak of a step", device),
    ]
    return items, host


def _disk(run: TrainingRun, size: TransformerSize, ranks: int, bank: FittingBank | None) -> list[Item]:
    """Files of a run. A checkpoint is written before the one it replaces goes, so there is one more for a while."""
    cache = cache_bytes(
        run.num_windows,
        latent_shape=run.latents.as_tuple,
        num_conditions=run.num_conditions,
        prompt_shape=(run.text_tokens, size.text_dim),
        image_shape=(run.picture_tokens, size.image_dim) if size.takes_picture else (0, 0),
        dtype=getattr(torch, run.dtype),
    )
    files = run.checkpoints + 1
    state = 12 * size.trainable * (ranks if run.strategy == "plain" else 1)  # value and two moments, float32
    items = [
        Item(f"latent cache, {run.num_windows:,} windows", cache),
        Item(f"{files} checkpoints: trained values and optimizer", files * state),
    ]
    if run.strategy != "plain" and run.rank is not None:
        items.append(Item(f"{files} checkpoints: base weights, saved with them", files * size.weight_bytes(run.dtype)))
    if bank and bank.settings:
        items.append(Item(f"{files} checkpoints: error banks{_of(ranks)}", files * ranks * _held(run, ranks, bank)))
        items.append(Item("error banks in files", ranks * bank.num_bytes if bank.settings.folder else 0))
    return items


def _present(items: list[Item]) -> tuple[Item, ...]:
    return tuple(item for item in items if item.num_bytes)


def _held(run: TrainingRun, ranks: int, bank: FittingBank) -> int:
    """Bytes of the errors that one rank has at most kept by the end of the run."""
    errors = run.batch_size * (run.num_steps + (ranks - 1) * min(run.num_steps, WARMUP_STEPS))
    return min(bank.num_bytes, errors * bank_bytes(run.latents, replace(bank.settings, num_grids=1, capacity=1)))


def _bank(run: TrainingRun, machine: Machine, ranks: int) -> FittingBank | None:
    if run.bank is None:
        return None
    if run.bank == "fit":
        return fitting_bank(run.latents, machine, num_ranks=ranks)
    num_bytes = bank_bytes(run.latents, run.bank)
    return FittingBank(run.bank, num_bytes, f"Error banks: {_described(run.bank)}, {_gb(num_bytes)} a rank when full.")


# What is missing, and what to do


def _problems(
    run: TrainingRun,
    size: TransformerSize,
    machine: Machine,
    ranks: int,
    bank: FittingBank | None,
    groups: tuple[Group, ...],
) -> Iterator[str]:
    if bank and bank.settings is None:
        yield f"{bank.sentence} Train at a smaller size, or with fewer processes."
    for group in groups:
        if group.missing:
            largest = max(group.items, key=lambda item: item.num_bytes)
            yield (
                f"{group.title}: {_gb(group.total)} needed, {_gb(group.available)} free, {_gb(group.missing)} missing. "
                f"Most of it: {largest.name} ({_gb(largest.num_bytes)}). {_advice(group, run, size, machine, ranks)}"
            )


def _advice(group: Group, run: TrainingRun, size: TransformerSize, machine: Machine, ranks: int) -> str:
    match group.title:
        case "Each GPU, training":
            return _device_advice(run, size, machine, ranks)
        case "GPU, while the latent cache is made":
            return "Make the latent cache on a larger GPU and copy it: training reads nothing else."
        case "Host memory, while the model is loaded":
            copies = machine.host_ram_bytes // size.weight_bytes(run.dtype)
            return f"Start at most {copies} processes here." if copies else "The model cannot be read on this machine."
        case "Disk":
            return "Free space, keep fewer checkpoints, or train with a smaller bank."
    fitting = fitting_bank(run.latents, machine, num_ranks=ranks).settings
    if run.bank not in (None, "fit") and fitting:
        return f"This bank fits: {_described(fitting)}."
    return "Turn on gradient checkpointing, or train with a smaller batch or size."


def _device_advice(run: TrainingRun, size: TransformerSize, machine: Machine, ranks: int) -> str:
    """The smallest change after which a GPU holds the run."""
    more = [count for count in (2, 4, 8, 16, 32, 64) if count > ranks]
    changes = [(strategy, ranks) for strategy in (run.strategy, *(LAUNCHERS if ranks > 1 else ()))]
    changes += [("fsdp", count) for count in more] if run.rank is not None else []
    for strategy, count in changes:
        for checkpointing in dict.fromkeys((run.checkpointing, "blocks")):
            changed = replace(run, strategy=strategy, checkpointing=checkpointing)
            items, _ = _training(changed, size, count)
            if sum(item.num_bytes for item in items) <= machine.gpu_memory_bytes:
                steps = [f"on {count} GPUs"] if count != ranks else []
                steps += ["with gradient checkpointing"] if checkpointing != run.checkpointing else []
                steps += [f"with assets/presets/{LAUNCHERS[strategy]}"] if strategy != run.strategy else []
                return f"It fits {', '.join(steps)}."
    return "Train at a smaller size, with a smaller batch, or on larger GPUs."


# Words


def _trained(size: TransformerSize) -> str:
    if size.rank is None:
        return f"Trains all {size.parameters:,} parameters."
    return (
        f"Trains {size.lora_parameters:,} parameters: a LoRA of rank {size.rank} on {size.lora_modules} layers "
        f"({2 * size.lora_modules} tensors) of a model of {size.parameters:,}."
    )


def _arrangement(plan: Plan) -> str:
    ranks = f"{plan.num_ranks} ranks, {plan.strategy}" if plan.num_ranks > 1 else "one process"
    kept = {"none": "no checkpointing", "blocks": "checkpointing", "blocks on host": "checkpointing on the host"}
    return f"{plan.num_tokens:,} tokens a step and rank; {ranks}; {kept[plan.checkpointing]}."


def _duration(plan: Plan) -> str:
    work = f"{plan.flops_per_step / 1e12:,.4g} TFLOP a step and rank"
    seconds = plan.seconds_per_step
    if seconds is None:
        return f"Time: unmeasured ({work})."
    return (
        f"Time: at least {_span(seconds)} a step and {_span(plan.num_steps * seconds)} for {plan.num_steps:,} steps "
        f"({work}, at the {plan.tflops:.3g} TFLOP/s measured for matrix products)."
    )


def _bank_sentence(latents: LatentShape, chosen: BankSettings, wanted: BankSettings, budget: int) -> str:
    fits = f"Error banks: {_described(chosen)}, {_gb(bank_bytes(latents, chosen))} a rank when full"
    free = f"{_gb(budget)} may be used"
    if chosen == wanted:
        return f"{fits}; {free}."
    return f"{fits}; {free}, and {_described(wanted)} would take {_gb(bank_bytes(latents, wanted))}."


def _described(settings: BankSettings) -> str:
    pooled = f" pooled {settings.pooling} × {settings.pooling}" if settings.pooling > 1 else ""
    place = "in files" if settings.folder else "in memory"
    return (
        f"{settings.capacity} errors at each of {settings.num_grids} noise levels, {settings.storage}{pooled} {place}"
    )


def _of(ranks: int) -> str:
    return f" of {ranks} ranks" if ranks > 1 else ""


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"
