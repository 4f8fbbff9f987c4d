"""The same loop on a real Wan with a picture encoder, tiny and untrained: from videos to a LoRA."""

import math

import pytest
import torch
import yaml

from engine.models import components as families
from engine.models.lora import read_lora
from engine.training import trainer
from tests.engine.training.footage import noisy_frames, write_video


@pytest.fixture
def preset_file(tiny_preset, tmp_path):
    """The tiny preset as a file, as a recipe names it."""
    path = tmp_path / "tiny.yaml"
    values = tiny_preset.model_dump(exclude={"folder"}, mode="json") | {
        "model": str(tiny_preset.path(tiny_preset.model))
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def recipe(preset_file, tmp_path):
    def write(name, **changes):
        folder = tmp_path / "videos"
        if not folder.exists():
            for index in range(2):
                frames = noisy_frames(12, (32, 32), seed=index)
                write_video(folder / f"{index}.mp4", frames=frames, size=(32, 32), fps=16)
                (folder / f"{index}.txt").write_text(f"A cat walks, scene {index}")
        values = {
            "output": str(tmp_path / name),
            "variant": "film",
            "lora": {"preset": str(preset_file), "rank": 4},
            "videos": {"folder": str(folder), "size": [32, 32], "num_frames": 9, "cache": str(tmp_path / "latents")},
            "recycling": {"clean": 0.2, "noise": 0.5, "bank": {"capacity": 4}},
            "phases": [{"steps": 6, "learning_rate": [1e-3, 1e-3]}],
            "log_every": 1,
            "evaluate_every": 6,
            "warmup_steps": 0,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write


def steps_of(records):
    return [record["loss"] for record in records if record["kind"] == "step"]


@pytest.mark.parametrize("variant", ["film", "shot"])
def test_a_lora_for_wan_is_trained_from_videos_and_takes_effect(recipe, tiny_preset, tmp_path, variant):
    losses = steps_of(trainer.train(recipe(variant, variant=variant)))
    assert len(losses) == 6 and all(map(math.isfinite, losses))
    transformer = families.load(tiny_preset).transformer
    lora = read_lora(tmp_path / variant / "lora.safetensors", transformer)
    assert all(module.up.any() for module in lora.modules.values())  # every adapted layer got a gradient


def test_gradient_checkpointing_changes_nothing_but_memory(recipe):
    plain = steps_of(trainer.train(recipe("plain"), until=3))
    checkpointed = steps_of(trainer.train(recipe("checkpointed", gradient_checkpointing=True), until=3))
    assert checkpointed == pytest.approx(plain, rel=1e-4)


def test_bfloat16_stays_near_float32_with_factors_in_float32(recipe, tmp_path):
    full = steps_of(trainer.train(recipe("full"), until=2))
    mixed = steps_of(trainer.train(recipe("mixed", precision="bf16"), until=2))
    assert mixed == pytest.approx(full, rel=0.05)
    saved = torch.load(tmp_path / "mixed" / "checkpoint.pt", weights_only=True)
    assert {value.dtype for value in saved["modules"]["transformer"].values()} == {torch.float32}


def test_the_long_sample_is_as_long_as_asked(recipe, tmp_path):
    samples = {"every": 2, "clips": 1, "long_clips": 3, "num_inference_steps": 1}
    phases = [{"steps": 2, "learning_rate": [1e-3, 1e-3]}]
    records = list(trainer.train(recipe("sampled", samples=samples, evaluate_every=2, phases=phases)))
    from PIL import Image

    (sample,) = [record for record in records if record["kind"] == "sample"]
    with Image.open(sample["file"]) as sheet:
        assert sheet.size == (4 * 32, 32)
