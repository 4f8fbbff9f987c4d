import numpy as np
import pytest
import torch

from engine.config import ASSETS
from engine.errors import WeightsMismatch, WeightsMissing
from engine.pocket import model
from engine.pocket.codec import FieldCodec
from engine.pocket.layout import CHANNELS, FIELDS
from engine.pocket.sampling import generate

SHAPE = model.PocketShape(num_heads=1, num_layers=1, ffn_dim=32, text_dim=16, text_layers=1, text_tokens=8)


@pytest.fixture
def components():
    """A pocket model as it is before training."""
    torch.manual_seed(0)
    return model.PocketComponents(model.build_transformer(SHAPE).eval(), FieldCodec(), model.build_text(SHAPE))


@pytest.fixture
def stirred(components):
    """The same with weights that say something."""
    torch.nn.init.normal_(components.transformer.proj_out.weight, std=0.2)
    return components


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2 * CHANNELS + model.MASK_CHANNELS, 3, 2, 3, generator=generator)


def said(components, prompt, seed=0):
    with torch.no_grad():
        embeds = components.encode_text([prompt])
        return components.transformer(inputs(seed), torch.tensor([700.0]), embeds, return_dict=False)[0]


def test_an_untrained_model_says_that_nothing_changes_whatever_it_is_asked(components):
    assert said(components, "Night falls").abs().max() == 0
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    [motion] = generate(components, [frame], ["The camera pans left while night falls"], [3], num_frames=9)
    assert abs(motion.camera).max() == abs(motion.light).max() == abs(motion.levels).max() == 0


def test_prompt_and_noise_reach_the_fields(stirred):
    fields = [said(stirred, *asked)[:, FIELDS] for asked in (("Night falls",), ("Fog rolls in",), ("Night falls", 1))]
    assert not torch.allclose(fields[0], fields[1], atol=1e-5)
    assert not torch.allclose(fields[0], fields[2], atol=1e-5)


def test_words_that_mean_the_same_are_the_same_and_padding_is_zero(stirred):
    with torch.no_grad():
        embeds = stirred.encode_text(["Night falls!", "night, falls", "Xanadu night falls", "Fog rolls in"])
    assert embeds.shape == (4, SHAPE.text_tokens, SHAPE.text_dim)
    assert torch.equal(embeds[0], embeds[1]) and torch.equal(embeds[0], embeds[2])  # an unknown word changes nothing
    assert not torch.equal(embeds[0], embeds[3])
    assert embeds[:, -1].abs().max() == 0


def test_a_model_survives_the_disk(stirred, tmp_path):
    model.save_components(stirred, tmp_path, torch.float32)
    loaded = model.load_components(tmp_path)
    assert torch.equal(said(loaded, "Fog rolls in"), said(stirred, "Fog rolls in"))
    assert loaded.prediction == "sample"


def test_a_missing_part_is_named(components, tmp_path):
    model.save_components(components, tmp_path)
    (tmp_path / "transformer").rename(tmp_path / "elsewhere")
    with pytest.raises(WeightsMissing, match="lacks transformer"):
        model.load_components(tmp_path)


def test_weights_of_another_version_are_refused(components, tmp_path):
    config = model.transformer_config(SHAPE) | {"in_channels": 100}
    components.transformer = type(components.transformer)(**config)
    model.save_components(components, tmp_path)
    with pytest.raises(WeightsMismatch, match="another version"):
        model.load_components(tmp_path)


def test_saved_files_name_no_machine(components, tmp_path):
    model.save_components(components, tmp_path)
    for path in tmp_path.rglob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_shipped_files_are_small_and_name_no_machine():
    files = [path for path in (ASSETS / "pocket").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    for path in files:
        if path.suffix == ".json":
            assert "/tmp" not in path.read_text() and "/work" not in path.read_text()
