import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from engine import faults
from engine.errors import DiskFull, InputError, WeightsMismatch, WeightsMissing
from engine.models.lora import LoraSlot, read_lora
from engine.models.names import diffusers_name, upstream_name
from engine.models.untrained import WanSize, build
from engine.pocket import model
from engine.training.export import SPELLINGS as LAYOUTS
from engine.training.export import LoraCard, export_lora, read_card
from tests.engine.models.test_lora import RANK, SPELLINGS, factors, spell

POCKET = Path(__file__).parents[3] / "assets" / "pocket"
WAN_14B = {  # svi.md §1.1: Wan 2.1 I2V 14B
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "num_layers": 40,
    "ffn_dim": 13824,
    "in_channels": 36,
    "image_dim": 1280,
    "added_kv_proj_dim": 5120,
}
# Written out, so that a mistake in the tables of the code is seen.
EXPECTED = {
    "diffusers": [
        "transformer.blocks.1.attn2.to_out.0.lora_A.weight",
        "transformer.blocks.1.attn2.to_out.0.lora_B.weight",
        "transformer.blocks.1.ffn.net.0.proj.lora_A.weight",
    ],
    "upstream": [
        "pipe.dit.blocks.1.cross_attn.o.lora_A.default.weight",
        "pipe.dit.blocks.1.cross_attn.o.lora_B.default.weight",
        "pipe.dit.blocks.1.ffn.0.lora_A.default.weight",
    ],
    "comfy": [
        "diffusion_model.blocks.1.cross_attn.o.lora_down.weight",
        "diffusion_model.blocks.1.cross_attn.o.lora_up.weight",
        "diffusion_model.blocks.1.ffn.0.lora_down.weight",
    ],
}


@pytest.fixture
def transformer() -> nn.Module:
    return build(WanSize()).transformer


@pytest.fixture
def source(transformer, tmp_path) -> Path:
    """A LoRA as upstream publishes it."""
    save_file(spell(factors(transformer), **SPELLINGS["svi 1.0"]), tmp_path / "source.safetensors")
    return tmp_path / "source.safetensors"


def deltas(path: Path, transformer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: module.delta() for name, module in read_lora(path, transformer).modules.items()}


def predict(transformer: nn.Module) -> torch.Tensor:
    """The velocity for fixed inputs; 512 text and 17 picture tokens."""
    generator = torch.Generator().manual_seed(5)
    inputs = {
        "hidden_states": torch.randn(1, 36, 3, 4, 4, generator=generator),
        "encoder_hidden_states": torch.randn(1, 512, 32, generator=generator),
        "encoder_hidden_states_image": torch.randn(1, 17, 4, generator=generator),
    }
    with torch.no_grad():
        return transformer(timestep=torch.tensor([700.0]), return_dict=False, **inputs)[0]


def test_the_names_are_inverse_to_each_other(transformer):
    for module in factors(transformer):
        assert diffusers_name(upstream_name(module)) == module
        assert upstream_name(module) != module


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_has_the_names_that_its_programs_look_for(transformer, source, tmp_path, layout):
    out = tmp_path / "out.safetensors"
    exported = export_lora(source, out, layout=layout, transformer_config=transformer.config, precision="float32")
    tensors = load_file(out)
    assert set(EXPECTED[layout]) <= set(tensors)
    assert len(tensors) == (60 if layout == "comfy" else 40)  # two blocks of ten layers
    assert len({key.split("blocks")[0] for key in tensors}) == 1
    assert (exported.num_modules, exported.num_bytes) == (20, out.stat().st_size)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", [None, 5])
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_becomes_every_layout_with_the_same_change(transformer, tmp_path, spelling, alpha, layout):
    made = factors(transformer)
    source, out = tmp_path / "source.safetensors", tmp_path / "out.safetensors"
    save_file(spell(made, alpha=alpha, **spelling), source)
    export_lora(source, out, layout=layout, transformer_config=transformer.config, precision="float32")
    scale = 1.0 if alpha is None else alpha / RANK
    for module, delta in deltas(out, transformer).items():
        down, up = made[module]
        torch.testing.assert_close(delta, scale * up @ down, rtol=0, atol=1e-5)  # one rounding of scale · B
        assert delta.abs().max() > 0.1


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
def test_going_from_layout_to_layout_changes_no_bit(transformer, source, tmp_path, first, second, precision):
    options = {"transformer_config": transformer.config, "precision": precision}
    export_lora(source, tmp_path / "1.safetensors", layout=first, **options)
    export_lora(tmp_path / "1.safetensors", tmp_path / "2.safetensors", layout=second, **options)
    export_lora(tmp_path / "2.safetensors", tmp_path / "3.safetensors", layout=first, **options)
    one, three = load_file(tmp_path / "1.safetensors"), load_file(tmp_path / "3.safetensors")
    assert one.keys() == three.keys()
    assert all(torch.equal(one[key], three[key]) for key in one)
    two = deltas(tmp_path / "2.safetensors", transformer)
    assert all(
        torch.equal(delta, two[module]) for module, delta in deltas(tmp_path / "1.safetensors", transformer).items()
    )
    dtypes = {tensor.dtype for key, tensor in three.items() if not key.endswith("alpha")}
    assert dtypes == {getattr(torch, precision)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_exported_lora_moves_the_model_as_its_source_does(transformer, source, tmp_path, layout):
    out = tmp_path / "out.safetensors"
    export_lora(source, out, layout=layout, transformer_config=transformer.config, precision="float32")
    base = predict(transformer)
    slot = LoraSlot(transformer)
    slot.fuse([(read_lora(source, transformer), 0.2)])
    expected = predict(transformer)
    slot.fuse([(read_lora(out, transformer), 0.2)])
    assert torch.equal(predict(transformer), expected)
    assert (expected - base).abs().max() > 0.1


@pytest.mark.parametrize("layout", ["diffusers", "comfy"])
@pytest.mark.parametrize("alpha", [None, 5])
def test_diffusers_own_loader_gets_the_same_change(transformer, tmp_path, layout, alpha):
    """comfy's names go through diffusers' converter of `diffusion_model.` files, lora_down, lora_up and alpha."""
    source, out = tmp_path / "source.safetensors", tmp_path / "out.safetensors"
    save_file(spell({key: (a, 0.2 * b) for key, (a, b) in factors(transformer).items()}, alpha=alpha), source)
    export_lora(source, out, layout=layout, transformer_config=transformer.config, precision="float32")
    fused = build(WanSize()).transformer
    LoraSlot(fused).fuse([(read_lora(out, fused), 1.0)])
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline  # after engine.models: torchvision

    pipeline = WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=transformer,
        image_encoder=None,
        image_processor=None,
    )
    base = predict(transformer)
    pipeline.load_lora_weights(out)
    torch.testing.assert_close(predict(transformer), predict(fused), rtol=0, atol=1e-4)
    assert (predict(fused) - base).abs().max() > 0.1


def test_upstreams_loader_finds_every_layer(transformer, source, tmp_path):
    """It takes what follows `pipe.dit.` and adds B · A to the layer of that name, without any alpha (svi.md §2.2)."""
    out = tmp_path / "out.safetensors"
    alpha_two = spell(factors(transformer), alpha=2 * RANK, **SPELLINGS["svi 2.0"])
    save_file(alpha_two, source)
    export_lora(source, out, layout="upstream", transformer_config=transformer.config, precision="float32")
    tensors, found = load_file(out), {}
    for key in tensors:
        if "pipe.dit." in key and ".lora_B.default.weight" in key:
            layer = key.split("pipe.dit.")[1].removesuffix(".lora_B.default.weight")
            found[layer] = tensors[key] @ tensors[key.replace("lora_B", "lora_A")]
    assert len(found) == 20
    for module, (down, up) in factors(transformer).items():
        torch.testing.assert_close(found[upstream_name(module)], 2 * up @ down, rtol=0, atol=1e-5)


def test_a_14b_lora_has_800_tensors_for_400_layers(tmp_path):
    """svi.md §2.2, at rank 1; A of the last layer is (1, 13824)."""
    tensors = {}
    for block in range(40):
        for layer in ("self_attn", "cross_attn"):
            for letter in "qkvo":
                tensors[f"blocks.{block}.{layer}.{letter}.lora_A.default.weight"] = torch.ones(1, 5120)
                tensors[f"blocks.{block}.{layer}.{letter}.lora_B.default.weight"] = torch.ones(5120, 1)
        for number, (inner, outer) in {"0": (5120, 13824), "2": (13824, 5120)}.items():
            tensors[f"blocks.{block}.ffn.{number}.lora_A.default.weight"] = torch.ones(1, inner)
            tensors[f"blocks.{block}.ffn.{number}.lora_B.default.weight"] = torch.ones(outer, 1)
    source, out = tmp_path / "v2.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, source)
    exported = export_lora(source, out, layout="upstream", transformer_config=WAN_14B)
    written = load_file(out)
    assert (exported.num_modules, len(written)) == (400, 800)
    assert written["pipe.dit.blocks.39.ffn.2.lora_A.default.weight"].shape == (1, 13824)
    assert sum(tensor.numel() for tensor in written.values()) * 128 == 613_416_960  # at rank 128


def test_the_pocket_lora_goes_to_comfy_names_and_back_unchanged(tmp_path):
    config = json.loads((POCKET / "transformer" / "config.json").read_text())
    from tests.engine.backends.test_local import lora_file

    source = tmp_path / "shot.safetensors"
    made = lora_file(tmp_path / "made.safetensors", model.load_components(POCKET).transformer, 0)
    export_lora(Path(made), source, layout="diffusers", transformer_config=config)
    comfy, back = tmp_path / "comfy.safetensors", tmp_path / "back.safetensors"
    exported = export_lora(source, comfy, layout="comfy", transformer_config=config)
    export_lora(comfy, back, layout="diffusers", transformer_config=config)
    before, after = load_file(source), load_file(back)
    assert exported.num_modules == 10 * config["num_layers"]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_that_are_no_lora_are_carried_bit_for_bit(transformer, tmp_path, layout):
    source, out = tmp_path / "dance.safetensors", tmp_path / "out.safetensors"
    pose = {
        "dwpose_embedding.0.weight": torch.randn(4, 3, 3, 3, 3),
        "dwpose_embedding.0.bias": torch.randn(4).bfloat16(),
    }
    save_file(spell(factors(transformer), **SPELLINGS["svi 1.0"]) | pose, source)
    exported = export_lora(source, out, layout=layout, transformer_config=transformer.config)
    extras = read_lora(out, transformer).extras
    assert exported.extras == tuple(sorted(pose)) == tuple(sorted(extras))
    assert all(torch.equal(extras[key], pose[key]) and extras[key].dtype == pose[key].dtype for key in pose)


def test_the_card_says_what_it_is_and_is_handed_on(transformer, source, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    card = LoraCard(base_model="Wan-AI/Wan2.1-I2V-14B-480P", variant="film", recipe="train-svi-film")
    export_lora(source, one, layout="comfy", transformer_config=transformer.config, card=card)
    export_lora(one, two, layout="upstream", transformer_config=transformer.config)
    with safe_open(two, framework="pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "layout": "upstream",
            "rank": str(RANK),
            "alpha": str(RANK),
            "base_model": "Wan-AI/Wan2.1-I2V-14B-480P",
            "variant": "film",
            "recipe": "train-svi-film",
        }


def test_only_comfy_says_an_alpha_that_is_not_the_rank(transformer, source, tmp_path):
    save_file(spell(factors(transformer), alpha=2 * RANK, prefix="diffusion_model."), source)
    for layout, alpha in {"comfy": 2 * RANK, "diffusers": RANK}.items():
        export_lora(source, tmp_path / f"{layout}.safetensors", layout=layout, transformer_config=transformer.config)
        with safe_open(tmp_path / f"{layout}.safetensors", framework="pt") as file:
            assert file.metadata()["alpha"] == str(alpha)
    comfy = load_file(tmp_path / "comfy.safetensors")
    assert {float(value) for key, value in comfy.items() if key.endswith(".alpha")} == {2.0 * RANK}


@pytest.mark.parametrize("value", ["/home/me/recipes/film.yaml", "C:\\recipes\\film", "../film", "a/b/c", "~/film"])
def test_a_path_does_not_get_onto_a_card(transformer, source, value):
    with pytest.raises(InputError, match="cannot be the recipe on a LoRA's card"):
        LoraCard(recipe=value)
    save_file(spell(factors(transformer)), source, metadata={"recipe": value, "variant": "film"})
    assert read_card(source) == LoraCard(variant="film")


def test_numbers_too_large_for_float16_are_refused_by_layer(transformer, tmp_path):
    source, out = tmp_path / "large.safetensors", tmp_path / "out.safetensors"
    tensors = spell(factors(transformer))
    tensors["blocks.1.ffn.2.lora_B.weight"][0, 0] = 1e6
    save_file(tensors, source)
    with pytest.raises(WeightsMismatch, match=r"blocks\.1\.ffn\.net\.2 that float16 cannot hold.*bfloat16"):
        export_lora(source, out, layout="comfy", transformer_config=transformer.config)
    assert not out.exists()
    export_lora(source, out, layout="comfy", transformer_config=transformer.config, precision="bfloat16")
    assert read_lora(out, transformer).modules["blocks.1.ffn.net.2"].up.max() > 9e5


def test_a_file_that_is_no_lora_is_named_and_nothing_is_written(transformer, tmp_path):
    out = tmp_path / "out.safetensors"
    save_file({"decoder.conv.weight": torch.zeros(3)}, tmp_path / "vae.safetensors")
    with pytest.raises(WeightsMismatch, match=r"vae\.safetensors holds no LoRA weights \(first key: decoder"):
        export_lora(tmp_path / "vae.safetensors", out, layout="comfy", transformer_config=transformer.config)
    with pytest.raises(WeightsMissing, match=r"gone\.safetensors is missing"):
        export_lora(tmp_path / "gone.safetensors", out, layout="comfy", transformer_config=transformer.config)
    with pytest.raises(WeightsMismatch, match="adapts 20 of the 30 layers"):
        larger = dict(transformer.config, num_layers=3)
        save_file(spell(factors(transformer)), tmp_path / "small.safetensors")
        export_lora(tmp_path / "small.safetensors", out, layout="comfy", transformer_config=larger)
    assert not out.exists()


@pytest.mark.parametrize("point", ["lora.temp", "lora.fsync", "lora.rename"])
def test_a_disk_that_fails_leaves_the_older_export_whole(transformer, source, tmp_path, point):
    out = tmp_path / "loras" / "out.safetensors"
    export_lora(source, out, layout="diffusers", transformer_config=transformer.config)
    before = out.read_bytes()
    with (
        faults.injected(f"{point}:enospc") as fault,
        pytest.raises(DiskFull, match=r"No room on the disk to write the LoRA out\.safetensors"),
    ):
        export_lora(source, out, layout="upstream", transformer_config=transformer.config)
    assert fault.fired
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["out.safetensors"]


def test_an_export_may_replace_its_own_source(transformer, source):
    before = deltas(source, transformer)
    export_lora(source, source, layout="comfy", transformer_config=transformer.config, precision="float32")
    assert all(key.startswith("diffusion_model.") for key in load_file(source))
    assert all(torch.equal(before[module], delta) for module, delta in deltas(source, transformer).items())


def test_a_name_that_no_program_would_list_is_refused(transformer, source, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        export_lora(source, tmp_path / "out.pt", layout="comfy", transformer_config=transformer.config)
