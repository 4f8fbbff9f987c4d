import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline
from diffusers.pipelines.wan.pipeline_wan_i2v import prompt_clean
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from engine.config import load_preset
from engine.errors import BackendUnavailable, ConfigError, WeightsMismatch, WeightsMissing
from engine.models import components, wan
from engine.models.untrained import WanSize, build
from tests.engine.models.tiny import PRESET, write_tiny_wan, write_tiny_wan22


@pytest.fixture(scope="module")
def stock(tiny_preset):
    """The modules exactly as diffusers runs them."""
    return build(WanSize())


@pytest.fixture
def copied(tiny_preset, tmp_path):
    """The tiny preset in a folder that a test may damage."""
    shutil.copytree(tiny_preset.folder, tmp_path / "wan")
    return load_preset(str(tmp_path / "wan" / "tiny.yaml"))


def damage(folder, change) -> None:
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@torch.inference_mode()
def test_the_codec_normalises_the_posterior_mean_as_upstream_does(tiny_components, stock):
    """Folded convolutions add in another order: latents reach about ±8 here."""
    pixels = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean = torch.tensor(stock.vae.config.latents_mean).view(1, 16, 1, 1, 1)
    std = torch.tensor(stock.vae.config.latents_std).view(1, 16, 1, 1, 1)
    expected = (stock.vae.encode(pixels).latent_dist.mode() - mean) / std
    latents = tiny_components.codec.encode(pixels)
    assert latents.shape == (1, 16, 3, 4, 4)
    torch.testing.assert_close(latents, expected, rtol=0, atol=3e-5)
    decoded = stock.vae.decode(expected * std + mean).sample
    torch.testing.assert_close(tiny_components.codec.decode(expected), decoded, rtol=0, atol=3e-5)


def test_the_vae_runs_in_float32_and_untiled(tiny_components):
    vae = tiny_components.codec.vae
    assert isinstance(vae, AutoencoderKLWan)
    assert vae.dtype == torch.float32
    assert not vae.use_tiling


@torch.inference_mode()
def test_prompt_embeddings_equal_those_of_diffusers_and_are_zero_past_the_end(tiny_components, stock):
    pipeline = WanImageToVideoPipeline(
        tokenizer=stock.tokenizer, text_encoder=stock.text_encoder, vae=stock.vae, scheduler=None
    )
    prompts = ["A cat walks\n  through &lt;b&gt; rain", "night falls"]
    expected = pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=512)
    embeds = tiny_components.encode_text(prompts, 512)
    assert embeds.shape == (2, 512, 32)
    torch.testing.assert_close(embeds, expected, rtol=0, atol=0)
    assert not embeds[1, 40:].any()


@pytest.mark.parametrize(
    "prompt", ["a  b\n\tc ", "&amp;lt;b&amp;gt;", "l\u2019heure caf\u00c3\u00a9", " ☔ 雨 ", "x" * 3]
)
def test_prompts_are_cleaned_as_in_diffusers(prompt):
    assert wan.clean(prompt) == prompt_clean(prompt)


def test_clip_sees_the_whole_frame_squashed_to_a_square(tiny_components):
    frame = np.random.default_rng(1).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1
    prepared = tiny_components.encode_image.prepare(pixels)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(frame).permute(2, 0, 1)[None] / 255, size=(32, 32), mode="bicubic", align_corners=False
    )
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    torch.testing.assert_close(prepared, (resized - mean) / std, rtol=0, atol=1e-5)
    cropping = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    cropped = cropping(images=Image.fromarray(frame), return_tensors="pt").pixel_values
    assert (prepared - cropped).abs().mean() > 0.1


@torch.inference_mode()
def test_clip_features_come_from_the_last_but_one_block(tiny_components, stock):
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    features = tiny_components.encode_image(pixels)
    hidden = stock.image_encoder(tiny_components.encode_image.prepare(pixels), output_hidden_states=True).hidden_states
    assert features.shape == (1, 17, 4)
    assert len(hidden) == 3
    torch.testing.assert_close(features, hidden[1])


def test_wan_2_2_has_no_picture_tokens_and_needs_no_image_encoder(tmp_path):
    loaded = components.load(write_tiny_wan22(tmp_path))
    assert loaded.encode_image is None
    assert loaded.transformer.config.image_dim is None
    assert loaded.low_noise_transformer is not None


def test_one_expert_of_wan_2_2_does_not_pass_for_wan_2_1(tmp_path):
    with pytest.raises(WeightsMismatch, match=r"made for wan2\.1.*one expert of Wan 2\.2"):
        components.load(write_tiny_wan(tmp_path, takes_picture=False))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "tokenizer", "image_encoder"])
def test_a_missing_folder_is_named(copied, part):
    shutil.rmtree(copied.component(part))
    with pytest.raises(WeightsMissing, match=f"model/{part}"):
        components.load(copied)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_a_folder_without_weights_is_named(copied, part):
    next(copied.component(part).glob("*.safetensors")).unlink()
    with pytest.raises(WeightsMissing, match=f"model/{part}"):
        components.load(copied)


def test_an_empty_tokenizer_folder_is_named(copied):
    for file in copied.component("tokenizer").iterdir():
        file.unlink()
    with pytest.raises(WeightsMissing, match="model/tokenizer"):
        components.load(copied)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_truncated_weights_are_named(copied, part):
    file = next(copied.component(part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsMissing, match=f"model/{part}"):
        components.load(copied)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("transformer", "blocks.0.attn1.to_q.weight"),
        ("text_encoder", "encoder.block.0.layer.0.SelfAttention.k.weight"),
    ],
)
def test_a_weight_of_another_shape_is_named_with_both_shapes(copied, part, key):
    damage(copied.component(part), lambda tensors: tensors.update({key: torch.zeros(3, 5)}))
    with pytest.raises(WeightsMismatch, match=rf"{key} expected shape .*\d+, \d+.* got .*3, 5"):
        components.load(copied)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("transformer", "blocks.0.attn1.to_q.weight"),
        ("text_encoder", "encoder.block.0.layer.0.SelfAttention.k.weight"),
    ],
)
def test_a_missing_weight_is_refused_rather_than_drawn_at_random(copied, part, key):
    damage(copied.component(part), lambda tensors: tensors.pop(key))
    with pytest.raises(WeightsMismatch, match=f"{key} is missing"):
        components.load(copied)


def test_parts_of_different_models_are_refused(copied):
    other = build(WanSize(text_dim=48))
    shutil.rmtree(copied.component("text_encoder"))
    other.text_encoder.save_pretrained(copied.component("text_encoder"))
    with pytest.raises(WeightsMismatch, match="text_dim 32, but the width of the text encoder"):
        components.load(copied)


def test_a_preset_may_take_one_part_from_another_folder(copied, tmp_path):
    moved = tmp_path / "elsewhere"
    copied.component("vae").rename(moved)
    (copied.folder / "tiny.yaml").write_text(PRESET + f"components:\n  vae: {moved}\n")
    preset = load_preset(str(copied.folder / "tiny.yaml"))
    assert components.load(preset).codec.latent_channels == 16


def test_another_text_length_than_the_picture_attention_can_tell_apart_is_refused(copied):
    with pytest.raises(ConfigError, match="max_sequence_length"):
        components.load(copied.model_copy(update={"max_sequence_length": 226}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a computer without a GPU")
def test_a_preset_that_insists_on_a_gpu_says_that_there_is_none(copied):
    with pytest.raises(BackendUnavailable, match="CUDA"):
        components.load(copied.model_copy(update={"device": "cuda"}))
