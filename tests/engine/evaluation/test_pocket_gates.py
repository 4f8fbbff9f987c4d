from dataclasses import replace

import pytest
import torch
from PIL import Image

from engine.config import PRESETS, load_preset
from engine.errors import ConfigError
from engine.evaluation import pocket_gates
from engine.models import pocket
from engine.training import gates, world
from engine.training.gates import Figures
from engine.training.pictures import toy_scenes
from engine.training.publish import shipped_score, vocabulary
from tests.engine.models.test_pocket import components  # noqa: F401

NIGHT, STAY = world.BY_NAME["night"], world.BY_NAME["stay"]


@pytest.mark.parametrize(
    ("action", "generated", "still", "ceiling", "passes"),
    [
        (NIGHT, 28.5, 12.0, 40.0, True),
        (NIGHT, 27.5, 12.0, 40.0, False),
        (NIGHT, 28.5, 19.0, 40.0, False),
        (STAY, 32.5, 100.0, 35.0, True),
        (STAY, 31.5, 100.0, 35.0, False),
    ],
)
def test_a_gate_asks_for_quality_and_for_a_real_change(action, generated, still, ceiling, passes):
    assert Figures(generated, still, 20.0, ceiling, 20.0).passes(action) is passes


def test_an_untrained_model_passes_stay_and_nothing_else(components, tmp_path):  # noqa: F811
    measured = gates.report(
        components, size=(64, 96), num_toys=1, sheet=tmp_path / "sheet.png", actions=(STAY, NIGHT), linear=True
    )
    assert measured.passed == []  # this codec has seen two dozen toy scenes only
    measured = replace(measured, codec=30.0)
    assert measured.passed == ["stay"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (96 * 3, 64 * 2 * (len(measured_photos()) + 1))
    text = pocket_gates.table(measured.as_dict())
    assert "| night |" in text and "fails" in text
    assert [action["name"] for action in vocabulary(measured)["actions"]] == ["stay"]


def measured_photos():
    return gates.held_out_photos((64, 96))


def test_the_linear_map_of_an_exact_transfer_beats_standing_still(components):  # noqa: F811
    seen, pictures = toy_scenes(16, 64, 64, seed=1), toy_scenes(2, 64, 64, seed=2)
    mapped = gates.linear_outcome(components, NIGHT, seen, pictures)
    truth = world.perform(pictures, NIGHT)
    assert gates.psnr(mapped, truth).mean() > gates.psnr(pictures, truth).mean() + 5


def test_only_a_pocket_preset_can_be_measured():
    with pytest.raises(ConfigError, match="not a pocket model"):
        pocket_gates.run(load_preset("pocket").model_copy(update={"family": "wan"}))


def test_a_folder_without_a_model_scores_below_every_model(tmp_path):
    assert shipped_score(tmp_path) == float("-inf")
    assert shipped_score(PRESETS.parent / "pocket") > 0


def test_more_sampling_steps_start_from_the_same_noise(components):  # noqa: F811
    picture = toy_scenes(1, 32, 32, seed=4)
    first, again = (gates.generate(components, picture, ["night"], 2, 5.0) for _ in range(2))
    assert torch.equal(first, again)
    assert isinstance(components, pocket.PocketComponents)
