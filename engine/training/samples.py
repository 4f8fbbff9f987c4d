"""Films made while training, with the weights of that moment, by the backend that makes every film."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.backends.base import ClipResult
from engine.backends.local import LocalBackend, to_frames
from engine.config import VariantPreset, load_preset
from engine.domain import ClipRequest, Resolution
from engine.models.components import Components
from engine.pocket.motion import last_of
from engine.timeline import Timeline
from engine.training.recipe import TrainingConfig

SHOWN = 12  # pictures in a row of the sheet


def make_film(
    components: Components, config: TrainingConfig, anchor: np.ndarray, prompts: Sequence[str]
) -> list[np.ndarray]:
    """The clips (F, H, W, 3) uint8 of a film that starts from `anchor` (H, W, 3): one a prompt.

    The transformer is used as it is, with the LoRA under training still an adapter.
    """
    preset = load_preset(config.lora.preset)
    preset = preset.model_copy(update={"variants": {config.variant: VariantPreset()}})
    variant = config.row
    steps = config.samples.num_inference_steps or preset.num_inference_steps
    num_frames = config.videos.num_frames if config.videos else preset.num_frames
    timeline = Timeline(num_frames, variant.num_motion_frames, preset.fps)
    backend = LocalBackend(components, preset)
    is_composed = preset.handover == "composed"
    clips, condition, states = [], anchor[None], None
    try:
        for index, prompt in enumerate(prompts):
            request = ClipRequest(
                digest=f"{index:064x}",
                clip_id=f"{index:026d}",
                index=index,
                variant=config.variant,
                prompt=prompt,
                negative_prompt=preset.negative_prompt,
                seed=config.seed + index,
                num_inference_steps=steps,
                guidance_scale=preset.guidance_scale,
                lora_strength=0.0,
                num_frames=num_frames,
                overlap=timeline.overlap(index),
                fps=preset.fps,
                resolution=Resolution(anchor.shape[1], anchor.shape[0]),
                parent_digest=None,
                anchor=anchor,
                condition_frames=condition,
                picture=anchor if is_composed else None,
                tail_states=states,
                is_composed=is_composed,
            )
            *_, result = backend.generate(request)
            assert isinstance(result, ClipResult)
            clips.append(result.frames)
            condition = result.frames[-variant.num_motion_frames :]
            states = last_of(result.tail_states, variant.num_motion_frames) if is_composed else None
    finally:
        backend.release()
    return clips


def write_sheet(anchor: np.ndarray, clips: Sequence[np.ndarray], path: Path) -> Path:
    """The anchor and the last frames of the clips, evenly picked when there are many, as one row."""
    picked = np.linspace(0, len(clips) - 1, min(len(clips), SHOWN)).round().astype(int)
    row = np.concatenate([anchor, *(clips[index][-1] for index in picked)], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(row).save(temporary, format="PNG")
    temporary.replace(path)
    return path


@torch.no_grad()
def first_frame(components: Components, latents: Tensor) -> np.ndarray:
    """(H, W, 3) uint8: the first frame of encoded latents (C, f, h, w)."""
    pixels = components.codec.decode(latents[None, :, :1].float().to(components.device))
    return to_frames(pixels, "round")[0]
