"""The models of a training run: loaded with what is trained marked, averaged, saved and put back."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from engine.config import Preset, load_preset
from engine.errors import TrainingError
from engine.models import components as families
from engine.models.components import Components
from engine.models.lora import MODULES_PER_BLOCK, Lora, LoraModule, load_into_adapter
from engine.pocket import model
from engine.pocket.codec import FieldCodec
from engine.pocket.layout import weights
from engine.training.dataset import scan
from engine.training.export import LoraCard, write_lora
from engine.training.latent_cache import LatentCache, prepare
from engine.training.recipe import LoraSettings, TrainingConfig

Record = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Loaded:
    """A model and the modules of it that are trained; `identity` tells its checkpoints from those of another."""

    components: Components
    trained: dict[str, nn.Module]
    identity: dict[str, Any]


def load(config: TrainingConfig, device: torch.device) -> Loaded:
    """A new pocket model that says "nothing changes", or a finished model with an untrained LoRA."""
    if config.lora is None:
        return _new_model(config, device)
    row, preset = config.row, load_preset(config.lora.preset)
    components = families.load(preset.model_copy(update={"device": device.type}))
    components.transformer.requires_grad_(False)
    add_lora(components.transformer, config.lora)
    if config.gradient_checkpointing:
        components.transformer.enable_gradient_checkpointing()
    components.transformer.train()
    identity = {
        "variant": config.variant,
        "row": [row.method, row.num_motion_frames, row.padding],
        "rank": config.lora.rank,
        "alpha": alpha_of(config.lora),
        "model": model_name(preset, components),
        "recycling": config.recycling is not None,
    }
    return Loaded(components, {"transformer": components.transformer}, identity)


def _new_model(config: TrainingConfig, device: torch.device) -> Loaded:
    shape = model.PocketShape(**config.new_model.transformer.model_dump())
    text = model.build_text(shape)
    text.encoder.to(device)
    transformer = model.build_transformer(shape).train().to(device)
    components = Components(transformer, FieldCodec(), text, None, "sample", device, torch.float32)
    identity = {"variant": config.variant, "model": f"new pocket {shape}"}
    return Loaded(components, {"transformer": transformer, "text_encoder": text.encoder}, identity)


def add_lora(transformer: nn.Module, settings: LoraSettings) -> None:
    """Add a LoRA to the ten layers a block that an SVI LoRA adapts; only it needs gradients then."""
    from peft import LoraConfig

    config = LoraConfig(r=settings.rank, lora_alpha=alpha_of(settings), target_modules=list(MODULES_PER_BLOCK))
    transformer.add_adapter(config)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # the low-rank factors stay in float32, whatever the base is in
    if settings.start:
        load_into_adapter(transformer, settings.start, rank=settings.rank)


def alpha_of(settings: LoraSettings) -> float:
    return settings.alpha if settings.alpha is not None else float(settings.rank)


def model_name(preset: Preset, components: Components) -> str:
    """What tells one base model from another in a checkpoint: its family, size and the sum of its first weights."""
    config = components.transformer.config
    first = components.transformer.patch_embedding.weight.double().abs().sum().item()
    return f"{preset.family} {config.num_layers}×{config.num_attention_heads * config.attention_head_dim} {first:.6g}"


def averaged(loaded: Loaded) -> Components:
    """Copies of the trained modules for a running average, in components that share everything else."""
    components = loaded.components
    transformer = _frozen(components.transformer)
    if "text_encoder" not in loaded.trained:
        return replace(components, transformer=transformer)
    text = components.encode_text
    text = model.PocketText(text.tokenizer, _frozen(text.encoder), text.num_tokens)
    return replace(components, transformer=transformer, encode_text=text)


def modules_of(components: Components, names: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules of `components` under the names of the trained ones."""
    found = {"transformer": components.transformer}
    if "text_encoder" in names:
        found["text_encoder"] = components.encode_text.encoder
    return found


def trainable(modules: dict[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """The values that training changes, by module: the factors of a LoRA, or all weights of a new model."""
    return {
        name: {key: value for key, value in module.state_dict().items() if _is_trained(module, key)}
        for name, module in modules.items()
    }


def load_trainable(modules: dict[str, nn.Module], saved: dict[str, dict[str, Tensor]]) -> None:
    """Put back what `trainable` gave. Other names or shapes raise RuntimeError or KeyError."""
    for name, module in modules.items():
        wanted = {key for key in module.state_dict() if _is_trained(module, key)}
        if wanted != saved[name].keys():
            raise KeyError(f"{name} has other weights")
        module.load_state_dict(saved[name], strict=False)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode and without gradients, then as it was."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def save_lora(transformer: nn.Module, path: Path, config: TrainingConfig) -> None:
    """Write the LoRA under training in diffusers layout, whatever its alpha, with a card that names its origin."""
    modules = {
        name: LoraModule(layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"])
        for name, layer in transformer.named_modules()
        if hasattr(layer, "lora_A")
    }
    card = LoraCard(base_model=Path(config.lora.preset).stem, variant=config.variant, recipe=config.output.name)
    write_lora(Lora(path.name, modules, {}), path, layout="diffusers", card=card)


def save_model(components: Components, folder: Path) -> None:
    """Write a new pocket model in diffusers and transformers layout."""
    model.save_components(components, folder)


def encode_videos(
    config: TrainingConfig, loaded: Loaded, accelerator: Accelerator, record: Record
) -> Iterator[dict[str, Any]]:  # returns a LatentCache
    """Encode the windows of the recipe's videos once; yields progress. One process encodes, the others wait."""
    settings = config.videos
    folder = settings.cache or config.output / "latents"
    preset = load_preset(config.lora.preset)
    if accelerator.is_main_process:
        dataset = scan(settings.folder, num_frames=settings.num_frames, fps=settings.fps)
        steps = prepare(
            dataset,
            loaded.components,
            folder=folder,
            variant=config.row,
            size=settings.size,
            num_frames=settings.num_frames,
            fps=settings.fps,
            windows_per_video=settings.windows_per_video,
            anchor=settings.anchor,
            anchors_per_window=settings.anchors_per_window,
            seed=config.seed,
            max_sequence_length=preset.max_sequence_length,
            identity=loaded.identity["model"],
            dtype=loaded.components.dtype,
        )
        for step in steps:
            yield record(**step)
    accelerator.wait_for_everyone()
    cache = LatentCache(folder)
    if len(cache) == 0:
        raise TrainingError("None of the videos could be encoded.", "See the list of skipped files.")
    return cache


def move_encoders(components: Components, device: torch.device) -> None:
    """Move what encodes texts, pictures and videos to `device`: 14 GB with Wan, idle while a cache is trained on."""
    for part in (components.encode_text, components.encode_image, components.codec):
        module = getattr(part, "encoder", None) or getattr(part, "vae", None)
        if module is not None:
            module.to(device)


def batch_size(config: TrainingConfig) -> int:
    """Clips that a rank takes at once; the largest, where batches differ."""
    if config.videos:
        return config.videos.batch_size
    return max(b.num_pictures * b.prompts_per_picture for phase in config.phases for b in phase.buckets)


def latent_weights(num_latent_frames: int, last_frame_weight: float) -> Tensor:
    """Weights (1, C, f, 1, 1) of squared errors: the layout's, more for the last latent frame, none for the first,
    which is its own base. Channels sum to 1."""
    frames = torch.ones(num_latent_frames)
    frames[0], frames[-1] = 0.0, last_frame_weight
    return weights() * (frames / frames.mean()).view(1, 1, -1, 1, 1)


def _is_trained(module: nn.Module, key: str) -> bool:
    adapted = any("lora_" in name for name, _ in module.named_parameters())
    return not adapted or "lora_" in key


def _frozen(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)
