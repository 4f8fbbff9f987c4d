import json

import pytest

from engine.evaluation import speed
from engine.models.untrained import WanSize
from tests.engine.models.tiny import write_untrained_pocket

TINY = speed.Setting(side=32, num_frames=9, steps=2, clips=3, size=WanSize())


def row(naive: float, ours: float, difference: int = 0) -> dict:
    return {
        "naive": {"model": naive, "film": 0.1},
        "ours": {"model": ours, "film": 0.1},
        "last_frame_difference": difference,
    }


@pytest.fixture
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_both_loops_make_the_same_pictures(one_thread):
    report = speed.compare(TINY)
    assert report["last_frame_difference"] <= 1
    assert report["cpu_s"]["naive"] > 0 and report["cpu_s"]["ours"] > 0
    json.dumps(report)


def test_the_first_clip_does_not_count():
    report = speed.summary(TINY, [row(99, 99), row(4.4, 1.9), row(4.4, 1.9)])
    assert report["cpu_s"] == {"naive": 4.5, "ours": 2.0}
    assert report["ratio"] == 2.25
    assert report["passed"]


@pytest.mark.parametrize("second", [(4.4, 2.3), (5.2, 1.9)])
def test_a_ratio_is_refused_when_repeats_differ(second):
    report = speed.summary(TINY, [row(4, 2), row(4.4, 1.9), row(*second)])
    assert not report["steady"]
    assert report["ratio"] is None
    assert not report["passed"]


def test_other_pictures_fail_however_fast_they_are():
    report = speed.summary(TINY, [row(9, 1), row(9, 1), row(9, 1, difference=2)])
    assert report["ratio"] > 2.2
    assert not report["passed"]


def test_a_chain_of_clips_is_measured_at_its_marks(tiny_preset):
    report = speed.endure(tiny_preset, marks=(2, 4), threads=1)
    assert set(report["rss_mb_at_clip"]) == {2, 4}
    assert report["passed"]["memory is flat"]
    assert 0 <= report["outside_denoising"] <= 1
    assert report["first_preview_s"] > 0 and report["stop_s"] >= 0


def test_a_composed_clip_costs_the_same_however_long_the_film(tmp_path):
    preset = write_untrained_pocket(tmp_path).model_copy(update={"handover": "composed"})
    report = speed.endure(preset, marks=(2, 4), threads=1)
    assert report["passed"]["memory is flat"]
    assert {"text", "condition", "denoise", "decode", "video and tails"} <= set(report["phases"])
    assert report["megapixels_a_cpu_s"] > 0


def test_the_table_says_when_there_is_no_ratio(tiny_preset):
    report = {
        "quick": True,
        "load_average": 9.0,
        "cold_start": {"cpu_s": 1.0, "wall_s": 1.0},
        "compare": speed.summary(TINY, [row(4, 2), row(4, 2), row(6, 2)]),
        "endure": speed.endure(tiny_preset, marks=(2, 3), threads=1),
    }
    text = speed.table(report)
    assert "No ratio: repeats differ by 50 %" in text
    report["compare"] = speed.summary(TINY, [row(5, 1), row(5, 1), row(5, 1)])
    assert "Ratio 4.64 (target 2.2), last frames within 0/255: passed." in speed.table(report)
