"""Random weights at every size: what stands in for a preset's files, and that nobody takes it for a model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.backends.local import LocalBackend
from engine.config import RANDOM_WEIGHTS, load_preset
from engine.errors import ConfigError, WeightsMissing
from engine.models import components
from engine.models.attention import PlainDenoiser
from engine.models.lora import LoraSlot
from engine.models.untrained import (
    WanSize,
    blocks_that_fit,
    empty_modules,
    fill_modules,
    fitting_layout,
    layout_of,
    measured,
    published_layout,
    random_lora,
)
from engine.tiers import WAN_21, WAN_22, Machine
from tests.engine.models.tiny import PRESET, PRO, TWO_EXPERTS

CPU, GB = torch.device("cpu"), 10**9
LORAS = """\
variants:
  film: {lora: missing/own.safetensors, extra_loras: [{lora: missing/style.safetensors, strength: 0.5}]}
"""
BOTH = "lora: missing/high.safetensors, low_noise_lora: missing/low.safetensors"
TWO_LORAS = TWO_EXPERTS.replace("wan2.2}", f"wan2.2, {BOTH}}}")
SVI_MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508]
SVI_MEAN += [0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]


@pytest.fixture
def without_files(tmp_path):
    """Makes a preset that runs without its files from the text of one; there is nothing but that text."""

    def load(text: str = PRESET):
        (tmp_path / "tiny.yaml").write_text(text)
        return load_preset(str(tmp_path / "tiny.yaml"), random_weights=True)

    return load


def published(preset: str = "svi-1"):
    return empty_modules(published_layout(load_preset(preset)), torch.bfloat16)


def filled(layout, dtype=torch.float32):
    """The modules of `layout` with numbers, and the weights of the experts to be had again."""
    modules = empty_modules(layout, dtype)
    return modules, fill_modules(modules, values_on=CPU)


def gpu(vram_gb: float, ram_gb: float) -> Machine:
    return Machine("a GPU", "cuda", int(ram_gb * GB), int(vram_gb * GB), int(vram_gb * GB))


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_published_parts_have_their_published_sizes():
    parts = {name: count(module) for name, module in published().items()}
    assert parts == {
        "transformer": 16_394_878_784,
        "vae": 126_892_531,
        "text_encoder": 5_680_910_336,
        "image_encoder": 630_766_080,
    }


def test_wan_22_has_two_experts_and_no_picture():
    parts = published("svi-2-wan22")
    assert "image_encoder" not in parts
    high, low = parts["transformer"], parts["low_noise_transformer"]
    assert high.config.image_dim is None and high.config.in_channels == 36
    assert count(high) == count(low) == 14_288_901_184  # “A14B”


def test_the_vae_has_wans_normalisation():
    config = published()["vae"].config
    assert list(config.latents_mean) == SVI_MEAN
    assert len(config.latents_std) == config.z_dim == 16
    assert (config.scale_factor_spatial, config.scale_factor_temporal) == (8, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_activations_stay_finite_and_alive_through_forty_blocks(dtype):
    modules, _ = filled(layout_of(WanSize(num_layers=40)), dtype)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randn(1, 512, 32, generator=generator).to(dtype) for _ in range(2)]
    picture = torch.randn(1, 17, 4, generator=generator).to(dtype)
    denoise = PlainDenoiser(modules["transformer"], prompts, picture)
    noisy = torch.randn(1, 36, 3, 8, 8, generator=generator).to(dtype)
    output = denoise(noisy, 0.7, 0).float()
    assert torch.isfinite(output).all()
    assert 0.1 < output.std() < 10
    assert (output - denoise(noisy, 0.7, 1).float()).std() > 0.01  # it hears the prompt through all of them
    assert (output - denoise(noisy, 0.2, 0).float()).std() > 0.01


def test_weights_lie_in_the_dtypes_that_diffusers_loads_them_in():
    modules, _ = filled(layout_of(WanSize()), torch.bfloat16)
    block = modules["transformer"].blocks[0]
    assert block.attn1.to_q.weight.dtype == modules["text_encoder"].dtype == torch.bfloat16
    assert block.norm2.weight.dtype == block.scale_shift_table.dtype == torch.float32
    assert modules["vae"].dtype == modules["image_encoder"].dtype == torch.float32
    assert not any(tensor.is_meta for part in modules.values() for tensor in (*part.parameters(), *part.buffers()))


def test_the_memory_tiers_count_the_same_bytes():
    """`tiers` holds the sizes of the published models as figures."""
    assert measured(published("svi-1")) == WAN_21
    assert measured(published("svi-2-pro")) == WAN_22


@pytest.mark.parametrize("text", [PRESET + LORAS, TWO_LORAS, PRO])
def test_every_base_runs_without_a_file_and_says_so(without_files, clip_request, text):
    preset = without_files(text)
    assert [path.name for path in preset.folder.iterdir()] == ["tiny.yaml"]
    backend = LocalBackend.open(preset, threads=1)
    assert backend.info.name == "tiny · random weights (stand-in, 2 of 40 blocks, 24 wide instead of 5120)"
    *_, result = backend.generate(clip_request())
    assert result.frames.shape == (9, 32, 32, 3)
    assert 5 < result.frames.std() < 120  # neither one colour nor black and white
    two = preset.base == "wan2.2"
    assert (backend.components.low_noise_transformer is not None) == two
    assert (backend.components.encode_image is None) == two
    assert backend.counters.lora_fusions == (0 if preset.variants["film"].method == "svi-2.0-pro" else 1 + two)


def test_only_the_flag_makes_random_weights(without_files):
    preset = without_files()
    with pytest.raises(WeightsMissing):
        components.load(preset.model_copy(update={"random_weights": False}))
    with pytest.raises(ConfigError, match=r"cannot be set in tiny\.yaml\. Start with --random-weights"):
        without_files(PRESET + "random_weights: true\n")
    with pytest.raises(ConfigError, match="small enough to come with its weights"):
        load_preset("pocket", random_weights=True)


def test_weights_can_be_had_again_bit_for_bit_after_a_lora():
    modules, weights = filled(layout_of(WanSize()), torch.bfloat16)
    transformer = modules["transformer"]
    before = {name: parameter.clone() for name, parameter in transformer.named_parameters()}
    slot = LoraSlot(transformer, weights["high"])
    slot.fuse([(random_lora(Path("own.safetensors"), transformer), 1.0)])
    changed = {name for name, parameter in transformer.named_parameters() if not torch.equal(parameter, before[name])}
    assert len(changed) == 20
    name = "blocks.1.ffn.net.0.proj.weight"
    change = (transformer.get_parameter(name) - before[name]).float().norm() / before[name].float().norm()
    assert 0.005 < change < 0.5
    slot.clear()
    assert all(torch.equal(parameter, before[name]) for name, parameter in transformer.named_parameters())


def test_the_two_experts_differ():
    layout = replace(layout_of(WanSize(), takes_picture=False), image=None, num_experts=2)
    modules, weights = filled(layout)
    name = "blocks.0.attn1.to_q.weight"
    assert not torch.equal(weights["high"](name), weights["low"](name))
    assert torch.equal(weights["low"](name), modules["low_noise_transformer"].get_parameter(name))


def test_a_cpu_gets_a_stand_in_and_blocks_of_the_published_width_when_asked():
    preset, cpu = load_preset("svi-1"), Machine("a CPU", "cpu", 24 * GB)
    tiny = fitting_layout(preset, cpu, torch.float32)
    assert tiny.note == f"{RANDOM_WEIGHTS} (stand-in, 2 of 40 blocks, 24 wide instead of 5120)"
    wide = fitting_layout(preset, cpu, torch.float32, num_blocks=1)
    assert wide.note == f"{RANDOM_WEIGHTS} (stand-in, 1 of 40 blocks, tiny encoders and VAE)"
    parts = {name: 4 * count(module) for name, module in empty_modules(wide, torch.float32).items()}
    assert 2.4e9 < parts.pop("transformer") < 2.8e9
    assert sum(parts.values()) < 0.2e9
    for blocks in (0, 41):
        with pytest.raises(ConfigError, match="has 1 to 40"):
            fitting_layout(preset, cpu, torch.float32, num_blocks=blocks)


@pytest.mark.parametrize("vram_gb", [150, 24, 12])
def test_a_gpu_gets_the_published_size_wherever_a_tier_holds_it(vram_gb):
    assert fitting_layout(load_preset("svi-1"), gpu(vram_gb, 128), torch.bfloat16).note == RANDOM_WEIGHTS


def test_blocks_are_left_out_where_host_memory_is_short():
    """At 14B in bfloat16, streamed: 32.8 GB of transformer, 0.8 a block, and 11.4 of text encoder stay on the host."""
    sizes, preset = measured(published()), load_preset("svi-1")
    fits = {ram: blocks_that_fit(preset, gpu(24, ram), sizes, 40) for ram in (4, 24, 36, 64)}
    assert fits[4] == 0
    assert 0 < fits[24] < fits[36] < 40
    assert fits[64] == 40
    layout = fitting_layout(preset, gpu(24, 24), torch.bfloat16)
    assert layout.note == f"{RANDOM_WEIGHTS} (stand-in, {fits[24]} of 40 blocks)"
    assert layout.text["num_layers"] == 24
    assert "tiny encoders and VAE" in fitting_layout(preset, gpu(24, 4), torch.bfloat16).note
    assert "7 of 40 blocks" in fitting_layout(preset, gpu(24, 64), torch.bfloat16, num_blocks=7).note
