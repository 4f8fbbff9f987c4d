import pytest

from engine.config import PRESETS, load_preset
from engine.errors import ConfigError
from engine.training.models import load
from engine.training.plan import Machine
from engine.training.preflight import on_machine, preflight
from engine.training.recipe import read_recipe

CLUSTER = Machine(8, 80_000_000_000, 2_000_000_000_000, 4_000_000_000_000)
CARD = Machine(1, 80_000_000_000, 256_000_000_000, 1_000_000_000_000)
LAPTOP = Machine(0, 0, 16_000_000_000, 50_000_000_000)


@pytest.mark.parametrize("name", ["film-script", "film-paper", "shot-script", "shot-paper"])
def test_a_14b_lora_fits_one_card_and_eight_and_the_bank_is_fitted_to_the_host(name):
    config = read_recipe(PRESETS / f"train-wan21-{name}.yaml")
    one, notes = preflight(config, CARD)
    eight, _ = preflight(config, CLUSTER, strategy="zero2")
    assert one.fits and eight.fits
    assert one.size.lora_modules == 400
    assert one.bank.num_bytes <= CARD.host_ram_bytes / 2
    assert 8 * eight.bank.num_bytes <= CLUSTER.host_ram_bytes / 2
    assert any("not on this machine" in note for note in notes)


def test_a_14b_lora_does_not_fit_a_laptop_and_the_plan_says_what_is_missing():
    plan, _ = preflight(read_recipe(PRESETS / "train-wan21-film-script.yaml"), LAPTOP)
    assert not plan.fits
    assert "base weights" in " ".join(plan.problems)


@pytest.mark.parametrize("name", ["base", "film", "shot"])
def test_the_pocket_fits_a_laptop(name):
    plan, notes = preflight(read_recipe(PRESETS / f"train-pocket-{name}.yaml"), LAPTOP)
    assert plan.fits, plan.problems
    assert notes == []


@pytest.mark.parametrize(
    ("preset", "frames", "padding"), [("svi-1", 5, "zeros"), ("svi-2", 5, "anchor"), ("svi-1-tom", 1, "zeros")]
)
def test_a_lora_is_trained_as_films_of_its_preset_are_made(preset, frames, padding):
    row = read_recipe(PRESETS / "train-wan21-film-paper.yaml", [f"lora.preset={preset}"]).row
    assert row == load_preset(preset).variant("film")
    assert (row.num_motion_frames, row.padding) == (frames, padding)


@pytest.mark.parametrize("preset", ["svi-2-wan22", "svi-2-pro"])
@pytest.mark.parametrize("begin", [lambda config: preflight(config, CARD), lambda config: load(config, None)])
def test_two_experts_are_refused_before_anything_is_loaded(preset, begin):
    config = read_recipe(PRESETS / "train-wan21-film-paper.yaml", [f"lora.preset={preset}"])
    with pytest.raises(ConfigError, match="two experts"):
        begin(config)


def test_a_control_has_no_bank_in_its_plan():
    plan, _ = preflight(read_recipe(PRESETS / "train-pocket-film.yaml", ["recycling=null"]), LAPTOP)
    assert plan.bank is None


def test_another_machine_takes_the_place_of_this_one():
    there = on_machine(LAPTOP, gpus=8, gpu_gb=80, ram_gb=2000)
    assert (there.num_gpus, there.gpu_memory_bytes) == (8, 80_000_000_000)
    assert (there.host_ram_bytes, there.disk_free_bytes) == (2_000_000_000_000, LAPTOP.disk_free_bytes)
    with pytest.raises(ConfigError, match="number of GPUs"):
        on_machine(LAPTOP, gpus=8, gpu_gb=None)
