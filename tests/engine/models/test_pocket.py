import pytest
import torch

from engine.config import ASSETS
from engine.errors import WeightsMissing
from engine.models import pocket, pocket_codec
from engine.training import world
from engine.training.gates import generate, prompt
from engine.training.metrics import psnr
from engine.training.pictures import toy_scenes

SHAPE = pocket.PocketShape(num_layers=2, ffn_dim=64)


@pytest.fixture(scope="module")
def components():
    """An untrained pocket model at its analytic starting point."""
    torch.manual_seed(0)
    pictures = toy_scenes(24, 64, 64, seed=3)
    group = world.transition(pictures, world.perform(pictures, world.BY_NAME["night"]))[:, :, 9:13]
    codec = pocket_codec.fit(pictures, group - group.mean(2, keepdim=True), num_spatial=39, num_motion=6)
    text = pocket.build_text(["night", "falls", "fog"], SHAPE)
    return pocket.PocketComponents(pocket.build_transformer(codec, SHAPE).eval(), codec, text)


@pytest.mark.parametrize("size", [(64, 64), (128, 192)])
def test_an_untrained_model_repeats_its_picture_near_the_codecs_ceiling(components, size):
    picture = toy_scenes(1, *size, seed=9)
    still = picture[:, :, None].expand(-1, -1, world.NUM_FRAMES, -1, -1)
    ceiling = psnr(components.codec.decode(components.codec.encode(still)), still)
    assert psnr(generate(components, picture, ["night falls"], 1, 5.0), still) > ceiling - 1.5


def test_an_untrained_model_is_deaf_to_prompt_and_noise(components):
    picture = toy_scenes(1, 32, 32, seed=9)
    clips = [generate(components, picture, [text], 1, 5.0, seed) for text, seed in (("night", 0), ("fog", 1))]
    assert psnr(*clips).item() > 35


def test_text_is_padded_with_zeros_and_ignores_case_and_punctuation(components):
    embeds = components.encode_text(["Night falls!", "night, falls", "night unheardof"])
    assert embeds.shape == (3, SHAPE.text_tokens, SHAPE.text_dim)
    assert torch.equal(embeds[0], embeds[1])
    assert not torch.equal(embeds[0], embeds[2])
    assert embeds[:, 3:].abs().max() == 0


def test_a_model_survives_the_disk(components, tmp_path):
    pocket.save_components(components, tmp_path, torch.float32)
    loaded = pocket.load_components(tmp_path)
    picture = toy_scenes(1, 32, 32, seed=9)
    assert torch.equal(generate(loaded, picture, ["fog"], 1, 5.0), generate(components, picture, ["fog"], 1, 5.0))
    assert loaded.prediction == "sample"


def test_a_missing_part_is_named(components, tmp_path):
    pocket.save_components(components, tmp_path)
    for file in (tmp_path / "codec").iterdir():
        file.unlink()
    (tmp_path / "codec").rmdir()
    with pytest.raises(WeightsMissing, match="codec"):
        pocket.load_components(tmp_path)


def test_rotary_pairs_cover_a_head():
    time, height, width = pocket._rotary_pairs(32)
    assert [*time, *height, *width] == list(range(0, 32, 2))
    assert (len(time), len(height), len(width)) == (6, 5, 5)


def test_the_shipped_model_brings_the_night_and_stays_still():
    shipped = pocket.load_components(ASSETS / "pocket")
    picture = toy_scenes(1, 64, 96, seed=20_000)
    night, stay = world.BY_NAME["night"], world.BY_NAME["stay"]
    clips = generate(shipped, picture.repeat(2, 1, 1, 1), [prompt(night), prompt(stay)], 1, 5.0)
    assert psnr(clips[:1, :, -1], world.perform(picture, night)) > 22
    assert psnr(clips[1:, :, -1], picture) > 22


def test_shipped_files_are_small_and_name_no_machine():
    files = [path for path in (ASSETS / "pocket").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    for path in files:
        if path.suffix == ".json":
            assert "/tmp" not in path.read_text() and "/work" not in path.read_text()
