import pytest
import torch
from safetensors.torch import save_file

from engine.errors import WeightsMismatch, WeightsMissing
from engine.models.lora import MODULES_PER_BLOCK, LoraSlot, parse_lora, read_lora
from engine.models.untrained import WanSize, build

RANK = 3
UPSTREAM = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}


@pytest.fixture
def transformer():
    return build(WanSize()).transformer


def factors(transformer) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module name -> random A (r, in) and B (out, r), for every layer that an SVI LoRA adapts."""
    generator = torch.Generator().manual_seed(1)
    made = {}
    for index in range(len(transformer.blocks)):
        for layer in MODULES_PER_BLOCK:
            linear = transformer.get_submodule(f"blocks.{index}.{layer}")
            made[f"blocks.{index}.{layer}"] = (
                torch.randn(RANK, linear.in_features, generator=generator),
                torch.randn(linear.out_features, RANK, generator=generator),
            )
    return made


def spell(made, *, prefix="", upstream=True, suffix=".weight", down="lora_A", up="lora_B", alpha=None):
    """The tensors of a LoRA file in one of the spellings in use."""
    tensors = {}
    for module, (a, b) in made.items():
        _, index, layer = module.split(".", 2)
        name = f"{prefix}blocks.{index}.{UPSTREAM[layer] if upstream else layer}"
        tensors[f"{name}.{down}{suffix}"] = a
        tensors[f"{name}.{up}{suffix}"] = b
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return tensors


SPELLINGS = {
    "svi 1.0": dict(prefix="pipe.dit.", suffix=".default.weight"),
    "svi 2.0": dict(suffix=".default.weight"),
    "kijai": dict(prefix="diffusion_model."),
    "comfy": dict(prefix="model.diffusion_model.", down="lora_down", up="lora_up"),
    "diffusers": dict(prefix="transformer.", upstream=False),
    "bare diffusers": dict(upstream=False),
    "peft": dict(prefix="base_model.model.", upstream=False),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6, 2.0)])
def test_every_spelling_adds_alpha_over_rank_times_b_a(transformer, tmp_path, spelling, alpha, scale):
    made = factors(transformer)
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    save_file(spell(made, alpha=alpha, **spelling), tmp_path / "lora.safetensors")
    lora = read_lora(tmp_path / "lora.safetensors", transformer)
    LoraSlot(transformer).fuse([(lora, 0.5)])
    for name, after in transformer.state_dict().items():
        module = name.removesuffix(".weight")
        if module in made:
            a, b = made[module]
            torch.testing.assert_close(after, before[name] + 0.5 * scale * (b @ a), rtol=0, atol=1e-5)
            assert (after - before[name]).abs().max() > 0.1
        else:
            assert torch.equal(after, before[name]), f"{name} is not adapted"
    assert len(lora.modules) == 20
    assert not lora.extras


def test_an_svi_2_lora_reaches_the_model_that_diffusers_would_leave_alone(transformer):
    """The layer names are mapped by hand here: v of the second block's cross-attention, the last feed-forward layer."""
    made = factors(transformer)
    lora = parse_lora(spell(made, **SPELLINGS["svi 1.0"]), transformer, name="svi")
    assert torch.equal(lora.modules["blocks.1.attn2.to_v"].down, made["blocks.1.attn2.to_v"][0])
    assert torch.equal(lora.modules["blocks.1.ffn.net.2"].up, made["blocks.1.ffn.net.2"][1])


def test_another_strength_starts_from_the_same_base_weights(transformer):
    lora = parse_lora(spell(factors(transformer)), transformer, name="svi")
    fresh = build(WanSize()).transformer
    slot = LoraSlot(transformer)
    for strength in (0.3, 1.5, 0.7):
        slot.fuse([(lora, strength)])
    LoraSlot(fresh).fuse([(lora, 0.7)])
    assert all(torch.equal(a, b) for a, b in zip(transformer.parameters(), fresh.parameters(), strict=True))


def test_clearing_gives_the_base_weights_back_bit_for_bit(transformer):
    before = [parameter.clone() for parameter in transformer.parameters()]
    slot = LoraSlot(transformer)
    slot.fuse([(parse_lora(spell(factors(transformer)), transformer, name="svi"), 1.0)])
    slot.clear()
    assert all(torch.equal(a, b) for a, b in zip(transformer.parameters(), before, strict=True))


def test_fusing_into_bfloat16_rounds_once(transformer):
    transformer.to(torch.bfloat16)
    made = factors(transformer)
    base = transformer.blocks[0].attn1.to_q.weight.clone()
    LoraSlot(transformer).fuse([(parse_lora(spell(made), transformer, name="svi"), 0.1)])
    a, b = made["blocks.0.attn1.to_q"]
    assert torch.equal(transformer.blocks[0].attn1.to_q.weight, (base.float() + 0.1 * (b @ a)).bfloat16())


def test_tensors_that_are_no_lora_are_set_aside(transformer):
    tensors = spell(factors(transformer), **SPELLINGS["svi 1.0"])
    tensors["dwpose_embedding.0.weight"] = torch.zeros(16, 3, 3, 3, 3)
    lora = parse_lora(tensors, transformer, name="dance")
    assert list(lora.extras) == ["dwpose_embedding.0.weight"]
    assert len(lora.modules) == 20


def test_a_missing_layer_is_named(transformer):
    tensors = {k: v for k, v in spell(factors(transformer)).items() if "blocks.1.cross_attn.k" not in k}
    with pytest.raises(WeightsMismatch, match=r"19 of the 20 .* First missing layer: blocks\.1\.attn2\.to_k\."):
        parse_lora(tensors, transformer, name="svi")


def test_an_unknown_layer_is_named_as_the_file_spells_it(transformer):
    tensors = spell(factors(transformer), prefix="pipe.dit.")
    tensors["pipe.dit.blocks.7.self_attn.q.lora_A.weight"] = torch.zeros(RANK, 24)
    with pytest.raises(WeightsMismatch, match=r"First unknown key: pipe\.dit\.blocks\.7\.self_attn\.q\.lora_A\.weight"):
        parse_lora(tensors, transformer, name="svi")


def test_half_a_pair_is_refused(transformer):
    tensors = spell(factors(transformer))
    del tensors["blocks.0.ffn.0.lora_B.weight"]
    with pytest.raises(WeightsMismatch, match=r"no lora_B for blocks\.0\.ffn\.net\.0\.proj"):
        parse_lora(tensors, transformer, name="svi")


@pytest.mark.parametrize("shape", [(RANK, 25), (RANK + 1, 24), (RANK,)])
def test_a_factor_that_does_not_fit_is_named_with_its_shape(transformer, shape):
    tensors = spell(factors(transformer)) | {"blocks.0.self_attn.q.lora_A.weight": torch.ones(shape)}
    with pytest.raises(WeightsMismatch, match=r"does not fit blocks\.0\.attn1\.to_q: A \(.*expected A"):
        parse_lora(tensors, transformer, name="svi")


def test_a_lora_without_effect_is_refused(transformer):
    made = {module: (a, torch.zeros_like(b)) for module, (a, b) in factors(transformer).items()}
    with pytest.raises(WeightsMismatch, match="every lora_B is zero"):
        parse_lora(spell(made), transformer, name="svi")


def test_a_file_of_something_else_is_refused(transformer):
    with pytest.raises(WeightsMismatch, match="holds no LoRA weights"):
        parse_lora({"decoder.conv.weight": torch.zeros(3)}, transformer, name="vae")


def test_a_lora_with_numbers_that_are_none_is_refused(transformer):
    tensors = spell(factors(transformer))
    tensors["blocks.0.self_attn.q.lora_B.weight"][0, 0] = torch.nan
    with pytest.raises(WeightsMismatch, match=r"blocks\.0\.attn1\.to_q .*not finite"):
        parse_lora(tensors, transformer, name="svi")


def test_missing_and_damaged_files_are_named(transformer, tmp_path):
    with pytest.raises(WeightsMissing, match=r"svi\.safetensors is missing"):
        read_lora(tmp_path / "svi.safetensors", transformer)
    (tmp_path / "svi.safetensors").write_bytes(b"<html>404</html>")
    with pytest.raises(WeightsMismatch, match=r"svi\.safetensors is a web page"):
        read_lora(tmp_path / "svi.safetensors", transformer)
