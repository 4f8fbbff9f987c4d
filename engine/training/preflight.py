"""The plan of a recipe: what `train RECIPE --dry-run` prints and the studio shows before anything starts."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from engine.config import Preset, load_preset
from engine.errors import ConfigError, TrainingError
from engine.models.published import WAN_I2V_14B
from engine.pocket.model import PocketShape, transformer_config
from engine.pocket.world import GROUP
from engine.training.dataset import scan
from engine.training.error_bank import BankSettings
from engine.training.footprint import Item, LatentShape, Strategy, wan_encoders
from engine.training.plan import Machine, Plan, TrainingRun, training_plan
from engine.training.recipe import TrainingConfig
from engine.variants import Variant


def preflight(
    config: TrainingConfig, machine: Machine, *, strategy: Strategy = "plain", tflops: float | None = None
) -> tuple[Plan, list[str]]:
    """The plan of `config` on `machine`, and what had to be assumed because it is not on this machine."""
    notes: list[str] = []
    row = config.row
    sizes = _new_model(config) if config.new_model else transformer_of(load_preset(config.lora.preset), notes)
    latents, batch_size = _clips(config, sizes)
    is_pocket = config.new_model is not None or load_preset(config.lora.preset).family == "pocket"
    return (
        training_plan(
            TrainingRun(
                config=sizes,
                latents=latents,
                rank=config.lora.rank if config.lora else None,
                num_steps=config.num_steps,
                strategy=strategy,
                checkpointing="blocks" if config.gradient_checkpointing else "none",
                dtype="float32" if is_pocket or config.precision == "no" else "bfloat16",
                batch_size=batch_size,
                text_tokens=_text_tokens(config, is_pocket),
                picture_tokens=257 if sizes.get("image_dim") else 0,
                num_windows=_num_windows(config, notes),
                num_conditions=_conditions(config, row),
                encoders=_encoders(config, is_pocket),
                running_average=config.ema > 0,
                bank=_bank(config),
            ),
            machine,
            tflops=tflops,
        ),
        notes,
    )


def on_machine(
    machine: Machine,
    *,
    gpus: int | None,
    gpu_gb: float | None,
    ram_gb: float | None = None,
    disk_gb: float | None = None,
) -> Machine:
    """`machine` with what is given in its place; GPUs need both a number and their memory."""
    if (gpus is None) != (gpu_gb is None) or any(n is not None and n <= 0 for n in (gpus, gpu_gb, ram_gb, disk_gb)):
        raise ConfigError("A machine to plan for needs a number of GPUs and their memory.", "Say --gpus 8 --gpu-gb 80.")
    given = {
        "num_gpus": gpus,
        "gpu_memory_bytes": gpu_gb and int(gpu_gb * 1e9),
        "host_ram_bytes": ram_gb and int(ram_gb * 1e9),
        "disk_free_bytes": disk_gb and int(disk_gb * 1e9),
    }
    return replace(machine, **{name: value for name, value in given.items() if value is not None})


def _new_model(config: TrainingConfig) -> dict[str, object]:
    return transformer_config(PocketShape(**config.new_model.transformer.model_dump()))


def transformer_of(preset: Preset, notes: list[str]) -> dict[str, object]:
    """The configuration of the preset's transformer; Wan 2.1 I2V 14B, noted, while its weights are not here."""
    path = preset.component("transformer") / "config.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    if preset.family != "wan":
        raise TrainingError(f"The model of the preset “{preset.name}” is not here.", "Check `model` in the preset.")
    notes.append(f"The weights of “{preset.title}” are not on this machine: planned for Wan 2.1 I2V 14B.")
    return dict(WAN_I2V_14B)


def _clips(config: TrainingConfig, sizes: dict[str, object]) -> tuple[LatentShape, int]:
    """The largest latents of a step, and how many."""
    channels = int(sizes["out_channels"])
    if config.videos:
        height, width = config.videos.size
        return LatentShape.of(width, height, config.videos.num_frames, channels=channels), config.videos.batch_size
    buckets = [bucket for phase in config.phases for bucket in phase.buckets]
    largest = max(buckets, key=lambda b: b.num_pictures * b.prompts_per_picture * b.grid[0] * b.grid[1] * b.num_frames)
    latents = LatentShape(channels, (largest.num_frames - 1) // GROUP + 1, *largest.grid)
    return latents, largest.num_pictures * largest.prompts_per_picture


def _num_windows(config: TrainingConfig, notes: list[str]) -> int:
    if config.videos is None:
        return 0
    if not config.videos.folder.is_dir():
        notes.append(f"The folder {config.videos.folder.name} is not here: the latent cache is left out.")
        return 0
    settings = config.videos
    dataset = scan(settings.folder, num_frames=settings.num_frames, fps=settings.fps)
    return len(dataset.items) * settings.windows_per_video


def _text_tokens(config: TrainingConfig, is_pocket: bool) -> int:
    if config.new_model:
        return config.new_model.transformer.text_tokens
    return PocketShape.text_tokens if is_pocket else 512


def _conditions(config: TrainingConfig, row: Variant) -> int:
    anchors = config.videos.anchors_per_window if config.videos else 1
    return anchors * (2 if row.num_motion_frames > 1 else 1)


def _encoders(config: TrainingConfig, is_pocket: bool) -> tuple[Item, ...]:
    """What is loaded beside the transformer while videos are encoded; the pocket's parts are too small to count."""
    if config.videos is None or is_pocket:
        return ()
    height, width = config.videos.size
    return tuple(wan_encoders(width, height))


def _bank(config: TrainingConfig) -> BankSettings | str | None:
    if config.recycling is None:
        return None
    if config.recycling.bank.fit:
        return "fit"
    bank = config.recycling.bank
    folder = config.output / "banks-0" if bank.on_disk else None
    return BankSettings(bank.num_grids, bank.capacity, bank.storage, bank.replacement, bank.pooling, folder)


def default_machine(config: TrainingConfig) -> Machine:
    return Machine.here(Path(config.output))


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
