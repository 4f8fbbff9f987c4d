import gguf
import numpy as np
import pytest
import torch
from diffusers.quantizers.gguf.utils import GGUFParameter

from engine.errors import BackendUnavailable, DiskFull, InputError, WeightsMismatch, WeightsMissing
from engine.models.gguf_files import FusedLora, is_quantised, load_gguf, read_fused, write_gguf
from engine.models.lora import LoraSlot, parse_lora, without_weights
from engine.models.names import upstream_name
from engine.models.published import WAN_I2V_14B
from engine.models.untrained import WanSize, build
from tests.engine.models.original_layout import transformer_tensors
from tests.engine.models.test_lora import factors, spell

SIZE = WanSize(num_heads=2, head_dim=16, ffn_dim=64)  # widths that blocks of 32 numbers fill
FILM = FusedLora("svi-film.safetensors", 0.8)


@pytest.fixture
def transformer():
    return build(SIZE).transformer


@torch.inference_mode()
def predict(transformer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return transformer(
        hidden_states=torch.randn(1, 36, 3, 4, 4, generator=generator),
        timestep=torch.tensor([500.0]),
        encoder_hidden_states=torch.randn(1, 512, 32, generator=generator),
        encoder_hidden_states_image=torch.randn(1, 17, 4, generator=generator),
        return_dict=False,
    )[0]


@pytest.mark.parametrize("quantisation", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_a_file_computes_with_the_weights_that_it_holds(transformer, tmp_path, quantisation):
    """The oracle is a plain model with the numbers in the file; diffusers unpacks them in half precision."""
    write_gguf(transformer, tmp_path / "wan.gguf", quantisation=quantisation)
    loaded = load_gguf(tmp_path / "wan.gguf", dtype=torch.float32)
    exact = {upstream_name(name): parameter for name, parameter in transformer.named_parameters()}
    step = {"Q8_0": 1 / 127, "Q5_1": 1 / 31, "Q5_0": 1 / 16, "Q4_1": 1 / 15, "Q4_0": 1 / 8}[quantisation]
    for tensor in gguf.GGUFReader(tmp_path / "wan.gguf").tensors:
        parameter = exact[tensor.name]
        held = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        spread = 2 * parameter.abs().max() if quantisation.endswith("_1") else parameter.abs().max()
        torch.testing.assert_close(held, parameter, rtol=0, atol=float(1.01 * step * spread))
        assert torch.equal(held, parameter) == (tensor.tensor_type.name == "F32")
        parameter.copy_(held)
    torch.testing.assert_close(predict(loaded), predict(transformer), rtol=0, atol=4e-3)


def test_the_file_has_upstreams_names_and_quantises_only_the_layers_of_blocks(transformer, tmp_path):
    write_gguf(transformer, tmp_path / "wan.gguf", quantisation="Q4_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "wan.gguf").tensors}
    assert kinds.keys() == transformer_tensors(transformer).keys()
    layers = [f"blocks.{i}.{a}_attn.{k}" for i in (0, 1) for a in ("self", "cross") for k in "qkvo"]
    layers += [f"blocks.{i}.{layer}" for i in (0, 1) for layer in ("cross_attn.k_img", "cross_attn.v_img")]
    layers += [f"blocks.{i}.ffn.{layer}" for i in (0, 1) for layer in (0, 2)]
    assert {name for name, kind in kinds.items() if kind == "Q4_0"} == {f"{layer}.weight" for layer in layers}
    assert {kind for kind in kinds.values()} == {"Q4_0", "F32"}


def test_most_of_a_14b_model_is_quantised():
    sizes = {upstream_name(name): tensor for name, tensor in without_weights(WAN_I2V_14B).named_parameters()}
    share = sum(tensor.numel() for name, tensor in sizes.items() if is_quantised(name, tensor))
    assert 0.98 < share / sum(tensor.numel() for tensor in sizes.values()) < 0.99


def test_a_layer_that_blocks_of_32_do_not_fill_stays_as_it_is(tmp_path):
    odd = build(WanSize()).transformer  # 24 wide
    write_gguf(odd, tmp_path / "odd.gguf", quantisation="Q8_0")
    loaded = load_gguf(tmp_path / "odd.gguf", dtype=torch.float32)
    assert torch.equal(loaded.blocks[0].attn1.to_q.weight, odd.blocks[0].attn1.to_q.weight)
    assert isinstance(loaded.blocks[0].ffn.net[2].weight, GGUFParameter)  # 32 wide


def test_a_file_says_which_loras_it_holds_and_holds_them(transformer, tmp_path):
    write_gguf(transformer, tmp_path / "base.gguf", quantisation="Q8_0")
    assert read_fused(tmp_path / "base.gguf") == ()
    lora = parse_lora(spell(factors(transformer)), transformer, name=FILM.name)
    LoraSlot(transformer).fuse([(lora, FILM.strength)])
    write_gguf(transformer, tmp_path / "film.gguf", quantisation="Q8_0", loras=[FILM])
    assert read_fused(tmp_path / "film.gguf") == (FILM,)
    base, film = (load_gguf(tmp_path / name, dtype=torch.float32) for name in ("base.gguf", "film.gguf"))
    fused = predict(transformer)
    assert (predict(film) - fused).abs().max() < 0.2 * (predict(base) - fused).abs().max()


def test_a_lora_is_not_added_to_quantised_weights(transformer, tmp_path):
    write_gguf(transformer, tmp_path / "wan.gguf", quantisation="Q8_0")
    loaded = load_gguf(tmp_path / "wan.gguf", dtype=torch.float32)
    lora = parse_lora(spell(factors(transformer)), transformer, name="svi")
    with pytest.raises(WeightsMismatch, match=r"quantised \(GGUFParameter\).*Fuse before quantising"):
        LoraSlot(loaded).fuse([(lora, 1.0)])


@pytest.mark.parametrize("how", ["gguf", "8 bits"])
def test_weights_that_were_rounded_before_are_not_rounded_again(transformer, tmp_path, how):
    if how == "gguf":
        write_gguf(transformer, tmp_path / "wan.gguf", quantisation="Q8_0")
        transformer = load_gguf(tmp_path / "wan.gguf", dtype=torch.float32)
    else:
        transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    with pytest.raises(WeightsMismatch, match="is quantised already"):
        write_gguf(transformer, tmp_path / "again.gguf", quantisation="Q4_0")


def write_foreign(path, tensors, *, arch="wan") -> None:
    """A GGUF file as others make them: no notes of ours, half precision for what is not quantised."""
    writer = gguf.GGUFWriter(path, arch)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy().astype(np.float16 if tensor.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def wide():
    """One block with a head of 128, from which the size of a file of other origin is told."""
    return build(WanSize(num_heads=1, head_dim=128, num_layers=1)).transformer


def test_a_file_of_other_origin_tells_its_size_by_its_shapes(wide, tmp_path):
    write_foreign(tmp_path / "other.gguf", transformer_tensors(wide))
    assert read_fused(tmp_path / "other.gguf") == ()
    loaded = load_gguf(tmp_path / "other.gguf", dtype=torch.float32)
    torch.testing.assert_close(predict(loaded), predict(wide), rtol=0, atol=5e-3)  # the weights were halved
    assert loaded.config.num_attention_heads == 1


def test_a_file_that_lacks_a_tensor_is_refused_rather_than_filled_at_random(wide, tmp_path):
    tensors = transformer_tensors(wide)
    del tensors["blocks.0.cross_attn.norm_k_img.weight"]
    write_foreign(tmp_path / "other.gguf", tensors)
    with pytest.raises(WeightsMismatch, match=r"has no blocks\.0\.attn2\.norm_added_k\.weight \(1 such"):
        load_gguf(tmp_path / "other.gguf", dtype=torch.float32)


def test_an_unknown_tensor_is_named(wide, tmp_path):
    write_foreign(tmp_path / "other.gguf", transformer_tensors(wide) | {"vace_blocks.0.q.weight": torch.ones(32, 32)})
    with pytest.raises(WeightsMismatch, match=r"has an unknown vace_blocks\.0\.q\.weight"):
        load_gguf(tmp_path / "other.gguf", dtype=torch.float32)


def test_a_model_of_another_kind_is_refused(tmp_path):
    write_foreign(tmp_path / "llama.gguf", {"token_embd.weight": torch.ones(32, 32)}, arch="llama")
    with pytest.raises(WeightsMismatch, match=r"llama\.gguf is not a Wan transformer"):
        load_gguf(tmp_path / "llama.gguf", dtype=torch.float32)


@pytest.mark.parametrize("keep", [0, 3, 100, 20_000, -50_000])
def test_a_file_cut_off_is_refused(transformer, tmp_path, keep):
    write_gguf(transformer, tmp_path / "wan.gguf", quantisation="Q8_0")
    content = (tmp_path / "wan.gguf").read_bytes()
    (tmp_path / "wan.gguf").write_bytes(content[:keep])
    with pytest.raises(WeightsMismatch, match=r"wan\.gguf is not a whole GGUF file"):
        load_gguf(tmp_path / "wan.gguf", dtype=torch.float32)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsMissing, match=r"no file wan\.gguf"):
        load_gguf(tmp_path / "wan.gguf", dtype=torch.float32)


def test_without_the_package_the_user_is_told_what_to_install(transformer, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(BackendUnavailable, match=r"pip install gguf==0\.19\.0"):
        write_gguf(transformer, tmp_path / "wan.gguf", quantisation="Q8_0")


@pytest.mark.parametrize(("name", "quantisation"), [("wan.safetensors", "Q8_0"), ("wan.gguf", "Q3_K")])
def test_what_cannot_be_written_is_refused(transformer, tmp_path, name, quantisation):
    with pytest.raises(InputError, match="cannot be written"):
        write_gguf(transformer, tmp_path / name, quantisation=quantisation)


@pytest.mark.skipif(not __import__("pathlib").Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_nothing_behind(transformer, tmp_path):
    (tmp_path / "wan.gguf.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"No room on the disk to write the file wan\.gguf"):
        write_gguf(transformer, tmp_path / "wan.gguf", quantisation="Q8_0")
    assert not list(tmp_path.iterdir())
