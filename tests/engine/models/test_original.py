import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel, UMT5EncoderModel

from engine.errors import WeightsMismatch, WeightsMissing
from engine.models.lora import without_weights
from engine.models.mapped import MappedWeights
from engine.models.names import diffusers_name, upstream_name
from engine.models.original import (
    build_image_encoder,
    build_text_encoder,
    build_vae,
    image_names,
    is_original,
    load_original,
    load_transformer,
    text_names,
    vae_names,
)
from engine.models.published import WAN22_I2V_A14B, WAN_I2V_14B
from engine.models.untrained import build
from tests.engine.models.original_layout import (
    SIZE,
    image_tensors,
    text_tensors,
    transformer_tensors,
    vae_tensors,
    write_original,
    write_pickled,
    write_shards,
)

VAE, TEXT = "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"
IMAGE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
SHARD = "diffusion_pytorch_model-00002-of-00002.safetensors"


def trusted(path: Path) -> None:
    """The checkpoints of these tests are our own."""


def load(folder: Path, dtype: torch.dtype = torch.float32):
    return load_original(folder, dtype=dtype, check=trusted)


@pytest.fixture(scope="module")
def modules():
    return build(SIZE)


@pytest.fixture(scope="module")
def original(modules, tmp_path_factory) -> Path:
    return write_original(tmp_path_factory.mktemp("weights") / "Wan2.1-I2V", modules)


@pytest.fixture
def copied(original, tmp_path) -> Path:
    """A copy of the folder that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "Wan2.1-I2V"))


@pytest.fixture(scope="module")
def diffusers_layout(modules, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diffusers")
    for name in ("transformer", "vae", "text_encoder", "image_encoder"):
        getattr(modules, name).save_pretrained(folder / name)
    return folder


def from_diffusers(folder: Path, dtype: torch.dtype):
    """The same parts as diffusers and transformers load them."""
    options = {"local_files_only": True}
    return {
        "transformer": WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=dtype, **options),
        "vae": AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32, **options),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype, **options),
        "image_encoder": CLIPVisionModel.from_pretrained(folder / "image_encoder", dtype=torch.float32, **options),
    }


@torch.inference_mode()
def outputs(transformer, vae, text_encoder, image_encoder) -> dict[str, torch.Tensor]:
    """What each part answers to fixed inputs."""
    generator = torch.Generator().manual_seed(3)
    dtype = text_encoder.dtype
    pixels = torch.rand(1, 3, 9, 32, 32, generator=generator) * 2 - 1
    tokens = torch.randint(0, 100, (2, 24), generator=generator)
    latents = vae.encode(pixels).latent_dist.mode()
    return {
        "transformer": transformer(
            hidden_states=torch.randn(1, 36, 3, 4, 4, generator=generator).to(dtype),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.randn(1, 512, 32, generator=generator).to(dtype),
            encoder_hidden_states_image=torch.randn(1, 17, SIZE.image_dim, generator=generator).to(dtype),
            return_dict=False,
        )[0],
        "latents": latents,
        "pixels": vae.decode(latents).sample,
        "text": text_encoder(tokens, torch.ones_like(tokens)).last_hidden_state,
        "picture": image_encoder(pixels[:, :, 0], output_hidden_states=True).hidden_states[-2],
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_upstreams_layout_answers_bit_for_bit_as_diffusers_layout(original, diffusers_layout, dtype):
    loaded, expected = load(original, dtype), from_diffusers(diffusers_layout, dtype)
    parts = {name: getattr(loaded, name) for name in expected}
    for name, answer in outputs(**expected).items():
        assert torch.equal(outputs(**parts)[name], answer), name
    for name, module in expected.items():
        wanted = {key: tensor.dtype for key, tensor in (*module.named_parameters(), *module.named_buffers())}
        found = {key: tensor.dtype for key, tensor in (*parts[name].named_parameters(), *parts[name].named_buffers())}
        assert found == wanted, name
        assert not parts[name].training


def test_the_tokenizer_is_the_one_in_googles_folder(original, modules):
    prompts = ["A cat walks", "night falls"]
    assert load(original).tokenizer(prompts).input_ids == modules.tokenizer(prompts).input_ids


def test_wan_2_2_has_two_transformers_and_no_picture_encoder(tmp_path):
    modules, other = build(SIZE, takes_picture=False), build(SIZE, seed=1, takes_picture=False)
    folder = write_original(tmp_path / "Wan2.2-I2V-A14B", modules, low_noise=other.transformer)
    loaded = load(folder)
    assert loaded.image_encoder is None
    assert loaded.transformer.config.image_dim is None
    for found, wanted in ((loaded.transformer, modules), (loaded.low_noise_transformer, other)):
        state = found.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in wanted.transformer.state_dict().items())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_weights_that_need_no_cast_stay_in_their_files(copied):
    """14B are never twice in memory: what is not cast is a view of the file."""
    loaded = load(copied)
    mapped = Path("/proc/self/maps").read_text()
    assert all(str(copied / name) in mapped for name in (SHARD, VAE, TEXT, IMAGE))
    del loaded


def test_a_vision_tower_without_its_prefix_is_read_too(copied, modules, original):
    write_pickled(copied / IMAGE, image_tensors(modules.image_encoder, prefix=""))
    state, expected = (load(folder).image_encoder.state_dict() for folder in (copied, original))
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())


def test_an_old_kind_of_pth_is_read_too(copied, modules):
    tensors = {key: tensor.clone() for key, tensor in vae_tensors(modules.vae).items()}
    torch.save(tensors, copied / VAE, _use_new_zipfile_serialization=False)
    assert torch.equal(load(copied).vae.quant_conv.weight, modules.vae.quant_conv.weight)


def test_a_safetensors_twin_is_taken_instead_of_a_pickle(copied, modules):
    save_file({k: t.contiguous() for k, t in vae_tensors(modules.vae).items()}, copied / "Wan2.1_VAE.safetensors")
    (copied / VAE).write_bytes(b"not looked at")
    assert torch.equal(load(copied).vae.quant_conv.weight, modules.vae.quant_conv.weight)


def test_a_pickle_that_nobody_published_is_not_opened(original, monkeypatch, tmp_path):
    monkeypatch.setenv("SVI_MODELS_DIR", str(tmp_path))
    with pytest.raises(WeightsMismatch, match=r"Wan2\.1_VAE\.pth is a pickle"):
        load_original(original, dtype=torch.float32)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04 cut off"], ids=["empty", "web page", "cut off"]
)
def test_a_damaged_checkpoint_is_named(copied, content):
    (copied / VAE).write_bytes(content)
    with pytest.raises(WeightsMissing, match=r"Wan2\.1_VAE\.pth is damaged"):
        load(copied)


def test_code_in_a_checkpoint_is_not_run(copied, tmp_path):
    torch.save({"conv1.weight": Touch(tmp_path / "ran")}, copied / VAE)
    with pytest.raises(WeightsMissing, match=r"Wan2\.1_VAE\.pth is damaged"):
        load(copied)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_something_else_is_named(copied):
    torch.save([1, 2], copied / VAE)
    with pytest.raises(WeightsMismatch, match=r"Wan2\.1_VAE\.pth is not a table of tensors"):
        load(copied)


@pytest.mark.parametrize("name", ["Wan2.1_VAE.pth", TEXT, IMAGE, SHARD, "config.json"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(WeightsMissing, match=name.replace(".", r"\.")):
        load(copied)


def test_a_missing_shard_is_counted(copied):
    (copied / SHARD).unlink()
    with pytest.raises(WeightsMissing, match=r"00002-of-00002\.safetensors is missing .*\(1 of 2 files are\)"):
        load(copied)


def test_a_missing_expert_is_named(tmp_path):
    modules = build(SIZE, takes_picture=False)
    folder = write_original(tmp_path / "wan", modules, low_noise=modules.transformer)
    shutil.rmtree(folder / "low_noise_model")
    with pytest.raises(WeightsMissing, match="low_noise_model"):
        load(folder)


def test_a_shard_cut_off_is_named(copied):
    content = (copied / SHARD).read_bytes()
    (copied / SHARD).write_bytes(content[:-100])
    with pytest.raises(WeightsMismatch, match=r"00002-of-00002\.safetensors is cut off"):
        load(copied)


def test_a_missing_tokenizer_is_named(copied):
    shutil.rmtree(copied / "google")
    with pytest.raises(WeightsMissing, match="google/umt5-xxl holds no readable tokenizer"):
        load(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t2v"}, "holds a “t2v” model"),
        ({"num_heads": None}, "has no “num_heads”"),
    ],
)
def test_a_config_of_another_model_is_refused(copied, change, message):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsMismatch, match=message):
        load(copied)


def test_missing_unknown_and_misshapen_tensors_are_counted_with_the_first_of_each(copied):
    tensors = load_file(copied / SHARD)
    one, two, three = sorted(key for key in tensors if key.startswith("blocks.1.self_attn"))[:3]
    del tensors[one], tensors[two]
    tensors[three] = torch.zeros(3, 5)
    tensors["blocks.9.diff"] = torch.zeros(1)
    save_file(tensors, copied / SHARD)
    missing = diffusers_name(min(one, two, key=lambda key: list(transformer_order(copied)).index(diffusers_name(key))))
    with pytest.raises(WeightsMismatch) as caught:
        load(copied)
    message = str(caught.value)
    assert f"2 missing, first {missing}" in message
    assert "1 unknown, first blocks.9.diff" in message
    assert f"1 of another shape, first {three} 3×5 instead of 24" in message


def transformer_order(folder: Path) -> list[str]:
    return [name for name, _ in build(SIZE).transformer.named_parameters()]


@pytest.mark.parametrize(
    ("file", "key", "part"),
    [
        (VAE, "decoder.upsamples.4.residual.2.weight", "AutoencoderKLWan"),
        (TEXT, "blocks.1.ffn.gate.0.weight", "UMT5EncoderModel"),
        (IMAGE, "visual.transformer.1.attn.to_qkv.weight", "CLIPVisionModel"),
    ],
)
def test_a_tensor_missing_from_an_encoder_is_refused_rather_than_drawn_at_random(copied, file, key, part):
    tensors = torch.load(copied / file)
    del tensors[key]
    torch.save(tensors, copied / file)
    with pytest.raises(WeightsMismatch, match=rf"does not fit {part}.* missing, first"):
        load(copied)


def test_a_vision_tower_whose_heads_are_unknown_is_refused(copied):
    with pytest.raises(WeightsMismatch, match="is 4 wide, which heads of 80 do not fill"):
        build_image_encoder(image_tensors(build(type(SIZE)()).image_encoder))


def test_an_index_that_points_outside_the_folder_is_refused(copied):
    index = copied / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(WeightsMismatch, match=r"lists “\.\./secret\.safetensors”"):
        load_transformer(copied, dtype=torch.float32)


def test_upstreams_layout_is_told_from_diffusers_own(original, diffusers_layout, tmp_path):
    assert is_original(original)
    assert not is_original(diffusers_layout)
    assert not is_original(tmp_path)
    (tmp_path / "high_noise_model").mkdir()
    assert is_original(tmp_path)
    (tmp_path / "model_index.json").touch()
    assert not is_original(tmp_path)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("count", [1, 3])
def test_mapped_weights_are_those_of_the_model_in_either_layout(modules, tmp_path, layout, count):
    if layout == "original":
        write_shards(tmp_path, modules.transformer, count=count)
    else:
        modules.transformer.save_pretrained(tmp_path, max_shard_size="40KB" if count > 1 else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (count > 1)
    weights = MappedWeights(tmp_path)
    for name, parameter in modules.transformer.named_parameters():
        assert torch.equal(weights(name), parameter), name
    with pytest.raises(WeightsMismatch, match=r"no blocks\.9\.norm2\.weight"):
        weights("blocks.9.norm2.weight")


# The 14B models, by name and shape only.


def upstream_transformer_keys(num_blocks: int, *, takes_picture: bool) -> set[str]:
    """Every tensor of upstream's WanModel, read off svi.md §2.3 and modules/model.py."""
    keys = {f"patch_embedding.{kind}" for kind in ("weight", "bias")}
    keys |= {f"{part}.{i}.{kind}" for part in ("text_embedding", "time_embedding") for i in "02" for kind in WB}
    keys |= {f"time_projection.1.{kind}" for kind in WB} | {f"head.head.{kind}" for kind in WB} | {"head.modulation"}
    if takes_picture:
        keys |= {f"img_emb.proj.{i}.{kind}" for i in "0134" for kind in WB}
    for block in range(num_blocks):
        start = f"blocks.{block}"
        for attention in ("self_attn", "cross_attn"):
            keys |= {f"{start}.{attention}.{letter}.{kind}" for letter in "qkvo" for kind in WB}
            keys |= {f"{start}.{attention}.norm_{letter}.weight" for letter in "qk"}
        if takes_picture:
            keys |= {f"{start}.cross_attn.{letter}_img.{kind}" for letter in "kv" for kind in WB}
            keys.add(f"{start}.cross_attn.norm_k_img.weight")
        keys |= {f"{start}.{layer}.{kind}" for layer in ("norm3", "ffn.0", "ffn.2") for kind in WB}
        keys.add(f"{start}.modulation")
    return keys


WB = ("weight", "bias")


@pytest.mark.parametrize(
    ("config", "takes_picture", "count"),
    [(WAN_I2V_14B, True, 1303), (WAN22_I2V_A14B, False, 1095)],
    ids=["wan 2.1", "wan 2.2"],
)
def test_every_tensor_of_the_14b_transformer_has_one_name_on_either_side(config, takes_picture, count):
    ours = set(without_weights(config).state_dict())
    theirs = upstream_transformer_keys(40, takes_picture=takes_picture)
    assert len(theirs) == len(ours) == count
    assert {diffusers_name(key) for key in theirs} == ours
    assert {upstream_name(name) for name in ours} == theirs
    by_diffusers = convert_wan_transformer_to_diffusers({key: key for key in theirs})
    assert {name: diffusers_name(key) for name, key in by_diffusers.items()} == {name: name for name in ours}


def upstream_vae_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of upstream's WanVAE with dim 96 and dim_mult 1, 2, 4, 4, read off modules/vae.py."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, into: int, *kernel: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into, *kernel), (out,)

    def residual(name: str, into: int, out: int) -> None:
        shapes[f"{name}.residual.0.gamma"], shapes[f"{name}.residual.3.gamma"] = (into, 1, 1, 1), (out, 1, 1, 1)
        conv(f"{name}.residual.2", out, into, 3, 3, 3)
        conv(f"{name}.residual.6", out, out, 3, 3, 3)
        if into != out:
            conv(f"{name}.shortcut", out, into, 1, 1, 1)

    for side in ("encoder", "decoder"):
        conv(f"{side}.conv1", *((96, 3) if side == "encoder" else (384, 16)), 3, 3, 3)
        residual(f"{side}.middle.0", 384, 384)
        shapes[f"{side}.middle.1.norm.gamma"] = (384, 1, 1)
        conv(f"{side}.middle.1.to_qkv", 1152, 384, 1, 1)
        conv(f"{side}.middle.1.proj", 384, 384, 1, 1)
        residual(f"{side}.middle.2", 384, 384)
        last = 384 if side == "encoder" else 96
        shapes[f"{side}.head.0.gamma"] = (last, 1, 1, 1)
        conv(f"{side}.head.2", 32 if side == "encoder" else 3, last, 3, 3, 3)
    index, into = 0, 96
    for level, out in enumerate((96, 192, 384, 384)):
        for _ in range(2):
            residual(f"encoder.downsamples.{index}", into, out)
            index, into = index + 1, out
        if level < 3:
            conv(f"encoder.downsamples.{index}.resample.1", out, out, 3, 3)
            if level:  # the first halves the picture only
                conv(f"encoder.downsamples.{index}.time_conv", out, out, 3, 1, 1)
            index += 1
    index, into = 0, 384
    for level, out in enumerate((384, 384, 192, 96)):
        for _ in range(3):
            residual(f"decoder.upsamples.{index}", into, out)
            index, into = index + 1, out
        if level < 3:
            conv(f"decoder.upsamples.{index}.resample.1", out // 2, out, 3, 3)
            if level < 2:
                conv(f"decoder.upsamples.{index}.time_conv", 2 * out, out, 3, 1, 1)
            index, into = index + 1, out // 2
    conv("conv1", 32, 32, 1, 1, 1)
    conv("conv2", 16, 16, 1, 1, 1)
    return shapes


def without_numbers(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def test_every_tensor_of_the_vae_finds_its_place_and_gives_its_size():
    shapes = upstream_vae_shapes()
    vae = build_vae(without_numbers(shapes))
    with torch.device("meta"):
        published = AutoencoderKLWan()  # diffusers' defaults are Wan 2.1's
    wanted = {key: tuple(tensor.shape) for key, tensor in published.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in vae.state_dict().items()} == wanted
    sizes = ("base_dim", "z_dim", "dim_mult", "num_res_blocks", "temperal_downsample")
    assert [list(vae.config[key]) if key in sizes[2::2] else vae.config[key] for key in sizes] == [
        list(published.config[key]) if key in sizes[2::2] else published.config[key] for key in sizes
    ]
    assert len(shapes) == len(wanted) == 194
    by_diffusers = convert_wan_vae_to_diffusers({key: key for key in shapes})
    assert {key: vae_names(key, 2) for key in shapes} == {key: (name,) for name, key in by_diffusers.items()}


def test_every_tensor_of_umt5_xxl_finds_its_place_and_gives_its_size():
    shapes = {"token_embedding.weight": (256_384, 4096), "norm.weight": (4096,)}
    for block in range(24):
        start = f"blocks.{block}"
        shapes |= {f"{start}.norm{i}.weight": (4096,) for i in (1, 2)}
        shapes |= {f"{start}.attn.{letter}.weight": (4096, 4096) for letter in "qkvo"}
        shapes |= {f"{start}.ffn.{layer}.weight": (10_240, 4096) for layer in ("gate.0", "fc1")}
        shapes |= {f"{start}.ffn.fc2.weight": (4096, 10_240), f"{start}.pos_embedding.embedding.weight": (32, 64)}
    assert len(shapes) == 242
    encoder = build_text_encoder(without_numbers(shapes), dtype=torch.bfloat16)
    config = encoder.config
    assert (config.d_kv, config.num_heads, config.num_layers, config.d_ff) == (64, 64, 24, 10_240)
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight
    assert len({text_names(key) for key in shapes}) == 242


def test_every_tensor_of_vit_h_finds_its_place_and_gives_its_size():
    width = 1280
    shapes = {"cls_embedding": (1, 1, width), "pos_embedding": (1, 257, width), "head": (width, 1024)}
    shapes["patch_embedding.weight"] = (width, 3, 14, 14)
    shapes |= {f"{norm}_norm.{kind}": (width,) for norm in ("pre", "post") for kind in WB}
    linears = {"attn.to_qkv": (3 * width, width), "attn.proj": (width, width), "mlp.0": (5120, width)}
    linears["mlp.2"] = (width, 5120)
    for block in range(32):
        start = f"transformer.{block}"
        shapes |= {f"{start}.norm{i}.{kind}": (width,) for i in (1, 2) for kind in WB}
        for layer, (out, into) in linears.items():
            shapes |= {f"{start}.{layer}.weight": (out, into), f"{start}.{layer}.bias": (out,)}
    encoder = build_image_encoder(without_numbers({f"visual.{key}": shape for key, shape in shapes.items()}))
    config = encoder.config
    assert (config.num_attention_heads, config.image_size, config.num_hidden_layers) == (16, 224, 32)
    assert config.hidden_act == "gelu"
    places = [name for key in shapes for name in image_names(key)]
    assert sorted(places) == sorted(encoder.state_dict())


def test_the_tiny_layout_of_these_tests_has_upstreams_names(modules):
    """Otherwise tests and code could agree on wrong names."""
    assert set(transformer_tensors(modules.transformer)) == upstream_transformer_keys(2, takes_picture=True)
    assert set(text_tensors(modules.text_encoder)) >= {"token_embedding.weight", "blocks.1.ffn.gate.0.weight"}
