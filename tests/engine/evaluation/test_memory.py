"""`bench memory`: what each tier takes, counted on a stand-in where there is no GPU."""

import pytest

from engine import tiers
from engine.backends.local import LocalBackend
from engine.config import load_preset
from engine.domain import Resolution
from engine.errors import ConfigError
from engine.evaluation import memory
from engine.models import placement
from engine.tiers import GIB, SLACK

SMALL = Resolution(272, 64)  # the fewest tiles, two


@pytest.fixture(autouse=True)
def models_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SVI_MODELS_DIR", str(tmp_path / "models"))


def random(name, **update):
    return load_preset(name, random_weights=True).model_copy(update={"num_frames": 9} | update)


def test_the_report_holds_expected_and_counted_peaks_of_every_tier():
    report = memory.run(random("svi-2-wan22", num_frames=5), cap_gb=12.0, size=SMALL, num_blocks=1, steps=2)
    by_tier = {row["tier"]: row for row in report["rows"]}
    assert list(by_tier) == list(tiers.MEANINGS)
    for row in by_tier.values():
        assert row["peak"] <= row["expected"] - SLACK // 20 * 19
    assert by_tier["resident"]["peak"] > by_tier["text on host"]["peak"] > by_tier["streamed"]["peak"]
    assert report["method"] == "counted" and "12.0 GB of GPU memory are free" in report["chosen"]
    dry = report["dry_walk"]["rows"]
    assert [row["tier"] for row in dry] == [
        "resident",
        "text on host",
        "experts in turn",
        "streamed",
        "leaves",
        "tiled",
    ]
    assert dry[0]["weights"] > dry[-1]["weights"] > 0
    text = memory.table(report)
    assert "nothing is computed" in text and "dry run" in text and text.count("experts in turn") == 2


def test_a_model_too_large_for_this_computer_is_counted_all_the_same():
    dry = memory.dry_walk(load_preset("svi-1"), steps=1)
    assert (dry["rows"] == [] and "random" in dry["note"]) or "missing" in dry["note"]


def test_what_streams_is_counted_while_it_is_on_loan(tiny_preset):
    backend = LocalBackend.open(tiny_preset.model_copy(update={"tier": "streamed"}), threads=1)
    row = memory.make_clip(backend, Resolution(32, 32), 9, 2)
    transformer, vae = backend.components.transformer, backend.components.codec.vae
    block = placement.bytes_of(transformer.blocks[0])
    assert row.tier == "streamed" and row.peak is None
    assert row.weights >= placement.bytes_of(vae) + block
    assert row.weights < placement.bytes_of(vae) + placement.bytes_of(transformer)
    assert row.seconds_per_step > 0 and row.resident_set > 10**8


def test_a_clip_that_runs_out_of_memory_is_a_row_without_a_peak(tiny_preset):
    backend = LocalBackend.open(tiny_preset.model_copy(update={"tier": "resident"}), threads=1)

    def run_out_of_memory(*_):
        raise MemoryError

    hook = backend.components.transformer.patch_embedding.register_forward_pre_hook(run_out_of_memory)
    row = memory.make_clip(backend, Resolution(32, 32), 9, 2)
    hook.remove()
    assert (row.tier, row.error, row.peak) == ("resident", "ran out of memory", None)
    assert backend.components.placement.tier == "text on host"


@pytest.mark.parametrize(("name", "cap"), [("pocket", None), ("svi-1", -1.0)])
def test_what_cannot_be_walked_is_refused(name, cap):
    with pytest.raises(ConfigError):
        memory.run(load_preset(name), cap_gb=cap)


def test_the_time_of_a_step_is_kept_for_forecasts_of_the_published_size_only(tiny_preset):
    card = tiers.Machine("NVIDIA Card", "cuda", free_ram=200 * GIB, free_vram=80 * GIB)
    rows = [memory.Row("resident", error="ran out of memory"), memory.Row("text on host", seconds_per_step=8.0)]
    for preset, minutes in ((load_preset("svi-1"), 6.7), (tiny_preset, None)):
        size = preset.offered_resolutions()[0]
        memory.remember(preset, size, card, rows)
        assert tiers.forecast(preset, card, size).minutes_per_clip == minutes


def test_the_command_line_knows_the_benchmark():
    from engine.cli import parser

    args = parser().parse_args(["bench", "memory", "--preset", "svi-1", "--cap-gb", "12", "--size", "832x480"])
    assert (args.what, args.cap_gb, args.size) == ("memory", 12.0, Resolution(832, 480))
