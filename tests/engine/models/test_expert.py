import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import LoraChoice, load_preset
from engine.errors import ConfigError, InputError, WeightsMismatch
from engine.models import wan
from engine.models.expert import Expert, fitting_base
from engine.models.gguf_files import FusedLora, read_fused
from engine.models.lora import MODULES_PER_BLOCK
from engine.models.quantise import quantise
from engine.models.untrained import WanSize, build
from tests.engine.models.original_layout import SIZE, write_original
from tests.engine.models.tiny import PRESET, TWO_EXPERTS, write_tiny_wan, write_tiny_wan22


@pytest.fixture
def transformer():
    return build(WanSize(), takes_picture=False).transformer


def write_lora(path, transformer, *, layers=MODULES_PER_BLOCK):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index in range(len(transformer.blocks)):
        for layer in layers:
            linear, name = transformer.get_submodule(f"blocks.{index}.{layer}"), f"transformer.blocks.{index}.{layer}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(2, linear.in_features, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(linear.out_features, 2, generator=generator)
    save_file(tensors, path)
    return path


def weights(transformer):
    return [parameter.clone() for parameter in transformer.parameters()]


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("name", "fits", "message"),
    [
        ("svi-film.safetensors", "wan2.2-high", "svi-film.safetensors was made for wan2.1, and this is wan2.2-high"),
        ("SVI_Wan2.2-I2V-A14B_low_noise_lora_v2.0_pro.safetensors", "wan2.2-high", "wan2.2-low"),
        ("wan2.2_i2v_A14b_high_noise_lora_rank64_lightx2v_4step_1022.safetensors", "wan2.1", "wan2.2-high"),
    ],
)
def test_a_lora_of_another_base_is_refused_though_its_shapes_fit(transformer, tmp_path, name, fits, message):
    choice = LoraChoice(write_lora(tmp_path / name, transformer), 1.0, own=True)
    before = weights(transformer)
    with pytest.raises(WeightsMismatch, match=message):
        Expert("high", transformer, fits=fits).use([choice])
    assert equal(weights(transformer), before)


def test_a_lora_that_does_not_tell_its_base_is_taken(transformer, tmp_path):
    choice = LoraChoice(write_lora(tmp_path / "mine.safetensors", transformer), 1.0, own=True)
    before = weights(transformer)
    assert Expert("high", transformer, fits="wan2.1").use([choice])
    assert not equal(weights(transformer), before)


def test_only_a_lora_beside_the_variants_own_may_adapt_some_layers(transformer, tmp_path):
    path = write_lora(tmp_path / "style.safetensors", transformer, layers=("attn1.to_q",))
    with pytest.raises(WeightsMismatch, match="First missing layer"):
        Expert("high", transformer).use([LoraChoice(path, 1.0, own=True)])
    before = transformer.blocks[0].attn1.to_q.weight.clone()
    Expert("high", transformer).use([LoraChoice(path, 0.5, own=False)])
    a, b = (load_file(path)[f"transformer.blocks.0.attn1.to_q.lora_{x}.weight"] for x in "AB")
    torch.testing.assert_close(transformer.blocks[0].attn1.to_q.weight, before + 0.5 * b @ a, rtol=0, atol=1e-6)


def test_what_quantised_weights_hold_is_not_added_again_and_cannot_be_left_out(transformer, tmp_path):
    path = write_lora(tmp_path / "svi.safetensors", transformer)
    expert, before = Expert("high", transformer, held=[FusedLora("svi.safetensors", 1.0)]), weights(transformer)
    expert.use([LoraChoice(path, 1.0, own=True)])
    assert equal(weights(transformer), before)
    for asked in ([], [LoraChoice(path, 0.5, own=True)]):
        with pytest.raises(WeightsMismatch, match=r"hold svi\.safetensors at strength 1"):
            expert.use(asked)


def test_each_expert_wants_loras_of_its_own_base(tmp_path):
    two = write_tiny_wan22(tmp_path, preset=TWO_EXPERTS)
    assert [fitting_base(two, name) for name in ("high", "low")] == ["wan2.2-high", "wan2.2-low"]
    assert fitting_base(load_preset("pocket"), "high") is None


@torch.inference_mode()
def test_a_preset_may_name_a_folder_in_upstreams_layout(tmp_path):
    modules = build(SIZE)
    write_original(tmp_path / "model", modules)
    for pickle in (tmp_path / "model").glob("*.pth"):  # nobody published these: their safetensors twins are read
        save_file(torch.load(pickle, weights_only=True), pickle.with_suffix(".safetensors"))
        pickle.unlink()
    (tmp_path / "tiny.yaml").write_text(PRESET)
    loaded = wan.load_components(load_preset(str(tmp_path / "tiny.yaml")))
    assert torch.equal(loaded.encode_text(["a cat"], 512), wan_text(modules))
    assert loaded.encode_image is not None and loaded.low_noise_transformer is None
    (tmp_path / "tiny.yaml").write_text(PRESET + "components: {vae: elsewhere}\n")
    with pytest.raises(ConfigError, match=r"components\.vae"):
        wan.load_components(load_preset(str(tmp_path / "tiny.yaml")))


def wan_text(modules):
    return wan.WanText(modules.tokenizer, modules.text_encoder, torch.device("cpu"))(["a cat"], 512)


def test_quantised_experts_hold_their_loras_and_stand_in_for_the_folders(tmp_path):
    write_tiny_wan22(tmp_path)
    names = {"lora": "svi-high_noise.safetensors", "low_noise_lora": "svi-low_noise.safetensors"}
    for name in names.values():
        write_lora(tmp_path / name, build(WanSize(), takes_picture=False).transformer)
    entry = ", ".join(f"{key}: {name}" for key, name in names.items())
    text = TWO_EXPERTS.replace("{method: svi-2.0-wan2.2}", f"{{method: svi-2.0-wan2.2, {entry}}}")
    (tmp_path / "full.yaml").write_text(text)
    files = list(quantise(load_preset(str(tmp_path / "full.yaml")), "film", tmp_path / "q.gguf", "Q8_0", draft=False))
    assert [file.name for file in files] == ["q-high.gguf", "q-low.gguf"]
    assert read_fused(files[1]) == (FusedLora("svi-low_noise.safetensors", 1.0),)
    (tmp_path / "q.yaml").write_text(text + "components: {transformer: q-high.gguf, transformer_2: q-low.gguf}\n")
    loaded = wan.load_components(load_preset(str(tmp_path / "q.yaml")))
    assert loaded.held_loras["high"] == (FusedLora("svi-high_noise.safetensors", 1.0),)


@pytest.mark.parametrize(("preset", "draft", "message"), [("pocket", False, "small"), ("tiny", True, "no draft")])
def test_what_cannot_be_quantised_is_said(tmp_path, preset, draft, message):
    chosen = load_preset("pocket") if preset == "pocket" else write_tiny_wan(tmp_path)
    with pytest.raises(InputError, match=message):
        list(quantise(chosen, "film", tmp_path / "q.gguf", "Q8_0", draft=draft))
