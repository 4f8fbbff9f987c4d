import json
from collections import Counter

import pytest

from engine import cli
from engine.config import load_preset
from engine.domain import Resolution
from engine.errors import ConfigError
from engine.evaluation import throughput
from engine.evaluation.step_ways import EAGER, STREAMED, StepRow
from tests.engine.models.tiny import PRESET, PRO

FAST = {"steps": 1, "clips": 2, "size": Resolution(32, 32), "quick": True}


@pytest.fixture(scope="module")
def preset_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("presets") / "tiny.yaml"
    file.write_text(PRESET)
    return file


@pytest.fixture(scope="module")
def report(preset_file):
    return throughput.run(load_preset(str(preset_file), random_weights=True), steps=2, clips=3)


def phases(**seconds: float) -> Counter:
    return Counter({"text": 1.0, "condition": 5.0, "denoise": 10.0, "decode": 7.0, "uint8": 0.1} | seconds)


def gpu_report(**changes) -> dict:
    """What a run on an H200 at the published size reports; made up, to test what is made of it."""
    rows = [
        {"way": EAGER, "seconds": 6.0, "difference": 0.0},
        {"way": "_native_cudnn", "seconds": 5.5, "difference": 2e-3},
        {"way": "sage", "seconds": 4.0, "difference": 0.06},
        {"way": STREAMED, "seconds": 6.3, "difference": 0.0},
    ]
    return {
        "device": "NVIDIA H200",
        "dry_run": False,
        "published_size": True,
        "clip": {"tokens": 32_760},
        "steps": [vars(StepRow(**row)) for row in rows],
        "outside": 0.028,
        "memory_gb": {1: 50.0, 5: 51.0, 20: 51.5},
    } | changes


def verdicts(**changes) -> list[str]:
    return [target.verdict for target in throughput.targets(gpu_report(**changes))]


def test_a_dry_run_gives_every_figure_and_judges_none(report):
    assert report["dry_run"] and not report["published_size"]
    assert report["weights"].startswith("random weights (stand-in")
    assert report["clip"]["tokens"] == 48
    assert [row["way"] for row in report["steps"]] == [EAGER, "_native_math", "reused context", STREAMED]
    assert set(report["phases_s"]) == {"text", "image", "condition", "denoise", "decode", "uint8", "other"}
    assert all(seconds > 0 for name, seconds in report["phases_s"].items() if name not in ("uint8", "other"))
    assert set(report["memory_gb"]) == {1, 3}
    assert {target["verdict"] for target in report["targets"]} == {"not judged: a dry run on a CPU"}
    json.dumps(report)


def test_the_table_says_that_it_is_a_dry_run_and_what_it_cannot_give(report):
    text = throughput.table(report)
    assert "random weights" in text and "DRY RUN on a CPU" in text and "docs/gpu.md" in text
    assert "48 tokens" in text
    assert all(row["way"] in text for row in report["steps"])
    report = report | {"outside": None, "clips_spread": 0.4, "steps": [vars(StepRow("sage", error="missing"))]}
    report["ceiling"] = report["ceiling"] | {"steady": False}
    text = throughput.table(report)
    assert "no figure, 2 clips differ by 40%" in text
    assert "No shares of that" in text
    assert "Not here: sage (missing)" in text


def test_latents_are_handed_over_from_clip_to_clip(tmp_path):
    """SVI 2.0 Pro, with two experts and no picture."""
    (tmp_path / "pro.yaml").write_text(PRO)
    report = throughput.run(load_preset(str(tmp_path / "pro.yaml"), random_weights=True), **FAST | {"steps": 2})
    assert "image" not in report["phases_s"]
    assert len(report["steps"]) == 1


def test_the_command_runs_without_any_file_of_weights(preset_file, capsys):
    words = [
        "bench",
        "speed",
        "--preset",
        str(preset_file),
        "--random-weights",
        "--quick",
        "--clips",
        "2",
        "--steps",
        "1",
    ]
    assert cli.main([*words, "--json"]) == 0
    event = json.loads(capsys.readouterr().out)
    assert event["event"] == "bench_speed"
    assert event["clip"]["clips"] == 2 and event["clip"]["steps"] == 1
    assert cli.main(words) == 0
    assert "DRY RUN" in capsys.readouterr().out
    assert [path.name for path in preset_file.parent.iterdir()] == ["tiny.yaml"]


def test_blocks_are_for_random_weights_only(tiny_preset):
    with pytest.raises(ConfigError, match="Use --blocks with --random-weights"):
        throughput.run(tiny_preset, num_blocks=2, **FAST)


def test_weights_from_files_are_measured_too(tiny_preset):
    report = throughput.run(tiny_preset, **FAST)
    assert report["weights"] == "from the preset's files"


def test_the_share_outside_is_that_of_fifty_steps():
    """13.1 s around 2 steps of 10 s, 9.8 of them in the transformer: with 50 steps, 13.1 + 25 · 0.2 of 263.1."""
    rows = [phases(text=99.0), phases(transformer=9.8), phases(transformer=9.8)]
    found = throughput.summary(rows, 2)
    assert found["outside"] == pytest.approx((13.1 + 25 * 0.2) / (13.1 + 250), abs=1e-4)
    assert found["phases_s"]["text"] == 1.0
    assert found["first_clip_s"] == pytest.approx(121.1)


def test_no_share_is_made_of_clips_that_differ_or_of_one():
    assert throughput.summary([phases(), phases(), phases(denoise=14.0)], 2)["outside"] is None
    assert throughput.summary([phases(), phases()], 2)["outside"] is None


def test_the_fastest_exact_kernel_is_judged_on_an_h200():
    step, outside, streaming, memory = throughput.targets(gpu_report())
    assert (step.found, step.verdict) == ("5.50 s (_native_cudnn)", "met")
    assert (outside.found, outside.verdict) == ("2.8%", "met")
    assert (streaming.found, streaming.verdict) == ("+5.0%", "met")
    assert (memory.found, memory.verdict) == ("+1.0% by clip 20", "met")


def test_a_missed_target_is_said_to_be_missed():
    slow = [vars(StepRow(EAGER, 5.8, difference=0.0)), vars(StepRow(STREAMED, 6.5, difference=0.0))]
    assert verdicts(steps=slow, outside=0.031, memory_gb={5: 50.0, 20: 52.6}) == ["MISSED"] * 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"device": "NVIDIA L40S"}, ["not judged: this is a NVIDIA L40S", "met", "met", "met"]),
        ({"published_size": False}, ["not judged: not the published size"] * 3 + ["met"]),
        ({"clip": {"tokens": 48}}, ["not judged: not the published size"] * 3 + ["met"]),
        ({"outside": None}, ["met", "not judged: clips differ, or there are too few", "met", "met"]),
        ({"memory_gb": {1: 50.0, 3: 50.0}}, ["met", "met", "met", "not judged: more than five clips are needed"]),
        (
            {"steps": [vars(StepRow(EAGER, 5.0, spread=0.2, difference=0.0))]},
            ["not judged: repeats differ", "met", "not judged: not measured", "met"],
        ),
    ],
)
def test_what_cannot_be_shown_is_not_judged(changes, expected):
    assert verdicts(**changes) == expected
