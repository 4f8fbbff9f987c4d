import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.errors import WeightsMismatch, WeightsMissing
from engine.models.folding import fold_for_cpu
from engine.models.lora import MODULES_PER_BLOCK, LoraSlot, parse_lora, read_lora, without_weights
from engine.models.mapped import MappedWeights
from engine.models.placement import stream_blocks
from engine.models.published import WAN22_I2V_A14B, WAN_I2V_14B
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


def spell(
    made, *, prefix="", upstream=True, dot=".", suffix=".weight", down="lora_A", up="lora_B", alpha=None
) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file in one of the spellings in use."""
    tensors = {}
    for module, (a, b) in made.items():
        _, index, layer = module.split(".", 2)
        name = prefix + f"blocks.{index}.{UPSTREAM[layer] if upstream else layer}".replace(".", dot)
        tensors[f"{name}.{down}{suffix}"] = a
        tensors[f"{name}.{up}{suffix}"] = b
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return tensors


KOHYA = dict(down="lora_down", up="lora_up")
SPELLINGS = {
    "svi 1.0": dict(prefix="pipe.dit.", suffix=".default.weight"),
    "svi 2.0": dict(suffix=".default.weight"),
    "kijai": dict(prefix="diffusion_model."),
    "kijai, down and up": dict(prefix="diffusion_model.", **KOHYA),
    "comfy": dict(prefix="model.diffusion_model.", **KOHYA),
    "comfy with the adapter's name": dict(prefix="diffusion_model.", suffix=".default.weight"),
    "musubi": dict(prefix="lora_unet_", dot="_", **KOHYA),
    "kohya": dict(prefix="lora_unet_", dot="_", upstream=False, **KOHYA),
    "diffusers": dict(prefix="transformer.", upstream=False),
    "bare diffusers": dict(upstream=False),
    "peft": dict(prefix="base_model.model.", upstream=False),
    "peft around upstream": dict(prefix="base_model.model.pipe.dit."),
}


@torch.inference_mode()
def predict(transformer) -> torch.Tensor:
    """The velocity for fixed inputs; 17 picture tokens where the model takes them."""
    generator = torch.Generator().manual_seed(5)
    picture = torch.randn(1, 17, 4, generator=generator)
    dtype = transformer.patch_embedding.weight.dtype
    return transformer(
        hidden_states=torch.randn(1, 36, 3, 4, 4, generator=generator).to(dtype),
        timestep=torch.tensor([500.0]),
        encoder_hidden_states=torch.randn(1, 512, 32, generator=generator).to(dtype),
        encoder_hidden_states_image=picture.to(dtype) if transformer.config.image_dim else None,
        return_dict=False,
    )[0]


@torch.no_grad()
def merged_by_hand(transformer, changes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of the state of `transformer`, with changes added under diffusers' names."""
    state = {name: value.clone() for name, value in transformer.state_dict().items()}
    for name, change in changes.items():
        state[name] += change
    return state


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6, 2.0)])
def test_every_spelling_moves_the_model_by_alpha_over_rank_times_b_a(transformer, tmp_path, spelling, alpha, scale):
    made = factors(transformer)
    by_hand = merged_by_hand(transformer, {f"{m}.weight": 0.05 * scale * (b @ a) for m, (a, b) in made.items()})
    before, other = predict(transformer), build(WanSize()).transformer
    other.load_state_dict(by_hand)
    save_file(spell(made, alpha=alpha, **spelling), tmp_path / "lora.safetensors")
    lora = read_lora(tmp_path / "lora.safetensors", transformer)
    LoraSlot(transformer).fuse([(lora, 0.05)])
    for name, after in transformer.state_dict().items():
        torch.testing.assert_close(after, by_hand[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(predict(transformer), predict(other), rtol=0, atol=1e-4)
    assert (predict(transformer) - before).abs().max() > 0.1
    assert len(lora.modules) == 20
    assert not lora.extras and not lora.offsets and not lora.left_out


@pytest.fixture(scope="module", params=[WAN_I2V_14B, WAN22_I2V_A14B], ids=["wan 2.1", "wan 2.2"])
def wan_14b(request):
    return without_weights(request.param)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_the_800_tensors_of_a_14b_lora_all_find_their_layer(wan_14b, spelling):
    """Real names and widths at rank 1; 40 blocks of ten layers."""
    made = {}
    for index in range(40):
        for layer in MODULES_PER_BLOCK:
            linear = wan_14b.get_submodule(f"blocks.{index}.{layer}")
            made[f"blocks.{index}.{layer}"] = (torch.ones(1, linear.in_features), torch.ones(linear.out_features, 1))
    tensors = spell(made, **spelling)
    assert len(tensors) == 800
    lora = parse_lora(tensors, wan_14b, name="svi")
    assert len(lora.modules) == 400
    one = next(key for key in tensors if "30" in key)
    del tensors[one]
    with pytest.raises(WeightsMismatch, match=r"no lora_A for blocks\.30"):
        parse_lora(tensors, wan_14b, name="svi")


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


def two_loras(transformer):
    """An SVI LoRA of every layer and a style of one, with their factors."""
    whole, style = factors(transformer), {"blocks.1.attn1.to_v": (torch.ones(2, 24), torch.full((24, 2), 0.01))}
    return (
        (whole, parse_lora(spell(whole), transformer, name="svi")),
        (style, parse_lora(spell(style, **SPELLINGS["comfy"]), transformer, name="style", kind="extra")),
    )


def test_stacked_loras_are_summed_before_the_one_rounding(transformer):
    transformer.to(torch.bfloat16)
    (whole, svi), (style, extra) = two_loras(transformer)
    layer = transformer.blocks[1].attn1.to_v
    base = layer.weight.float()
    LoraSlot(transformer).fuse([(svi, 0.1), (extra, 0.7)])
    (a, b), (c, d) = whole["blocks.1.attn1.to_v"], style["blocks.1.attn1.to_v"]
    assert torch.equal(layer.weight, (base + 0.1 * (b @ a) + 0.7 * (d @ c)).bfloat16())
    rounded_twice = ((base + 0.1 * (b @ a)).bfloat16().float() + 0.7 * (d @ c)).bfloat16()
    assert not torch.equal(layer.weight, rounded_twice)


def test_a_lora_that_leaves_the_stack_leaves_the_weights(transformer):
    (_, svi), (_, extra) = two_loras(transformer)
    fresh = build(WanSize()).transformer
    slot = LoraSlot(transformer)
    slot.fuse([(svi, 0.4), (extra, 1.0)])
    slot.fuse([(extra, 0.3)])
    LoraSlot(fresh).fuse([(extra, 0.3)])
    assert all(torch.equal(a, b) for a, b in zip(transformer.parameters(), fresh.parameters(), strict=True))


def test_base_weights_come_from_their_files_and_are_not_copied(transformer, tmp_path):
    """In float32 in the file, they are rounded once, after the sum; the files stay as they are."""
    transformer.save_pretrained(tmp_path / "transformer", max_shard_size="40KB")
    files = {path.name: path.read_bytes() for path in (tmp_path / "transformer").iterdir()}
    exact = transformer.blocks[0].ffn.net[2].weight.clone()
    transformer.to(torch.bfloat16)
    before = [parameter.clone() for parameter in transformer.parameters()]
    slot = LoraSlot(transformer, MappedWeights(tmp_path / "transformer"))
    made = factors(transformer)
    slot.fuse([(parse_lora(spell(made), transformer, name="svi"), 0.1)])
    a, b = made["blocks.0.ffn.net.2"]
    assert torch.equal(transformer.blocks[0].ffn.net[2].weight, (exact + 0.1 * (b @ a)).bfloat16())
    assert not slot._copies
    slot.clear()
    assert all(torch.equal(a, b) for a, b in zip(transformer.parameters(), before, strict=True))
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "transformer").iterdir()}


def test_a_model_loaded_from_the_same_files_can_be_fused_in_place(transformer, tmp_path):
    """Mapped twice: what is written into the model's views is not what the base is read from."""
    transformer.save_pretrained(tmp_path)
    loaded = type(transformer).from_pretrained(tmp_path)
    (_, svi), _ = two_loras(loaded)
    slot = LoraSlot(loaded, MappedWeights(tmp_path))
    for strength in (1.0, 0.2):
        slot.fuse([(svi, strength)])
    LoraSlot(transformer).fuse([(svi, 0.2)])
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), transformer.parameters(), strict=True))


def test_base_weights_of_another_model_are_refused(transformer, tmp_path):
    build(WanSize(ffn_dim=64)).transformer.save_pretrained(tmp_path)
    slot = LoraSlot(transformer, MappedWeights(tmp_path))
    with pytest.raises(WeightsMismatch, match=r"blocks\.0\.ffn\.net\.0\.proj\.weight is \(64, 24\) in the file"):
        slot.fuse([(parse_lora(spell(factors(transformer)), transformer, name="svi"), 1.0)])


def test_weights_stored_in_8_bits_are_written_by_one_cast_from_the_exact_sum(transformer, tmp_path):
    """The output is that of a model in which the sums were cast by hand. Clearing undoes both roundings of loading."""
    transformer.save_pretrained(tmp_path)
    stored, by_hand = (type(transformer).from_pretrained(tmp_path, torch_dtype=torch.bfloat16) for _ in range(2))
    (_, svi), (_, extra) = two_loras(transformer)
    sums = merged_by_hand(transformer, {name: 0.05 * change.delta() for name, change in svi.changes()})
    sums["blocks.1.attn1.to_v.weight"] += extra.modules["blocks.1.attn1.to_v"].delta()
    in_8_bits = {name: sums[name].to(torch.float8_e4m3fn) for name, _ in svi.changes()}
    by_hand.load_state_dict({name: value.bfloat16() for name, value in in_8_bits.items()}, strict=False)
    for model in (stored, by_hand):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    before = [parameter.clone() for parameter in stored.parameters()]
    slot = LoraSlot(stored, MappedWeights(tmp_path))
    slot.fuse([(svi, 0.05), (extra, 1.0)])
    for name, value in in_8_bits.items():
        weight = stored.get_parameter(name)
        assert weight.dtype == torch.float8_e4m3fn
        assert torch.equal(weight.float(), value.float()), name
    assert torch.equal(predict(stored), predict(by_hand))
    slot.clear()
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(stored.parameters(), before, strict=True))


def test_weights_kept_in_8_bits_only_are_refused(transformer):
    transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    (_, svi), _ = two_loras(transformer)
    with pytest.raises(WeightsMismatch, match="stored in 8 bits and its exact values are gone"):
        LoraSlot(transformer).fuse([(svi, 1.0)])


class TorchaoLike(nn.Parameter):
    """A parameter of a class of its own, as GGUF, bitsandbytes and torchao have them."""


@pytest.mark.parametrize("kind", ["int8", "class of its own"])
def test_quantised_weights_are_refused_before_anything_is_changed(transformer, kind):
    (_, svi), _ = two_loras(transformer)
    layer = transformer.blocks[1].ffn.net[2]
    before = transformer.blocks[0].attn1.to_q.weight.clone()
    values = layer.weight.detach()
    layer.weight = (
        nn.Parameter((values * 100).to(torch.int8), requires_grad=False)
        if kind == "int8"
        else TorchaoLike(values, requires_grad=False)
    )
    with pytest.raises(WeightsMismatch, match=r"blocks\.1\.ffn\.net\.2\.weight is quantised.*Fuse before quantising"):
        LoraSlot(transformer).fuse([(svi, 1.0)])
    assert torch.equal(transformer.blocks[0].attn1.to_q.weight, before)


@pytest.mark.parametrize("interrupted", [False, True])
def test_streamed_blocks_take_a_stack_also_after_an_interrupted_pass(transformer, interrupted):
    """On the CPU the copies go nowhere, but hooks, hand-over and fusing are those of a GPU."""
    resident = build(WanSize()).transformer
    stream_blocks(transformer, torch.device("cpu"))
    stack = [(lora, strength) for (_, lora), strength in zip(two_loras(resident), (0.05, 1.0), strict=True)]
    if interrupted:
        stop = transformer.blocks[1].ffn.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict(transformer)
        stop.remove()
    slots = [LoraSlot(model) for model in (resident, transformer)]
    for changes in (stack, stack[1:], []):
        for slot in slots:
            slot.fuse(changes)
        assert torch.equal(predict(transformer), predict(resident))


def test_weights_on_loan_to_the_gpu_are_called_home_before_they_are_changed(transformer):
    """A pass that is interrupted leaves blocks on the GPU; the next one takes the copies in host memory again. The
    loan is made by hand here, in the fields in which diffusers keeps it for a stream."""
    resident = build(WanSize()).transformer
    (_, svi), _ = two_loras(resident)
    stream_blocks(transformer, torch.device("cpu"))
    groups = [block._diffusers_hook.get_hook("group_offloading").group for block in transformer.blocks]
    for group in groups:
        group.stream, group.record_stream = object(), True
        group.cpu_param_dict = {p: p.data for module in group.modules for p in module.parameters()}
        for parameter, at_home in group.cpu_param_dict.items():
            parameter.data = at_home.clone()
    for model in (resident, transformer):
        LoraSlot(model).fuse([(svi, 1.0)])
    for group in groups:
        group.offload_()
    assert all(torch.equal(a, b) for a, b in zip(transformer.parameters(), resident.parameters(), strict=True))


def distilled(transformer, *, prefix="diffusion_model."):
    """A LoRA as lightx2v extracts it: low rank for matrices, `diff_b` for biases, `diff` for norms, the head and the
    patches, `diff_m` for modulations. Returns the file's tensors and the change of each parameter by diffusers' names,
    both written down layer by layer."""
    generator = torch.Generator().manual_seed(2)
    tensors, changes = {}, {}
    parameters = dict(transformer.named_parameters())

    def low_rank(theirs: str, ours: str) -> None:
        out, into = parameters[f"{ours}.weight"].shape
        down, up = torch.randn(2, into, generator=generator), 0.02 * torch.randn(out, 2, generator=generator)
        tensors[f"{prefix}{theirs}.lora_down.weight"], tensors[f"{prefix}{theirs}.lora_up.weight"] = down, up
        tensors[f"{prefix}{theirs}.alpha"] = torch.tensor(1.0)
        changes[f"{ours}.weight"] = 0.5 * (up @ down)

    def whole(theirs: str, kind: str, ours: str) -> None:
        tensors[f"{prefix}{theirs}.{kind}"] = 0.02 * torch.randn(parameters[ours].shape, generator=generator)
        changes[ours] = tensors[f"{prefix}{theirs}.{kind}"]

    picture = transformer.config.image_dim is not None
    linears = {"text_embedding.0": "text_embedder.linear_1", "text_embedding.2": "text_embedder.linear_2"}
    linears |= {"time_embedding.0": "time_embedder.linear_1", "time_embedding.2": "time_embedder.linear_2"}
    linears |= {"time_projection.1": "time_proj"}
    if picture:
        linears |= {"img_emb.proj.1": "image_embedder.ff.net.0.proj", "img_emb.proj.3": "image_embedder.ff.net.2"}
        for theirs, ours in (("0", "norm1"), ("4", "norm2")):
            whole(f"img_emb.proj.{theirs}", "diff", f"condition_embedder.image_embedder.{ours}.weight")
            whole(f"img_emb.proj.{theirs}", "diff_b", f"condition_embedder.image_embedder.{ours}.bias")
    linears = {theirs: f"condition_embedder.{ours}" for theirs, ours in linears.items()}
    for index in range(len(transformer.blocks)):
        start = f"blocks.{index}"
        linears |= {f"{start}.{theirs}": f"{start}.{ours}" for ours, theirs in UPSTREAM.items()}
        if picture:
            linears |= {f"{start}.cross_attn.{letter}_img": f"{start}.attn2.add_{letter}_proj" for letter in "kv"}
            whole(f"{start}.cross_attn.norm_k_img", "diff", f"{start}.attn2.norm_added_k.weight")
        for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            for letter in "qk":
                whole(f"{start}.{theirs}.norm_{letter}", "diff", f"{start}.{ours}.norm_{letter}.weight")
        whole(f"{start}.norm3", "diff", f"{start}.norm2.weight")
        whole(f"{start}.norm3", "diff_b", f"{start}.norm2.bias")
        whole(start, "diff_m", f"{start}.scale_shift_table")
    for theirs, ours in linears.items():
        low_rank(theirs, ours)
        whole(theirs, "diff_b", f"{ours}.bias")
    for theirs, ours in (("head.head", "proj_out"), ("patch_embedding", "patch_embedding")):
        whole(theirs, "diff", f"{ours}.weight")
        whole(theirs, "diff_b", f"{ours}.bias")
    whole("head", "diff_m", "scale_shift_table")
    return tensors, changes


@pytest.mark.parametrize("folded", [False, True])
def test_a_distilled_lora_moves_every_parameter_by_what_it_says(transformer, tmp_path, folded):
    """Norms, biases and modulations as well, which diffusers drops; also where the CPU computes another way."""
    tensors, changes = distilled(transformer)
    assert changes.keys() == dict(transformer.named_parameters()).keys()
    save_file(tensors, tmp_path / "distilled.safetensors")
    other = build(WanSize()).transformer
    other.load_state_dict(merged_by_hand(transformer, {name: 0.5 * change for name, change in changes.items()}))
    if folded:
        fold_for_cpu(transformer)
    before = predict(transformer)
    slot = LoraSlot(transformer)
    slot.fuse([(read_lora(tmp_path / "distilled.safetensors", transformer, kind="extra"), 0.5)])
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(transformer.get_parameter(name), parameter, rtol=0, atol=1e-6)
    torch.testing.assert_close(predict(transformer), predict(other), rtol=0, atol=1e-4)
    assert (predict(transformer) - before).abs().max() > 0.05
    slot.clear()
    assert torch.equal(predict(transformer), before)


def test_what_a_distilled_lora_holds_for_the_picture_attention_of_2_1_is_named_on_2_2(transformer):
    """The published ones for Wan 2.2 carry it; everything else takes effect."""
    tensors, changes = distilled(transformer)
    wan22 = build(WanSize(), takes_picture=False).transformer
    lora = parse_lora(tensors, wan22, name="distilled", kind="extra")
    own = dict(wan22.named_parameters())
    assert dict(lora.changes()).keys() == own.keys()
    assert set(lora.left_out) == {key for key in tensors if "img" in key}
    assert len(lora.left_out) == 30
    expected = merged_by_hand(wan22, {name: change for name, change in changes.items() if name in own})
    LoraSlot(wan22).fuse([(lora, 1.0)])
    for name, parameter in wan22.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", ["blocks.0.modulation.diff", "blocks.0.scale_shift_table.diff"])
def test_a_modulation_is_also_known_by_its_own_name(transformer, key):
    lora = parse_lora({key: torch.ones(1, 6, 24)}, transformer, name="style", kind="extra")
    assert list(lora.offsets) == ["blocks.0.scale_shift_table"]


def test_a_bias_that_peft_trained_is_scaled_like_the_rest(transformer):
    tensors = {
        "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 24),
        "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.ones(24, 2),
        "transformer.blocks.0.attn1.to_q.lora_B.bias": torch.full((24,), 3.0),
        "transformer.blocks.0.attn1.to_q.alpha": torch.tensor(1.0),
    }
    lora = parse_lora(tensors, transformer, name="style", kind="extra")
    assert torch.equal(lora.offsets["blocks.0.attn1.to_q.bias"].values, torch.full((24,), 1.5))


def test_what_an_extra_lora_may_hold_an_svi_lora_may_not(transformer):
    tensors = spell(factors(transformer)) | {"diffusion_model.blocks.0.norm3.diff": torch.ones(24)}
    assert parse_lora(tensors, transformer, name="style", kind="extra").offsets
    with pytest.raises(WeightsMismatch, match=r"First unknown key: diffusion_model\.blocks\.0\.norm3\.diff"):
        parse_lora(tensors, transformer, name="svi")
    tensors = spell(factors(transformer)) | {"blocks.1.ffn.2.lora_B.bias": torch.ones(24)}
    with pytest.raises(WeightsMismatch, match=r"First unknown key: blocks\.1\.ffn\.2\.lora_B\.bias"):
        parse_lora(tensors, transformer, name="svi")
    part = {key: value for key, value in spell(factors(transformer)).items() if "blocks.0" in key}
    assert len(parse_lora(part, transformer, name="style", kind="extra").modules) == 10
    with pytest.raises(WeightsMismatch, match=r"adapts 10 of the 20 .* First missing layer: blocks\.1\.attn1\.to_k"):
        parse_lora(part, transformer, name="svi")


STRANGE = {
    "vace": ("vace_blocks.0.self_attn.q.lora_A.weight", r"no place for: vace_blocks\.0"),
    "block too many": ("blocks.2.self_attn.q.lora_A.weight", r"no place for: blocks\.2\.self_attn\.q"),
    "norm without parameters": ("blocks.0.norm1.diff", r"no place for: blocks\.0\.norm1\.diff"),
    "bias of A": ("blocks.0.self_attn.q.lora_A.bias", r"no place for: blocks\.0\.self_attn\.q\.lora_A\.bias"),
    "low rank of a convolution": ("patch_embedding.lora_A.weight", r"no place for: patch_embedding\.lora_A"),
    "dance beside others": ("randomref_embedding_pose.0.weight", r"no place for: randomref_embedding_pose"),
}


@pytest.mark.parametrize(("key", "message"), STRANGE.values(), ids=STRANGE)
def test_an_extra_lora_with_a_tensor_that_is_not_understood_is_refused(transformer, key, message):
    with pytest.raises(WeightsMismatch, match=message):
        parse_lora(spell(factors(transformer)) | {key: torch.ones(24)}, transformer, name="style", kind="extra")


OTHERS = {
    "dora": ({"diffusion_model.blocks.0.self_attn.q.dora_scale": (24, 1)}, "is a DoRA"),
    "peft dora": ({"blocks.0.attn1.to_q.lora_magnitude_vector.default.weight": (24,)}, "is a DoRA"),
    "loha": ({"diffusion_model.blocks.0.self_attn.q.hada_w1_a": (24, 2)}, "is a LyCORIS file"),
    "lokr": ({"diffusion_model.blocks.0.self_attn.q.lokr_w1": (4, 4)}, "is a LyCORIS file"),
    "text encoder": ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (2, 24)}, "a text encoder"),
}


@pytest.mark.parametrize("kind", ["svi", "extra"])
@pytest.mark.parametrize(("shapes", "message"), OTHERS.values(), ids=OTHERS)
def test_another_way_of_changing_weights_is_refused_by_its_name(transformer, shapes, message, kind):
    tensors = spell(factors(transformer)) | {key: torch.ones(shape) for key, shape in shapes.items()}
    with pytest.raises(WeightsMismatch, match=message):
        parse_lora(tensors, transformer, name="style", kind=kind)


FOREIGN = {
    "sdxl": ("lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight", "Stable Diffusion or SDXL"),
    "sd": ("unet.mid_block.attentions.0.to_q.lora_A.weight", "Stable Diffusion or SDXL"),
    "flux": ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux or HunyuanVideo"),
    "flux, kohya": ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "Flux or HunyuanVideo"),
    "hunyuan": ("diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight", "Flux or HunyuanVideo"),
    "ltx": ("diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight", "another transformer, such as LTX"),
    "z-image": ("diffusion_model.layers.0.attention.to_q.lora_A.weight", "another transformer, such as LTX"),
}


@pytest.mark.parametrize(("key", "model"), FOREIGN.values(), ids=FOREIGN)
def test_a_lora_of_another_family_is_named(transformer, key, model):
    with pytest.raises(WeightsMismatch, match=f"is not a Wan LoRA: it has keys of {model}"):
        parse_lora({key: torch.ones(2, 24)}, transformer, name="style", kind="extra")


@pytest.mark.parametrize(
    ("width", "blocks", "name"),
    [(1536, 30, r"Wan 1\.3B"), (3072, 30, r"Wan 2\.2 5B"), (5120, 40, "Wan 14B"), (32, 2, "another Wan")],
)
def test_a_lora_of_another_size_of_wan_is_named(transformer, width, blocks, name):
    tensors = {}
    for index in range(blocks):
        tensors[f"diffusion_model.blocks.{index}.self_attn.q.lora_A.weight"] = torch.ones(1, width)
        tensors[f"diffusion_model.blocks.{index}.self_attn.q.lora_B.weight"] = torch.ones(width, 1)
    with pytest.raises(WeightsMismatch, match=rf"made for {name} \({width} wide, {blocks} blocks\).* \(24 wide\)"):
        parse_lora(tensors, transformer, name="style", kind="extra")


def test_a_layer_named_in_two_spellings_is_refused(transformer):
    tensors = spell(factors(transformer)) | {"pipe.dit.blocks.0.ffn.0.lora_down.weight": torch.ones(RANK, 24)}
    with pytest.raises(WeightsMismatch, match=r"holds blocks\.0\.ffn\.net\.0\.proj twice, .* as pipe\.dit"):
        parse_lora(tensors, transformer, name="svi")


def test_a_rank_that_no_lora_has_is_refused(transformer):
    tensors = spell(factors(transformer))
    tensors["blocks.0.self_attn.q.lora_A.weight"] = torch.ones(257, 24)
    tensors["blocks.0.self_attn.q.lora_B.weight"] = torch.ones(24, 257)
    with pytest.raises(WeightsMismatch, match=r"has rank 257 .*Ranks up to 256"):
        parse_lora(tensors, transformer, name="svi")


@pytest.mark.parametrize(
    ("alpha", "message"),
    [(torch.tensor(torch.nan), "not finite"), (torch.ones(2), "2 alphas"), (torch.tensor(0.0), "would change nothing")],
)
def test_an_impossible_alpha_is_refused(transformer, alpha, message):
    tensors = spell(factors(transformer), alpha=1.0)
    with pytest.raises(WeightsMismatch, match=message):
        parse_lora(tensors | {k: alpha for k in tensors if k.endswith("alpha")}, transformer, name="svi")


def write_header(path, header: dict, num_bytes: int) -> None:
    """A safetensors file with `header` and a hole of `num_bytes` for its numbers."""
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + num_bytes)


def test_a_file_larger_than_any_lora_is_refused_before_it_is_read(transformer, tmp_path):
    """A published SVI LoRA in float32 has 2.45 GB."""
    for gigabytes, message in (
        (2.46, "holds no LoRA weights|does not fit|no place"),
        (3.1, "has 3.1 GB; .* at most 3 GB"),
    ):
        size = int(gigabytes * 1e9) // 8 * 8
        entry = {"dtype": "F32", "shape": [size // 8, 2], "data_offsets": [0, size]}
        write_header(tmp_path / "big.safetensors", {"some.weight": entry}, size)
        with pytest.raises(WeightsMismatch, match=message):
            read_lora(tmp_path / "big.safetensors", transformer, kind="extra")


def test_numbers_that_are_no_weights_are_refused(transformer, tmp_path):
    save_file(spell(factors(transformer)) | {"step": torch.tensor([3])}, tmp_path / "svi.safetensors")
    with pytest.raises(WeightsMismatch, match="holds step as I64"):
        read_lora(tmp_path / "svi.safetensors", transformer)


def test_a_lora_cut_off_is_refused(transformer, tmp_path):
    save_file(spell(factors(transformer)), tmp_path / "svi.safetensors")
    content = (tmp_path / "svi.safetensors").read_bytes()
    (tmp_path / "svi.safetensors").write_bytes(content[:-10])
    with pytest.raises(WeightsMismatch, match=r"svi\.safetensors is cut off"):
        read_lora(tmp_path / "svi.safetensors", transformer)


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
