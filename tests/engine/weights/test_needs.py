"""Which files a preset needs, and that nothing is loaded from a half-downloaded folder."""

import pytest

from engine import backends
from engine.config import load_preset
from engine.errors import WeightsMissing
from engine.weights.manifest import Manifest, manifest
from engine.weights.needs import needs_of
from tests.engine.weights.conftest import make_entry

ORIGINAL = "models:Wan-AI/Wan2.1-I2V-14B-480P"


def ids(needs) -> set[str]:
    return {want.entry.id for want in needs.wanted}


def paths(needs) -> set[str]:
    return {want.row.path for want in needs.wanted}


def preset_of(tmp_path, text: str):
    (tmp_path / "p.yaml").write_text("title: T\nfamily: wan\n" + text)
    return load_preset(str(tmp_path / "p.yaml"))


def test_a_preset_needs_its_model_its_loras_and_its_drafts():
    needs = needs_of(load_preset("svi-1"))
    assert ids(needs) == {"wan2.1-i2v-14b-480p", "svi-shot", "svi-film-opt", "lightx2v-wan2.1-i2v-480p"}
    assert needs_of(load_preset("pocket")).wanted == ()


def test_one_variant_needs_less_and_so_does_full_quality_alone():
    preset = load_preset("svi-1")
    assert "svi-shot" not in ids(needs_of(preset, variant="film"))
    assert "lightx2v-wan2.1-i2v-480p" not in ids(needs_of(preset, variant="film", draft=False))


def test_both_experts_of_wan_2_2_are_needed():
    needs = needs_of(load_preset("svi-2-pro"))
    assert {"transformer/*.safetensors", "transformer_2/*.safetensors"} <= paths(needs)
    assert sum("pro.safetensors" in path for path in paths(needs)) == 2


def test_a_component_with_its_own_path_is_not_fetched_with_the_model(tmp_path):
    text = f"model: models:Wan-AI/Wan2.1-I2V-14B-480P-Diffusers\ncomponents: {{transformer: '{ORIGINAL}'}}\n"
    found = paths(needs_of(preset_of(tmp_path, text)))
    assert "transformer/*.safetensors" not in found and "text_encoder/*.safetensors" in found
    assert "diffusion_pytorch_model-*.safetensors" in found
    assert not any(path.endswith(".pth") for path in found)


def test_a_component_may_name_one_file(tmp_path):
    text = f"model: models:Wan-AI/Wan2.1-I2V-14B-480P-Diffusers\ncomponents: {{vae: '{ORIGINAL}/Wan2.1_VAE.pth'}}\n"
    found = paths(needs_of(preset_of(tmp_path, text)))
    assert "Wan2.1_VAE.pth" in found and "vae/*.safetensors" not in found
    assert "models_t5_umt5-xxl-enc-bf16.pth" not in found


def test_a_shipped_preset_names_the_command_that_fetches_it(models):
    with pytest.raises(WeightsMissing, match=r"python -m engine weights download --preset svi-1$"):
        backends.fingerprint(load_preset("svi-1"), "film")


def test_a_place_that_the_manifest_does_not_know_is_told(tmp_path, models):
    preset = preset_of(tmp_path, "model: models:me/mine\n")
    assert needs_of(preset).unknown == ("me/mine",)
    with pytest.raises(WeightsMissing, match="needs me/mine in the models folder"):
        backends.fingerprint(preset, "film")


def test_a_model_is_missing_until_its_last_file_is_there(tmp_path, models, monkeypatch):
    """A folder of which one shard has arrived must not pass for the model."""
    entry = make_entry("tiny", ["transformer/*.json", "transformer/*.safetensors", "vae/model.safetensors"])
    monkeypatch.setattr("engine.weights.needs.manifest", lambda: Manifest(entries=(entry,)))
    preset = preset_of(tmp_path, "model: models:owner/tiny\n")
    root = models / "owner/tiny"
    index = '{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}'
    for path in ("transformer/m.safetensors.index.json", "transformer/m-1.safetensors", "vae/model.safetensors"):
        with pytest.raises(WeightsMissing, match=r"download --preset FILE\.yaml$"):
            backends.fingerprint(preset, "film")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(index)
    with pytest.raises(WeightsMissing, match=r"all here: owner/tiny/transformer/m-2\.safetensors is missing \("):
        backends.fingerprint(preset, "film")
    (root / "transformer/m-2.safetensors").write_text("x")
    assert len(backends.fingerprint(preset, "film")) == 64


def test_the_message_says_how_much_is_missing_when_it_is_known(tmp_path, models):
    rows = [row.path for row in manifest().entry("kijai-svi-2.0-pro").files]
    loras = [
        f"{key}: models:Kijai/WanVideo_comfy/{path}" for key, path in zip(("lora", "low_noise_lora"), rows, strict=True)
    ]
    (tmp_path / "weights").mkdir()
    text = f"model: weights\nbase: wan2.2\nvariants:\n  film: {{method: svi-2.0-pro, {', '.join(loras)}}}\n"
    with pytest.raises(WeightsMissing, match=r"have not been downloaded \(2\.5 GB\)"):
        backends.fingerprint(preset_of(tmp_path, text), "film")
