import pytest
import torch
import yaml

from engine.config import PRESETS
from engine.errors import ConfigError
from engine.models.lora import read_lora
from engine.models.pocket import load_components
from engine.training import trainer
from engine.training.checkpoint import load_checkpoint

RECIPE = {
    "num_scenes": 4,
    "photo_share": 0.0,
    "codec": {"num_spatial": 12, "num_motion": 3, "num_pictures": 8},
    "transformer": {"num_layers": 1, "ffn_dim": 32, "text_dim": 16, "text_tokens": 8},
    "warmup_steps": 10,
    "evaluate_every": 1000,
    "evaluate_size": [16, 16],
    "phases": [
        {
            "steps": 40,
            "learning_rate": [1.0e-3, 1.0e-4],
            "buckets": [{"size": [16, 16], "num_pictures": 1, "prompts_per_picture": 2}],
        }
    ],
}


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe whose output is `name`, and returns its path."""

    def write(name, **changes):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(RECIPE | {"output": str(tmp_path / name)} | changes))
        return path

    return write


def weights(path):
    return load_checkpoint(path / "checkpoint.pt")


def equal(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return left == right


def test_five_steps_and_five_more_are_ten_steps(recipe, tmp_path):
    list(trainer.train(recipe("whole"), until=10))
    list(trainer.train(recipe("halves"), until=5))
    list(trainer.train(recipe("halves"), until=10))
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert whole["step"] == 10
    assert equal(whole, halves)


def test_closing_the_generator_leaves_a_checkpoint(recipe, tmp_path):
    records = trainer.train(recipe("closed"))
    next(records)
    records.close()
    assert weights(tmp_path / "closed")["step"] == 20


def test_training_on_one_batch_lowers_its_loss_and_moves_every_part(recipe):
    config = trainer.read_config(recipe("learns"))
    source = trainer.PictureSource(num_scenes=4, photo_share=0.0, seed=0)
    state = trainer.start(config, source)
    before = [parameter.clone() for module in state.modules().values() for parameter in module.parameters()]
    losses = []
    for _ in range(30):
        state.pictures.seed(1), state.noise.manual_seed(1)
        losses.append(trainer.train_step(state, config, source)["loss"])
    assert losses[-1] < 0.3 * losses[0]
    after = [parameter for module in state.modules().values() for parameter in module.parameters()]
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_constant_pair_is_not_trained(recipe):
    config = trainer.read_config(recipe("held"))
    source = trainer.PictureSource(num_scenes=4, photo_share=0.0, seed=0)
    state = trainer.start(config, source)
    transformer = state.components.transformer
    start = transformer.proj_out.weight.clone()
    trainer.train_step(state, config, source)
    same = (transformer.proj_out.weight == start).all(0)
    assert same.sum() == 2


def test_a_lora_trains_alone_and_is_one_the_engine_reads(recipe, tmp_path):
    list(trainer.train(recipe("base", evaluate_every=2), until=2))
    base = tmp_path / "base" / "best"
    shot = recipe(
        "shot", lora={"base": str(base), "rank": 2}, padding="anchor", five_motion_frames=0.0, evaluate_every=2
    )
    records = list(trainer.train(shot, until=2))
    assert [record["kind"] for record in records].count("gates") == 1
    before, after = load_components(base), load_components(base)
    lora = read_lora(tmp_path / "shot" / "best.safetensors", after.transformer)
    assert len(lora.modules) == 10
    assert equal(before.transformer.state_dict(), after.transformer.state_dict())


def test_a_hook_sees_and_changes_the_condition(recipe):
    config = trainer.read_config(recipe("hook"))
    source = trainer.PictureSource(num_scenes=4, photo_share=0.0, seed=0)
    state = trainer.start(config, source)
    seen = []
    trainer.train_step(state, config, source, alter=lambda condition: seen.append(condition.shape) or condition)
    assert seen == [(2, 4 + state.components.codec.latent_channels, 7, 2, 2)]


def test_an_unknown_key_is_an_error(recipe):
    with pytest.raises(ConfigError, match="learning_speed"):
        trainer.read_config(recipe("typo", learning_speed=1))


def test_a_missing_recipe_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no file absent\.yaml"):
        trainer.read_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("path", sorted(PRESETS.glob("train-pocket-*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path):
    config = trainer.read_config(path)
    assert config.learning_rate(config.num_steps - 1) < config.learning_rate(config.num_steps // 2)


def test_half_of_the_noise_levels_are_pure_noise(recipe):
    config = trainer.read_config(recipe("sigma", pure_noise=0.5))
    sigma = trainer.draw_sigma(4000, config, torch.Generator().manual_seed(0))
    assert (sigma == 1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert sigma.min() > 0
