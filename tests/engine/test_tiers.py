"""Which tier a machine gets, and what is said of one that gets none."""

import json
from itertools import pairwise

import pytest

from engine import tiers
from engine.config import load_preset
from engine.domain import Resolution
from engine.errors import ConfigError
from engine.tiers import GIB, PUBLISHED, WAN_21, WAN_22, Activations, Machine, choose, forecast, ladder

SMALL, LARGE = Resolution(832, 480), Resolution(1280, 720)
WORK = Activations.of(SMALL, 81)


@pytest.fixture(autouse=True)
def models_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SVI_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


def gpu(vram, ram=128, name="NVIDIA Card"):
    """A machine with so many GiB free."""
    return Machine(name, "cuda", free_ram=int(ram * GIB), free_vram=int(vram * GIB), total_vram=int(vram * GIB))


def test_activations_are_those_of_the_published_size():
    in_gib = [round(value / GIB, 1) for value in vars(WORK).values()]
    assert in_gib == [4.7, 5.6, 7.6, 1.7]
    both = Activations.of(SMALL, 81, branches=2)
    assert round(both.step / GIB, 1) == 8.2 and both.decode == WORK.decode


@pytest.mark.parametrize(
    ("sizes", "vram", "tier"),
    [
        (WAN_21, 139, "resident"),
        (WAN_21, 80, "resident"),
        (WAN_21, 47, "text on host"),
        (WAN_21, 40, "streamed"),
        (WAN_21, 16, "streamed"),
        (WAN_21, 9.5, "streamed"),
        (WAN_21, 7.5, "tiled"),
        (WAN_22, 139, "resident"),
        (WAN_22, 70, "text on host"),
        (WAN_22, 44, "experts in turn"),
        (WAN_22, 24, "streamed"),
        (WAN_22, 7.5, "tiled"),
    ],
)
def test_the_14b_models_find_a_place_on_every_card(sizes, vram, tier):
    assert choose(gpu(vram), sizes, WORK).tier.name == tier


@pytest.mark.parametrize("sizes", PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize("in_8_bits", [False, True])
def test_every_tier_down_needs_no_more_of_the_gpu(sizes, in_8_bits):
    rungs = ladder(sizes, WORK, in_8_bits=in_8_bits)
    assert all(above.vram_bytes >= below.vram_bytes for above, below in pairwise(rungs))
    assert rungs[-1].vram_bytes < 8 * GIB
    assert [tier.exact for tier in rungs] == [not in_8_bits and tier.name != "tiled" for tier in rungs]


def test_only_a_model_with_two_experts_takes_them_in_turn():
    assert "experts in turn" not in [tier.name for tier in ladder(WAN_21, WORK)]
    assert "experts in turn" in [tier.name for tier in ladder(WAN_22, WORK)]


def test_blocks_stream_only_where_the_ones_on_their_way_have_room():
    small = Activations.of(Resolution(272, 64), 5)
    room = tiers.SLACK + WAN_21.vae + WAN_21.outside + small.step
    for blocks, tier in ((3.1, "streamed"), (2.9, "leaves")):
        assert choose(gpu((room + blocks * WAN_21.block) / GIB), WAN_21, small).tier.name == tier


def test_large_pictures_ask_for_a_lower_tier():
    assert choose(gpu(48), WAN_21, WORK).tier.name == "text on host"
    assert choose(gpu(48), WAN_21, Activations.of(LARGE, 81)).tier.name == "streamed"
    assert choose(gpu(16), WAN_21, Activations.of(LARGE, 81)).tier.name == "tiled"


def test_8_bits_are_taken_only_for_lack_of_host_memory_and_announced():
    choice = choose(gpu(24, ram=46), WAN_21, WORK)
    assert choice.tier.name == "float8" and not choice.tier.exact
    assert "lose some precision" in choice.sentence and "host memory" in choice.sentence
    assert choose(gpu(24, ram=50), WAN_21, WORK).tier.name == "streamed"


def test_what_is_quantised_already_is_not_put_into_8_bits():
    quantised = PUBLISHED["wan2.1"].__class__(**vars(WAN_21) | {"expert_in_8_bits": None, "block_in_8_bits": None})
    assert choose(gpu(24, ram=46), quantised, WORK).tier is None


def test_what_is_missing_is_said_in_gb():
    choice = choose(gpu(6, ram=64), WAN_21, WORK)
    assert choice.tier is None
    lowest = choice.rungs[-1]
    missing = (lowest.vram_bytes - 6 * GIB) / 1e9
    assert f"Missing: {missing:.1f} GB of GPU memory." in choice.sentence
    assert "host memory" not in choice.sentence.split("Missing:")[1]
    both = choose(gpu(6, ram=16), WAN_21, WORK).sentence.split("Missing:")[1]
    assert "GPU memory and" in both and "host memory" in both


def test_without_a_gpu_the_model_is_computed_where_it_is_or_refused():
    cpu = Machine("this CPU", "cpu", free_ram=16 * GIB, notes=("There is an NVIDIA GPU.",))
    refused = choose(cpu, WAN_21, WORK)
    assert refused.tier is None and refused.sentence.endswith("There is an NVIDIA GPU.")
    large = Machine("this CPU", "cpu", free_ram=256 * GIB)
    assert choose(large, WAN_21, WORK).rungs == (choose(large, WAN_21, WORK).tier,)


def test_a_start_begins_where_memory_last_sufficed():
    choice = choose(gpu(139), WAN_21, WORK, remembered="streamed")
    assert choice.tier.name == "streamed" and "ran out above it" in choice.sentence
    assert choose(gpu(139), WAN_21, WORK, remembered="experts in turn").tier.name == "resident"


def test_a_tier_that_is_asked_for_is_taken_and_doubted():
    assert choose(gpu(139), WAN_21, WORK, asked="leaves", remembered="tiled").tier.name == "leaves"
    assert "may not fit" in choose(gpu(24), WAN_21, WORK, asked="resident").sentence
    cpu = Machine("this CPU", "cpu", free_ram=GIB)
    assert choose(cpu, WAN_21, WORK, asked="float8").tier.name == "float8"
    with pytest.raises(ConfigError, match="experts in turn"):
        choose(gpu(139), WAN_21, WORK, asked="experts in turn")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"cuda_build": None, "driver": "570.1"}, "install the build for CUDA"),
        ({"cuda_build": "13.0", "driver": "470.82"}, r"CUDA 13\.0.*470\.82.*update"),
        ({"cuda_build": "13.0", "has_mps": True}, "pocket"),
        ({"has_gpu": True, "capability": (7, 5)}, "bfloat16"),
        ({"has_gpu": True, "is_rocm": True}, "AMD"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_explained(found, said):
    (note,) = tiers.gpu_notes(**found)
    assert __import__("re").search(said, note)
    assert tiers.gpu_notes("13.0") == tiers.gpu_notes(has_gpu=True, capability=(9, 0)) == ()


def test_a_lesson_is_kept_until_much_more_memory_is_free(models_folder):
    tiers.learn("k", tier="streamed", free_vram=20 * GIB)
    tiers.learn("k", seconds_per_step=12.5)
    kept = tiers.lesson("k")
    assert kept == tiers.Lesson("streamed", 20 * GIB, 12.5)
    assert kept.tier_for(gpu(22)) == "streamed"
    assert kept.tier_for(gpu(40)) is None
    assert tiers.lesson("another") == tiers.Lesson()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "lessons": {"k": {"teir": 1}}}', '{"version": 9}'])
def test_a_damaged_file_has_taught_nothing(models_folder, text):
    models_folder.mkdir()
    (models_folder / "tiers.json").write_text(text)
    assert tiers.lesson("k") == tiers.Lesson()
    tiers.learn("k", tier="leaves", free_vram=1)
    assert json.loads((models_folder / "tiers.json").read_text())["lessons"]["k"]["tier"] == "leaves"


def test_a_folder_that_cannot_be_written_costs_only_the_lesson(models_folder):
    models_folder.parent.mkdir(exist_ok=True)
    models_folder.write_text("a file is in the way")
    tiers.learn("k", tier="leaves")
    assert tiers.lesson("k") == tiers.Lesson()


def test_a_forecast_says_what_a_clip_takes_before_anything_is_here():
    preset = load_preset("svi-1")
    seen = forecast(preset, gpu(139, name="NVIDIA H200"), SMALL)
    assert (seen.tier, seen.basis) == ("resident", "computed")
    assert 85 < seen.disk_gb < 110  # the diffusers folder, two LoRAs and the draft's
    # 168.6 PFLOP at 44 % of 790 TFLOP/s
    assert seen.minutes_per_clip == pytest.approx(168.6e15 / (0.44 * 790e12) / 60, rel=0.02)
    assert 50 < seen.vram_gb < 60


def test_a_forecast_names_what_a_small_machine_lacks():
    seen = forecast(load_preset("svi-2-pro"), gpu(6, ram=24), LARGE)
    assert seen.tier is None and seen.minutes_per_clip is None and seen.basis == "unknown"
    assert any("Missing:" in problem for problem in seen.problems)


def test_a_forecast_prefers_what_was_measured():
    preset, machine = load_preset("svi-1"), gpu(139, name="NVIDIA H200")
    tiers.learn(tiers.lesson_key(preset, SMALL, machine), seconds_per_step=6.0)
    seen = forecast(preset, machine, SMALL)
    assert (seen.minutes_per_clip, seen.basis) == (5.0, "measured")


def test_a_forecast_heeds_what_the_preset_says_of_devices():
    preset, machine = load_preset("svi-1"), gpu(139, ram=100, name="NVIDIA H200")
    on_cpu = forecast(preset.model_copy(update={"device": "cpu"}), machine, SMALL)
    assert on_cpu.tier is None and "On the CPU" in on_cpu.problems[0]
    shared = forecast(preset.model_copy(update={"gpus": 4}), machine, SMALL)
    assert shared.tier is None and "host memory" in shared.problems[0].split("Missing:")[1]


def test_the_pocket_fits_anywhere():
    seen = forecast(load_preset("pocket"), Machine("this CPU", "cpu", free_ram=2 * GIB), Resolution(288, 192))
    assert seen.tier == "resident" and not seen.problems and seen.ram_gb < 2 and seen.disk_gb == 0


def test_a_gguf_file_counts_by_its_own_size(tmp_path):
    (tmp_path / "q4.gguf").write_bytes(b"")
    with (tmp_path / "q4.gguf").open("r+b") as stream:
        stream.truncate(9_650_000_000)  # takes no room on the disk
    text = (
        "title: T\nfamily: wan\nmodel: models:Wan-AI/Wan2.1-I2V-14B-480P-Diffusers\n"
        "components: {transformer: q4.gguf}\n"
    )
    (tmp_path / "p.yaml").write_text(text)
    sizes = tiers.sizes_of(load_preset(str(tmp_path / "p.yaml")))
    assert sizes.expert == 9_650_000_000 and sizes.expert_in_8_bits is None and sizes.text == WAN_21.text
    assert choose(gpu(12, ram=32), sizes, WORK).tier.name == "streamed"
