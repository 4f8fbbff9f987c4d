"""Untrained models of a few thousand parameters in their layouts on disk, and the presets that run them."""

from pathlib import Path

import torch

from engine.config import Preset, load_preset
from engine.models.untrained import WanSize, build
from engine.pocket import model
from engine.pocket.codec import FieldCodec

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


def write_untrained_pocket(folder: Path, *, preset: str = POCKET) -> Preset:
    """Save a pocket model whose weights are random, so that its fields are too, and its preset."""
    shape = model.PocketShape(num_layers=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = model.PocketComponents(model.build_transformer(shape), FieldCodec(), model.build_text(shape))
        torch.nn.init.normal_(parts.transformer.proj_out.weight, std=0.02)
    model.save_components(parts, folder / "model")
    file = folder / "pocket.yaml"
    file.write_text(preset)
    return load_preset(str(file))
