"""A Wan image-to-video model of a few thousand parameters in diffusers layout, and the preset that runs it."""

from pathlib import Path

from engine.config import Preset, load_preset
from engine.models.untrained import WanSize, build

PRESET = """\
title: Tiny Wan
family: wan
model: model
num_frames: 9
fps: 8
resolutions: [[32, 32]]
num_inference_steps: 2
guidance_scale: 5.0
negative_prompt: blurred
shift: 5.0
device: cpu
dtype: float32
"""


def write_tiny_wan(folder: Path, *, takes_picture: bool = True, preset: str = PRESET) -> Preset:
    """Save a tiny model under `folder`/model and a preset beside it; returns the preset as the CLI would load it."""
    modules = build(WanSize(), takes_picture=takes_picture)
    model = folder / "model"
    modules.transformer.save_pretrained(model / "transformer")
    modules.vae.save_pretrained(model / "vae")
    modules.text_encoder.save_pretrained(model / "text_encoder")
    modules.tokenizer.save_pretrained(model / "tokenizer")
    if modules.image_encoder is not None:
        modules.image_encoder.save_pretrained(model / "image_encoder")
    file = folder / "tiny.yaml"
    file.write_text(preset)
    return load_preset(str(file))
