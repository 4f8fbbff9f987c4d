"""The benchmark as a whole, small: an untrained model, 64×32, two clips, two chains."""

import json
import shutil

import pytest
from PIL import Image

from engine import cli
from engine.config import ASSETS, VariantPreset
from engine.domain import Resolution
from engine.errors import ConfigError, InputError
from engine.evaluation import drift, drift_report
from engine.evaluation.arms import FOOLING, Settings, find_arms
from engine.evaluation.bootstrap import rounded
from engine.evaluation.drift_tables import table
from engine.pocket.model import load_components
from tests.engine.evaluation.loras import write_random_lora
from tests.engine.models.tiny import write_untrained_pocket

SIZE = Resolution(64, 32)
SETTINGS = Settings(
    num_clips=2, num_chains=2, num_seeds=1, size=SIZE, num_inference_steps=1, num_frames=13, strengths=(0.5,)
)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """An untrained model with one random LoRA as the control and as the LoRA of both variants."""
    preset = write_untrained_pocket(tmp_path_factory.mktemp("assets"))
    transformer = load_components(preset.path(preset.model)).transformer
    for name in ("shot", "shot-control", "film", "film-control"):
        write_random_lora(transformer, preset.path(preset.model) / "loras" / f"{name}.safetensors")
    return preset


@pytest.fixture(scope="module")
def measured(preset, tmp_path_factory):
    """A folder with every arm measured, and the events of measuring it."""
    folder = tmp_path_factory.mktemp("drift")
    return folder, list(drift.measure(preset, SETTINGS, folder))


@pytest.fixture(scope="module")
def report(preset, measured):
    return drift_report.report(preset, SETTINGS, measured[0])


def test_the_cost_is_said_before_the_first_film(measured):
    _, (started, *progress) = measured
    assert started["event"] == "drift_started" and started["minutes"] >= 0
    assert set(started["cpu_s_a_clip"]) == {"with the model", "without the model"}
    assert started["clips"] == 2 * 2 * len(progress)  # a line of progress for each batch of two films
    assert progress[-1]["films"] == progress[-1]["of"] and progress[-1]["minutes_left"] == 0


def test_a_rerun_measures_nothing_again(preset, measured):
    assert list(drift.measure(preset, SETTINGS, measured[0])) == []


def test_a_run_that_was_killed_in_the_middle_of_a_line_goes_on_to_the_same_lines(preset, measured, tmp_path):
    settings = Settings(**vars(SETTINGS) | {"variants": ("shot",)})
    run = drift.measure(preset, settings, tmp_path)
    for _ in range(4):
        next(run)
    run.close()
    path = tmp_path / "films.jsonl"
    begun = path.read_bytes()
    path.write_bytes(begun[:-100])
    assert list(drift.measure(preset, settings, tmp_path))
    whole = (measured[0] / "films.jsonl").read_bytes().splitlines(keepends=True)
    assert path.read_bytes() == b"".join(line for line in whole if b'"arm": "shot' in line)
    assert 0 < len(begun) < len(path.read_bytes())


def test_more_chains_are_added_to_what_is_there(preset, measured, tmp_path):
    shutil.copytree(measured[0], tmp_path / "drift")
    more = Settings(**vars(SETTINGS) | {"num_chains": 3, "variants": ("film",)})
    started, *_ = drift.measure(preset, more, tmp_path / "drift")
    assert started["clips"] == 10 * 3 * 2  # ten arms: a batch with a film that is missing is made whole
    lines = [json.loads(line) for line in (tmp_path / "drift" / "films.jsonl").read_text().splitlines()]
    keys = [(line["arm"], line["weights"], line["chain"]) for line in lines]
    assert len(keys) == len(set(keys)) == 20 * 2 + 10


def test_every_arm_has_every_metric_of_every_clip(measured):
    lines = [json.loads(line) for line in (measured[0] / "films.jsonl").read_text().splitlines()]
    assert len({line["arm"] for line in lines}) == 20
    for line in lines:
        assert set(line["metrics"]) == set(drift.METRICS)
        assert {len(values) for values in line["metrics"].values()} == {2}


def test_arms_without_their_file_are_named_and_left_out(preset):
    settings = Settings(3, 2, 1, SIZE, 1, variants=("shot",))
    arms, missing = find_arms(preset.model_copy(update={"model": "nowhere"}), settings)
    assert missing == {
        "shot control": "there is no shot-control.safetensors", "shot erft": "there is no shot.safetensors",
    }  # fmt: skip
    assert [arm.role for arm in arms] == ["exact", "perfect", "composed", "base", *FOOLING]
    with pytest.raises(ConfigError, match="no folder missing"):
        find_arms(preset, Settings(3, 2, 1, SIZE, 1, loras=ASSETS / "missing"))


def test_every_lora_of_a_folder_is_an_arm_of_its_variant(preset, tmp_path):
    lora = preset.path(preset.model) / "loras" / "shot.safetensors"
    for name in ("shot-no-image", "shot-bank-10", "film-no-noise", "other"):
        shutil.copy(lora, tmp_path / f"{name}.safetensors")
    arms, _ = find_arms(preset, Settings(3, 2, 1, SIZE, 1, loras=tmp_path))
    assert {arm.name for arm in arms if arm.role == "ablation"} == {
        "shot bank-10", "shot no-image", "film no-noise",
    }  # fmt: skip


def test_the_presets_own_lora_goes_before_the_one_beside_the_model(preset):
    own = preset.model_copy(update={"variants": {"film": VariantPreset(lora="model/loras/film-control.safetensors")}})
    for each, file in ((preset, "film.safetensors"), (own, "film-control.safetensors")):
        arms, _ = find_arms(each, Settings(3, 2, 1, SIZE, 1, variants=("film",)))
        assert [arm.lora.name for arm in arms if arm.role == "erft"] == [file]


def test_films_that_are_composed_do_not_know_what_frames_were_handed_over(report):
    for variant in ("film", "shot"):
        arms = {label: report["arms"][f"{variant} {label}"] for label in ("exact", "perfect", "composed", "base")}
        assert {label: arm["handover"] for label, arm in arms.items()} == {
            "exact": "states", "perfect": "frames", "composed": "states", "base": "frames",
        }  # fmt: skip
        ends = {label: arm["metrics"]["psnr"]["last"]["value"] for label, arm in arms.items()}
        assert ends["exact"] > max(ends["perfect"], ends["composed"])
        assert ends["composed"] != ends["base"]


def test_equal_loras_lose_equally(report):
    """The control measured against itself: the ratio is 1 wherever it can be told."""
    for variant in ("shot", "film"):
        erft, control = (report["arms"][f"{variant} {role}"]["metrics"] for role in ("erft", "control"))
        assert erft == control
        verdict = report["verdicts"][f"{variant} erft"]
        assert verdict["outcome"] != "met"
        assert verdict["ratio"] is None or verdict["ratio"]["value"] == 1


def test_a_lora_and_its_strength_decide_the_film(report):
    """Only the weights differ."""
    arms = (report["arms"][f"film {label}"]["metrics"] for label in ("base", "erft", "erft × 0.5"))
    losses = {metrics["psnr"]["last"]["value"] for metrics in arms}
    assert len(losses) == 3


def test_no_film_without_motion_or_change_clears_the_bar(report):
    fooling = {
        name: report["verdicts"][name]["outcome"] for name, arm in report["arms"].items() if arm["role"] in FOOLING
    }
    assert len(fooling) == 6
    assert "met" not in fooling.values()
    still = report["arms"]["shot copy image"]["metrics"]
    assert still["consistency"]["every"]["value"] == pytest.approx(1, abs=1e-4)
    assert still["dynamic_degree"]["every"]["value"] == still["motion"]["every"]["value"] == 0


def test_the_table_shows_every_arm_and_every_paper_figure_with_its_source(report, measured):
    text = table(report)
    assert (measured[0] / "table.md").read_text() == text + "\n"
    for label in ("exact", "perfect", "composed", "base", "control", "erft", "erft × 0.5", "copy image"):
        assert text.count(f"\n| {label} |") >= 2  # in both variants
    assert "Table 7" in text and "Tables 1 and 5" in text and "Table 4" not in text  # no ablation was measured
    assert "| 1 | " in text and "98.54" in text


def test_the_curves_are_written_for_a_page_and_for_people(report, measured):
    folder, _ = measured
    data = json.loads((folder / "curves.json").read_text())
    assert set(data["metrics"]) == {"psnr", "colour_shift", "dynamic_degree"}
    lines = data["arms"]["shot control"]
    assert {len(values) for metric in data["metrics"] for values in lines[metric].values()} == {2}
    first = report["arms"]["shot control"]["metrics"]["psnr"]["first"]  # a fifth of two clips is one clip
    assert lines["psnr"]["mean"][0] == rounded(first["value"])
    with Image.open(folder / "curves.png") as picture:
        assert picture.width > 800
    with Image.open(folder / "sheet.png") as sheet:
        rows = 2 * (1 + 2 * 4)  # two chains: the truth, and four arms of two variants
        assert sheet.height == 26 + rows * SIZE.height


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"num_clips": 1}, InputError, "--clips must be at least 2"),
        ({"num_chains": 0}, InputError, "--chains must be at least 2"),
        ({"num_seeds": 0}, InputError, "--seeds must be at least 1"),
    ],
)
def test_counts_that_cannot_be_measured_are_refused(preset, tmp_path, changes, error, text):
    with pytest.raises(error, match=text):
        next(drift.measure(preset, Settings(**vars(SETTINGS) | changes), tmp_path))


@pytest.mark.parametrize("num_frames", [9, 24])
def test_clips_that_hold_no_move_are_refused(preset, tmp_path, num_frames):
    with pytest.raises(InputError, match="--frames must be 4 n"):
        next(drift.measure(preset, Settings(**vars(SETTINGS) | {"num_frames": num_frames}), tmp_path))


def test_only_the_pocket_world_has_a_truth(preset, tmp_path):
    other = preset.model_copy(update={"family": "wan"})
    with pytest.raises(ConfigError, match="does not make films of the pocket's world"):
        next(drift.measure(other, SETTINGS, tmp_path))


def test_the_command_measures_and_prints_the_table(preset, tmp_path, capsys):
    flags = "--clips 2 --chains 2 --seeds 1 --size 64x32 --frames 13 --steps 1 --variant film --strengths 0.5"
    own = ["--preset", str(preset.folder / "pocket.yaml")]
    command = ["bench", "drift", *flags.split(), *own, "--out", str(tmp_path / "drift")]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "drift_started" in printed and "### Film" in printed and "### Shot" not in printed
    assert cli.main([*command, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "bench_drift"
    assert cli.main([*command, "--clips", "3"]) == 2
    assert "measured with other clips" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--size 33x32", "--size big", "--strengths 2", "--strengths a"])
def test_bad_flags_exit_with_one_line(flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", "drift", *flag.split()])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
