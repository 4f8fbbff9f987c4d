"""Untrained models of a few thousand parameters in their layouts on disk, and the presets that run them."""

from pathlib import Path

import torch
from torch.nn import functional

from engine.config import Preset, load_preset
from engine.models import pocket, pocket_codec
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
POCKET = """\
title: Untrained pocket
family: pocket
model: model
num_frames: 9
fps: 8
resolutions: [[32, 32]]
num_inference_steps: 2
guidance_scale: 1.0
max_sequence_length: 20
device: cpu
dtype: float32
"""


TWO_EXPERTS = (
    PRESET.replace("family: wan", "family: wan\nbase: wan2.2")
    + """\
variants:
  film: {method: svi-2.0-wan2.2}
"""
)
PRO = TWO_EXPERTS.replace("svi-2.0-wan2.2", "svi-2.0-pro")


def write_tiny_wan22(folder: Path, *, preset: str = TWO_EXPERTS) -> Preset:
    """A tiny model with two experts and no picture encoder, in the folders of Wan 2.2, and its preset."""
    (folder / "model").mkdir(parents=True)
    build(WanSize(), seed=1, takes_picture=False).transformer.save_pretrained(folder / "model" / "transformer_2")
    return write_tiny_wan(folder, takes_picture=False, preset=preset)


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


def write_untrained_pocket(folder: Path) -> Preset:
    """Save a pocket model as it is before training, with a codec fitted on random pictures."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 8, 8, generator=generator) * 2 - 1
    pictures = functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(-1, 1)
    frames = pictures[:, :, None] * torch.tensor([0.7, 0.9, 1.1, 1.3]).view(4, 1, 1)
    codec = pocket_codec.fit(pictures, frames - frames.mean(2, keepdim=True), num_spatial=24, num_motion=8)
    shape = pocket.PocketShape(num_layers=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = pocket.build_text(["night", "falls", "a", "cat"], shape)
        parts = pocket.PocketComponents(pocket.build_transformer(codec, shape), codec, text)
    pocket.save_components(parts, folder / "model")
    file = folder / "pocket.yaml"
    file.write_text(POCKET)
    return load_preset(str(file))
