import pytest

from engine.errors import ConfigError
from engine.evaluation import pocket_gates
from engine.pocket import gates
from engine.pocket.model import load_components
from engine.variants import FILM, SHOT
from tests.engine.models.tiny import write_untrained_pocket

SIZE = (64, 96)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    return write_untrained_pocket(tmp_path_factory.mktemp("pocket"))


@pytest.fixture(scope="module")
def components(preset):
    return load_components(preset.path(preset.model))


@pytest.mark.parametrize("name", ["stay", "zoom_in", "fog", "pan_left+night"])
def test_exact_fields_lose_nothing_that_a_gate_would_see_in_the_latents(name):
    stages = gates.held_out_stages((96, 144))[:3]
    assert pocket_gates.exact_fields(stages, name, 13) > 42


def test_a_table_says_which_moves_fail_and_which_sentences_were_misunderstood():
    report = {
        "moves": {
            "pan_left": {"generated": 31.0, "still": 15.0, "worst": 29.0, "level_error": 0.0},
            "night": {"generated": 31.0, "still": 12.0, "worst": 29.0, "level_error": 0.0},
        },
        "pairs": {"pan_left+night": {"generated": 29.0, "still": 12.0, "worst": 27.0, "level_error": 0.0}},
        "exact": {"pan_left": 60.0, "night": 61.0, "pan_left+night": 59.0},
        "size": (480, 832),
        "num_frames": 81,
        "num_inference_steps": 1,
        "photos": ("chelsea",),
        "sentences": {
            "sentences": 50, "frames": 1, "rate": 0.04,
            "wrong": [{"text": "Up we go", "asked": "tilt_up + none", "found": "none + none"}],
        },
    }  # fmt: skip
    text = pocket_gates.table(report)
    assert "| pan_left | 31.0 | 29.0 | 15.0 | 60.0 | passes |" in text
    assert "| night | 31.0 | 29.0 | 12.0 | 61.0 | fails |" in text  # a light must reach 32
    assert "| pan_left+night | 29.0 | 27.0 | 12.0 | 59.0 | fails |" in text  # its worst picture
    assert "4.0 % of 50 misunderstood" in text and "fails.\n- “Up we go”: tilt_up + none" in text


@pytest.mark.parametrize("variant", [FILM, SHOT])
def test_a_chain_is_scored_clip_by_clip_and_an_untrained_model_scores_low(components, variant):
    values = gates.chain_psnr(components, variant, size=SIZE, num_clips=2, num_frames=13)
    assert len(values) == 2 and all(5 < value < 30 for value in values)
    assert values == gates.chain_psnr(components, variant, size=SIZE, num_clips=2, num_frames=13)


def test_only_a_pocket_preset_can_be_measured(preset):
    with pytest.raises(ConfigError, match="not a pocket model"):
        pocket_gates.run(preset.model_copy(update={"family": "wan"}))
