"""Where the parts of a full-size model can live, and what each way costs: arithmetic on sizes, without torch.

The ladder leads from everything on the GPU to one layer at a time. Bytes of weights are counted on the published
configurations; bytes of activations are the peak of what diffusers 0.42 allocates for a bfloat16 transformer and a
float32 VAE. A test walks the ladder on a stand-in for a GPU and holds these figures to it; no card has confirmed them.
"""

import importlib.metadata
import json
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine.config import Preset, TierName, models_dir
from engine.domain import Resolution
from engine.environment import free_memory
from engine.errors import ConfigError, nearest
from engine.variants import Base

log = logging.getLogger(__name__)
GB = 10**9
GIB = 2**30
HOST_RESERVE = 6 * GIB  # Python, CUDA's libraries, frames of a clip, and what else the machine does
SLACK = 1 * GIB  # cuDNN's and cuBLAS's workspaces, and what fragmentation makes unusable: estimated
STREAMED_GROUPS = 3  # the one that computes, the one that is fetched, and one that its stream has not let go of
TEXT_ACTIVATIONS = GIB // 4  # 512 tokens through UMT5-XXL, its 64 × 512 × 512 scores in float32 among them
CONTEXT_TOKENS = 512 + 257  # text and picture
EFFICIENCY = 0.44  # of the card's matmul rate, as eager diffusers reaches on an H100 (9.77 s a step, LightX2V README)
TFLOPS = {  # bfloat16 matmul rates of cards by what their names contain: H200 measured, the others from their data
    "H200": 790.0,
    "H100": 790.0,  # the same chip
    "5090": 209.0,
    "A100": 270.0,
    "4090": 165.0,
}
VERSION = 1

DeviceKind = Literal["cuda", "rocm", "mps", "cpu"]


# ---- what is given


@dataclass(frozen=True)
class Machine:
    """What a machine has, in bytes; `free` is what this process may still take. notes: what stands in the way of its
    GPU, or must be said of it."""

    name: str
    kind: DeviceKind
    free_ram: int
    free_vram: int = 0
    total_vram: int = 0
    compute_capability: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_gpu(self) -> bool:
        return self.kind in ("cuda", "rocm")


@dataclass(frozen=True)
class ModelSizes:
    """Bytes of a model's weights as they are loaded.

    expert: one of `num_experts` transformers; block: the largest of its blocks; outside: what of it is in no block;
    leaf: its largest layer. expert_in_8_bits, block_in_8_bits: the same with float8 layers, None where they are
    quantised already. text_leaf: the largest layer of the text encoder. image: 0 where the model has no image encoder.
    """

    expert: int
    num_experts: int
    block: int
    outside: int
    leaf: int
    expert_in_8_bits: int | None
    block_in_8_bits: int | None
    text: int
    text_leaf: int
    vae: int
    image: int

    @property
    def on_cpu(self) -> int:
        """All of it as a CPU computes it: transformer and text encoder in float32 instead of bfloat16."""
        return 2 * (self.num_experts * self.expert + self.text) + self.vae + self.image


WAN_21 = ModelSizes(
    expert=32_848_151_168,
    num_experts=1,
    block=807_758_848,
    outside=537_797_248,
    leaf=314_634_240,
    expert_in_8_bits=16_697_275_008,
    block_in_8_bits=403_986_944,
    text=11_361_820_672,
    text_leaf=2_100_297_728,
    vae=507_570_124,
    image=2_523_064_320,
)
WAN_22 = ModelSizes(
    expert=28_636_170_368,
    num_experts=2,
    block=702_870_528,
    outside=521_349_248,
    leaf=314_634_240,
    expert_in_8_bits=14_582_855_808,
    block_in_8_bits=351_537_664,
    text=WAN_21.text,
    text_leaf=WAN_21.text_leaf,
    vae=WAN_21.vae,
    image=0,
)
PUBLISHED: dict[Base, ModelSizes] = {"wan2.1": WAN_21, "wan2.2": WAN_22}


@dataclass(frozen=True)
class Activations:
    """Bytes beside the weights while one clip is made: a denoising step, the VAE's encoding and its decoding."""

    step: int
    encode: int
    decode: int
    tiled_decode: int

    @classmethod
    def of(cls, resolution: Resolution, num_frames: int, *, branches: int = 1) -> "Activations":
        """Peaks at 14B for `branches` of guidance in one pass. At 81 × 480 × 832: 4.7, 5.6, 7.6 and 1.7 GiB.

        A step by token (30 bytes by channel; 22 for each further clip of the batch), the VAE by pixel, for it goes
        through time in chunks, and by what it puts together: 12 bytes for each colour of each frame, four times tiled.
        """
        pixels = resolution.width * resolution.height
        video = pixels * num_frames
        tokens = pixels // 256 * ((num_frames - 1) // 4 + 1)
        return cls(
            step=tokens * (154_000 + (branches - 1) * 114_700),
            encode=14_080 * pixels + 25 * video // 2,
            decode=19_470 * pixels + 49 * video // 4,
            tiled_decode=max(1_290_000_000 + 14 * video, 56 * video),
        )


def gpu_notes(
    cuda_build: str | None = None,
    *,
    driver: str | None = None,
    capability: tuple[int, int] | None = None,
    is_rocm: bool = False,
    has_mps: bool = False,
    has_gpu: bool = False,
) -> tuple[str, ...]:
    """What must be said of a GPU, or of one that is not used, and what works instead.

    cuda_build: the CUDA version that torch was built for; driver: the version of NVIDIA's driver, None without one.
    """
    if has_gpu and is_rocm:
        return ("AMD's GPUs go through the same code as NVIDIA's; the studio has not been tried on one.",)
    if has_gpu and capability is not None and capability < (8, 0):
        return ("This GPU emulates bfloat16: it works and is slow.",)
    if has_gpu:
        return ()
    if driver is not None and cuda_build is None:
        return ("There is an NVIDIA GPU, and this build of torch cannot use it: install the build for CUDA.",)
    if driver is not None:
        return (
            f"There is an NVIDIA GPU, and torch, built for CUDA {cuda_build}, cannot use its driver ({driver}): update "
            "the driver, or install torch for an older CUDA.",
        )
    if has_mps:
        return ("Apple's GPU is not used. The preset “pocket” is made for the CPU.",)
    return ()


def machine_seen() -> Machine:
    """This machine without torch: the first GPU that NVIDIA's tool lists, unless the installed torch cannot use one."""
    query = "--query-gpu=name,memory.free,memory.total,compute_cap,driver_version"
    try:
        told = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        name, free, total, capability, driver = (part.strip() for part in told.stdout.splitlines()[0].split(","))
        vram = int(free) << 20, int(total) << 20
        major, minor = (int(digit) for digit in capability.split("."))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        has_mps = sys.platform == "darwin" and platform.machine() == "arm64"
        return Machine("this CPU", "mps" if has_mps else "cpu", free_memory(), notes=gpu_notes(has_mps=has_mps))
    try:
        for_cpu = "+cpu" in importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        for_cpu = False
    if for_cpu:
        return Machine("this CPU", "cpu", free_memory(), notes=gpu_notes(driver=driver))
    notes = gpu_notes(has_gpu=True, capability=(major, minor))
    return Machine(name, "cuda", free_memory(), *vram, compute_capability=(major, minor), notes=notes)


# ---- the ladder


@dataclass(frozen=True)
class Tier:
    """One way to place a model. vram_bytes: expected peak on the GPU; ram_bytes: peak in host memory, loading included;
    kept_bytes: weights that stay in host memory.

    exact: the pictures are those of every other exact tier. meaning: what it does, in words.
    """

    name: TierName
    meaning: str
    vram_bytes: int
    ram_bytes: int
    kept_bytes: int = 0
    exact: bool = True

    @property
    def needs(self) -> str:
        return f"{in_gb(self.vram_bytes)} GB of GPU memory and {in_gb(self.ram_bytes)} GB of host memory"

    def fits(self, machine: Machine) -> bool:
        return self.vram_bytes <= machine.free_vram and self.ram_bytes <= machine.free_ram


MEANINGS: dict[TierName, str] = {
    "resident": "the whole model stays on the GPU",
    "text on host": "the text encoder waits in host memory",
    "experts in turn": "the expert that does not compute waits in host memory",
    "streamed": "the blocks of the model stream from host memory while it computes",
    "float8": "the blocks are kept in 8 bits and stream from host memory: pictures lose some precision",
    "leaves": "single layers stream from host memory",
    "tiled": "single layers stream from host memory and pictures are decoded in tiles: seams may grow over many clips",
}


def ladder(sizes: ModelSizes, work: Activations, *, in_8_bits: bool = False) -> tuple[Tier, ...]:
    """The tiers from the fastest to the smallest. in_8_bits: those of a model whose layers are kept in float8."""
    busiest = max(work.step, work.encode, work.decode)
    experts, encoders = sizes.num_experts * sizes.expert, sizes.vae + sizes.image
    reading_text = sizes.text_leaf + TEXT_ACTIVATIONS

    def tier(name: TierName, vram: int, *, kept: Sequence[int], text: bool = True, image: bool = True) -> Tier:
        ram = host_peak(sizes, kept=kept, keeps_text=text, keeps_image=image)
        stays = sum(kept) + sizes.text * text + sizes.image * image
        return Tier(name, MEANINGS[name], vram + SLACK, ram, stays, exact=not in_8_bits and name != "tiled")

    def off_the_gpu(name: TierName, weights: int, decode: int) -> Tier:
        """No expert stays on the GPU; the encoders come and go by layers."""
        phases = (weights + work.step, work.encode, decode, sizes.image, reading_text)
        kept = sizes.expert_in_8_bits if in_8_bits else sizes.expert
        return tier(name, sizes.vae + max(phases), kept=(kept,) * sizes.num_experts)

    lower = (
        off_the_gpu("leaves", STREAMED_GROUPS * sizes.leaf, work.decode),
        off_the_gpu("tiled", STREAMED_GROUPS * sizes.leaf, work.tiled_decode),
    )
    if in_8_bits:
        weights = sizes.outside + STREAMED_GROUPS * sizes.block_in_8_bits + sizes.leaf  # one layer in 16 bits at a time
        return (off_the_gpu("float8", weights, work.decode), *lower)
    nothing = (0,) * sizes.num_experts
    upper = [
        tier("resident", experts + sizes.text + encoders + busiest, kept=nothing, text=False, image=False),
        tier("text on host", experts + encoders + max(busiest, reading_text), kept=nothing, image=False),
    ]
    if sizes.num_experts > 1:
        one = sizes.expert + encoders + max(busiest, reading_text)
        upper.append(tier("experts in turn", one, kept=(0, *(sizes.expert,) * (sizes.num_experts - 1)), image=False))
    streamed = off_the_gpu("streamed", sizes.outside + STREAMED_GROUPS * sizes.block, work.decode)
    return (*upper, streamed, *lower)


def host_peak(sizes: ModelSizes, *, kept: Sequence[int], keeps_text: bool, keeps_image: bool) -> int:
    """Host memory that loading and running take: each part is read whole, then goes where it belongs. Experts are read
    first. kept: what of each expert stays in host memory.
    """
    parts = [(sizes.expert, stays) for stays in kept]
    parts += [(sizes.vae, 0), (sizes.text, sizes.text * keeps_text), (sizes.image, sizes.image * keeps_image)]
    held = peak = 0
    for read, stays in parts:
        peak = max(peak, held + read)
        held += stays
    return reserve(sizes) + max(peak, held)


def reserve(sizes: ModelSizes) -> int:
    """Host memory for everything but the weights; small models do small work."""
    return min(HOST_RESERVE, sizes.num_experts * sizes.expert + sizes.text + sizes.vae + sizes.image)


# ---- the choice


@dataclass(frozen=True)
class Choice:
    """Where a model begins: one of `rungs`, or None when none fits. sentence: what was chosen and why, or what is
    missing."""

    rungs: tuple[Tier, ...]
    tier: Tier | None
    sentence: str


def choose(
    machine: Machine,
    sizes: ModelSizes,
    work: Activations,
    *,
    asked: TierName | Literal["auto"] = "auto",
    remembered: TierName | None = None,
) -> Choice:
    """The first tier that fits into what is free, none above the `remembered` one. One that is asked for is taken
    whether it fits or not.

    Float8 is lossy: it is chosen only where host memory is too small for the exact tiers. Without a GPU nothing can be
    given up, and the model is computed where it is.
    """
    if asked != "auto":
        return _asked(machine, sizes, work, asked)
    if not machine.has_gpu:
        return _on_cpu(machine, sizes, work)
    exact = ladder(sizes, work)
    ladders = [exact] + ([ladder(sizes, work, in_8_bits=True)] if sizes.expert_in_8_bits else [])
    for rungs in ladders:
        names = [tier.name for tier in rungs]
        first = names.index(remembered) if remembered in names else 0
        for tier in rungs[first:]:
            if tier.fits(machine):
                return Choice(rungs, tier, _reason(machine, tier, remembered=first > 0))
    return Choice(exact, None, _missing(machine, ladders))


def _asked(machine: Machine, sizes: ModelSizes, work: Activations, asked: TierName) -> Choice:
    rungs = ladder(sizes, work, in_8_bits=asked == "float8" and sizes.expert_in_8_bits is not None)
    by_name = {tier.name: tier for tier in rungs}
    if asked not in by_name:
        raise ConfigError(f"The tier “{asked}” does not suit this model.", nearest(asked, list(by_name)))
    tier = by_name[asked]
    doubt = "" if not machine.has_gpu or tier.fits(machine) else f" It may not fit: it takes about {tier.needs}."
    return Choice(rungs, tier, f"As the preset asks: {tier.meaning} (tier “{tier.name}”).{doubt}")


def _on_cpu(machine: Machine, sizes: ModelSizes, work: Activations) -> Choice:
    ram = reserve(sizes) + sizes.on_cpu + max(2 * work.step, work.encode, work.decode)
    tier = Tier("resident", "the whole model is in host memory", 0, ram)
    if ram > machine.free_ram:
        lowest = ladder(sizes, work)[-1]
        missing = (
            f"On the CPU the model needs {in_gb(ram)} GB of memory and {in_gb(machine.free_ram)} GB are free: "
            f"{in_gb(ram - machine.free_ram)} GB are missing. With a GPU, {lowest.needs} are enough (tier "
            f"“{lowest.name}”)."
        )
        return Choice((tier,), None, " ".join([missing, *machine.notes]))
    return Choice((tier,), tier, " ".join([f"The model computes on the CPU ({machine.name}).", *machine.notes]))


def _reason(machine: Machine, tier: Tier, *, remembered: bool) -> str:
    why = "memory ran out above it before" if remembered else f"{in_gb(machine.free_vram)} GB of GPU memory are free"
    if tier.name == "float8":
        why += f" and only {in_gb(machine.free_ram)} GB of host memory"
    return f"{tier.meaning[0].upper()}{tier.meaning[1:]} (tier “{tier.name}”, about {tier.needs}): {why}."


def _missing(machine: Machine, ladders: Sequence[Sequence[Tier]]) -> str:
    """What the tier that comes nearest to fitting lacks."""

    def lack(tier: Tier) -> int:
        return max(tier.vram_bytes - machine.free_vram, 0) + max(tier.ram_bytes - machine.free_ram, 0)

    nearest_tier = min((tier for rungs in ladders for tier in rungs), key=lack)
    lacks = [
        f"{in_gb(needed - free)} GB of {what}"
        for needed, free, what in (
            (nearest_tier.vram_bytes, machine.free_vram, "GPU memory"),
            (nearest_tier.ram_bytes, machine.free_ram, "host memory"),
        )
        if needed > free
    ]
    return (
        f"The model does not fit: even the tier “{nearest_tier.name}” needs {nearest_tier.needs}, and "
        f"{in_gb(machine.free_vram)} and {in_gb(machine.free_ram)} GB are free. Missing: {' and '.join(lacks)}."
    )


def in_gb(num_bytes: int) -> str:
    return f"{num_bytes / GB:.1f}" if num_bytes < 100 * GB else f"{num_bytes / GB:.0f}"


# ---- what earlier runs have shown


@dataclass(frozen=True)
class Lesson:
    """What was seen of one preset, size and machine. tier: where it ended after memory had run out, and how much was
    free then; seconds_per_step: measured by `bench memory`."""

    tier: TierName | None = None
    free_vram: int = 0
    seconds_per_step: float | None = None

    def tier_for(self, machine: Machine) -> TierName | None:
        """The tier to begin at; None when a good deal more memory is free than when it was learned."""
        return self.tier if machine.free_vram <= 1.25 * self.free_vram else None


def lesson_key(preset: Preset, resolution: Resolution, machine: Machine) -> str:
    return f"{preset.name} {resolution.width}x{resolution.height}x{preset.num_frames} {machine.name}"


def lesson(key: str) -> Lesson:
    """What is remembered under `key`; a file that is absent or damaged has taught nothing."""
    entry = _lessons().get(key)
    try:
        return Lesson(**entry) if isinstance(entry, dict) else Lesson()
    except TypeError:
        return Lesson()


def learn(key: str, **changes: object) -> None:
    """Remember fields of a `Lesson` for the next start; where that cannot be written, nothing is lost but time."""
    from engine.project.files import write_atomically

    entries = _lessons()
    entries[key] = vars(replace(lesson(key), **changes))
    data = json.dumps({"version": VERSION, "lessons": entries}, indent=1, sort_keys=True, ensure_ascii=False)
    try:
        _lessons_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_lessons_file(), data.encode(), point="tiers")
    except OSError as err:
        log.warning("the memory tier could not be remembered (%s)", err)


def _lessons_file() -> Path:
    return models_dir() / "tiers.json"


def _lessons() -> dict[str, object]:
    try:
        data = json.loads(_lessons_file().read_text(encoding="utf-8"))
        return dict(data["lessons"]) if data["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


# ---- what to expect of a preset


@dataclass(frozen=True)
class Forecast:
    """What a clip of a preset takes on a machine. tier: None where it cannot run; problems: why, one sentence each.

    minutes_per_clip: None where nothing is known of the machine's speed; basis: where the figure comes from.
    """

    tier: TierName | None
    sentence: str
    vram_gb: float
    ram_gb: float
    disk_gb: float
    minutes_per_clip: float | None
    basis: Literal["measured", "computed", "unknown"]
    problems: tuple[str, ...]


def forecast(preset: Preset, machine: Machine, resolution: Resolution) -> Forecast:
    """What to expect of `preset` at `resolution`, before anything is loaded. Nothing on the disk is changed."""
    if preset.device == "cpu":
        machine = Machine("this CPU", "cpu", machine.free_ram)
    machine = replace(machine, free_ram=machine.free_ram // preset.gpus)  # each process loads the model
    work = Activations.of(resolution, preset.num_frames, branches=preset.branches)
    known = lesson(lesson_key(preset, resolution, machine))
    sizes = sizes_of(preset)
    choice = choose(machine, sizes, work, asked=preset.tier, remembered=known.tier_for(machine))
    disk, missing_disk = disk_needs(preset)
    problems = [] if choice.tier else [choice.sentence]
    if missing_disk > 0:
        problems.append(f"{in_gb(missing_disk)} GB of disk space are missing for its weights.")
    expected = choice.tier or choice.rungs[-1]
    minutes, basis = _minutes(preset, machine, resolution, known)
    return Forecast(
        tier=choice.tier.name if choice.tier else None,
        sentence=choice.sentence,
        vram_gb=round(expected.vram_bytes / GB, 1),
        ram_gb=round(expected.ram_bytes / GB, 1),
        disk_gb=round(disk / GB, 1),
        minutes_per_clip=minutes,
        basis=basis,
        problems=tuple(problems),
    )


def sizes_of(preset: Preset) -> ModelSizes:
    """Bytes of the preset's parts: those published for its base, less where a GGUF file or a config.json says so.

    Upstream's layout tells the size of the transformer only; the other parts are taken to shrink with it.
    """
    published = PUBLISHED[preset.base]
    model, transformer = preset.path(preset.model), preset.component("transformer")
    share = text_share = 1.0
    for config in (transformer / "config.json", model / "config.json", model / HIGH_NOISE / "config.json"):
        if (own := _block_elements(config)) is not None:
            share = text_share = min(own / _PUBLISHED_BLOCKS, 1.0)
            two = preset.component("transformer_2").exists() or (model / HIGH_NOISE).is_dir()
            published = replace(published, num_experts=1 + two)
            break
    if (text := _block_elements(preset.component("text_encoder") / "config.json")) is not None:
        text_share = min(text / _PUBLISHED_TEXT_BLOCKS, 1.0)
    scaled = {
        name: int(value * (text_share if name.startswith("text") else share))
        for name, value in vars(published).items()
        if name != "num_experts" and value is not None
    }
    if transformer.suffix == ".gguf" and (expert := _size(transformer)):
        quantised = {name: scaled[name] * expert // published.expert for name in ("block", "leaf")}
        scaled |= quantised | {"expert": expert, "expert_in_8_bits": None, "block_in_8_bits": None}
    return replace(published, **scaled)


HIGH_NOISE = "high_noise_model"  # upstream's folder of the first of two experts
_PUBLISHED_BLOCKS = 40 * (8 * 5120**2 + 2 * 5120 * 13_824)
_PUBLISHED_TEXT_BLOCKS = 24 * (4 * 4096 * 4096 + 3 * 4096 * 10_240)


def _block_elements(config: Path) -> int | None:
    """Elements of the matrices in all blocks of a transformer or text encoder, by its config.json in either layout."""
    try:
        sizes = json.loads(config.read_text(encoding="utf-8"))
        if "d_model" in sizes:
            width, inner = sizes["d_model"], sizes["num_heads"] * sizes["d_kv"]
            return sizes["num_layers"] * (4 * width * inner + 3 * width * sizes["d_ff"])
        width = sizes.get("dim") or sizes["num_attention_heads"] * sizes["attention_head_dim"]
        return sizes["num_layers"] * (8 * width**2 + 2 * width * sizes["ffn_dim"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def disk_needs(preset: Preset) -> tuple[int, int]:
    """Bytes of the preset's downloadable weights, and how many of them neither are here nor have room."""
    from engine.weights.inventory import bytes_known, items
    from engine.weights.lock import read_lock
    from engine.weights.needs import needs_of

    models = models_dir()
    lock = read_lock(models)
    needs = needs_of(preset)
    total = here = 0
    for entry in dict.fromkeys(want.entry.id for want in needs.wanted):
        files = items([want for want in needs.wanted if want.entry.id == entry], models, lock)
        size, _ = bytes_known(files[0].entry, files) if files else (None, False)
        present = sum(_size(models / file.key) for file in files)
        total += max(size or 0, present)
        here += present
    existing = next(folder for folder in (models, *models.parents) if folder.exists())
    return total, max(total - here - shutil.disk_usage(existing).free, 0)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def clip_flops(resolution: Resolution, num_frames: int, num_passes: int) -> int:
    """Floating-point operations of a clip at 14B (d 5120, F 13,824, 40 blocks, n tokens): each pass 12 n d² + 4 n d F
    for the linear layers, 4 c d² for keys and values of the context, 4 n (n + c) d for attention, by block. At
    81 × 480 × 832: 1,686 TFLOP a pass."""
    width, ffn = 5120, 13_824
    tokens = resolution.width * resolution.height // 256 * ((num_frames - 1) // 4 + 1)
    linear = 12 * tokens * width**2 + 4 * tokens * width * ffn
    attention = 4 * CONTEXT_TOKENS * width**2 + 4 * tokens * (tokens + CONTEXT_TOKENS) * width
    return num_passes * 40 * (linear + attention)


def _minutes(
    preset: Preset, machine: Machine, resolution: Resolution, known: Lesson
) -> tuple[float | None, Literal["measured", "computed", "unknown"]]:
    """Minutes of a clip in full quality: by the measured step, else by the card's matmul rate, else unknown."""
    steps = preset.num_inference_steps
    if known.seconds_per_step:
        return round(steps * known.seconds_per_step / 60, 1), "measured"
    rate = next((rate for name, rate in TFLOPS.items() if name in machine.name), None)
    if rate is None or not machine.has_gpu:
        return None, "unknown"
    passes = steps * (1 if preset.guidance_scale == 1.0 else 2)
    seconds = clip_flops(resolution, preset.num_frames, passes) / (rate * 1e12 * EFFICIENCY)
    return round(seconds / 60, 1), "computed"
