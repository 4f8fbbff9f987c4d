import pytest
import torch
from safetensors.torch import save_file

from engine.models.lora_keys import Meaning, guess_base, meaning
from engine.variants import METHODS

NAMED = {
    # published by SVI, lightx2v and in Kijai's collection
    "SVI_Wan2.1-I2V-14B_lora_v2.0.safetensors": "wan2.1",
    "SVI_Wan2.2-I2V-A14B_high_noise_lora_v2.0_pro.safetensors": "wan2.2-high",
    "SVI_v2_PRO_Wan2.2-I2V-A14B_LOW_lora_rank_128_fp16.safetensors": "wan2.2-low",
    "svi-film-opt-10212025.safetensors": "wan2.1",
    "svi-dance.safetensors": "wan2.1",
    "wan2.2_i2v_A14b_high_noise_lora_rank64_lightx2v_4step_1022.safetensors": "wan2.2-high",
    "wan2.2_i2v_A14b_low_noise_lora_rank64_lightx2v_4step_1022.safetensors": "wan2.2-low",
    "Wan2.2-Lightning_T2V-A14B-4steps-lora_HIGH_fp16.safetensors": "wan2.2-high",
    "Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors": "wan2.1",
    # as users name theirs
    "wan22-watercolour-HighNoise.safetensors": "wan2.2-high",
    "my_style_wan2_2_low.safetensors": "wan2.2-low",
    "wan2.2_high_quality_low_noise.safetensors": "wan2.2-low",
    "wan-video-2.1-style.safetensors": "wan2.1",
    # not told
    "lightx2v_I2V_14B_480p_cfg_step_distill_rank128_bf16.safetensors": None,
    "wan2.2-style.safetensors": None,
    "wan2.1-and-wan2.2-high.safetensors": None,
    "slow_highland_wan22.safetensors": None,
    "style.safetensors": None,
    "wan2.12.safetensors": None,
}


def write(path, metadata=None):
    save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    return path


@pytest.mark.parametrize(("name", "base"), NAMED.items(), ids=NAMED)
def test_the_base_is_told_by_the_file_name(tmp_path, name, base):
    assert guess_base(write(tmp_path / name)) == base


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_every_published_file_name_tells_its_base_and_expert(tmp_path, row):
    for names, expert in ((row.lora_files, "high"), (row.low_noise_lora_files, "low")):
        for name in names:
            assert guess_base(tmp_path / name) == ("wan2.1" if row.base == "wan2.1" else f"wan2.2-{expert}")


@pytest.mark.parametrize(
    ("metadata", "base"),
    [
        ({"base_model": "Wan-AI/Wan2.1-I2V-14B-480P", "format": "pt"}, "wan2.1"),
        ({"ss_base_model_version": "wan2.2", "ss_output_name": "fog_high_noise"}, "wan2.2-high"),
        ({"ss_base_model_version": "wan2.2", "ss_output_name": "fog"}, None),
        ({"modelspec.title": "fog wan2.2 low noise"}, "wan2.2-low"),
        ({"modelspec.architecture": "wan2.1/lora"}, "wan2.1"),
        ({"comment": "made for wan2.1"}, None),
    ],
)
def test_metadata_tell_the_base_where_the_name_does_not(tmp_path, metadata, base):
    assert guess_base(write(tmp_path / "style.safetensors", metadata)) == base


def test_name_and_metadata_together_may_tell_what_neither_does(tmp_path):
    path = write(tmp_path / "fog_low_noise.safetensors", {"ss_base_model_version": "wan2.2"})
    assert guess_base(path) == "wan2.2-low"


def test_the_file_name_comes_before_the_metadata(tmp_path):
    path = write(tmp_path / "wan2.2_low_noise.safetensors", {"base_model": "Wan-AI/Wan2.1-I2V-14B-480P"})
    assert guess_base(path) == "wan2.2-low"


@pytest.mark.parametrize(
    ("key", "target", "role"),
    [
        ("pipe.dit.blocks.7.cross_attn.o.lora_A.default.weight", "blocks.7.attn2.to_out.0", "down"),
        ("lora_unet_blocks_12_cross_attn_v_img.lora_up.weight", "blocks.12.attn2.add_v_proj", "up"),
        ("lora_unet_time_projection_1.alpha", "condition_embedder.time_proj", "alpha"),
        ("diffusion_model.blocks.0.norm3.diff_b", "blocks.0.norm2.bias", "offset"),
        ("diffusion_model.blocks.39.diff_m", "blocks.39.scale_shift_table", "offset"),
        ("diffusion_model.head.diff_m", "scale_shift_table", "offset"),
        ("diffusion_model.img_emb.proj.0.diff", "condition_embedder.image_embedder.norm1.weight", "offset"),
    ],
)
def test_a_key_means_a_change_of_one_part(key, target, role):
    assert meaning(key) == Meaning(target, role)


@pytest.mark.parametrize(
    "key",
    [
        "blocks.0.self_attn.q.weight",
        "blocks.0.self_attn.q.lora_A.weight.extra",
        "blocks.0.self_attn.q.lora_A.other.weight",
        "blocks.x.self_attn.q.lora_A.weight",
        "blocks.00.self_attn.q.lora_A.weight",
        "blocks.٣.self_attn.q.lora_A.weight",
        "blocks.0.self_attn.qq.lora_A.weight",
        "blocks.0.diff",
        "lora_unet_blocks_0_self_attn.lora_down.weight",
        "dwpose_embedding.0.weight",
        "lora_A.weight",
        "",
    ],
)
def test_what_is_no_change_of_wan_has_no_meaning(key):
    assert meaning(key) is None
