import json

import pytest

from engine.domain import Resolution
from engine.errors import InputError
from engine.evaluation import composed
from engine.evaluation.chains import mixed_chains
from engine.variants import FILM
from tests.engine.models.tiny import write_untrained_pocket

SIZE = Resolution(64, 32)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    return write_untrained_pocket(tmp_path_factory.mktemp("pocket"))


def run(preset, num_frames: int) -> dict:
    return composed.run(preset, num_clips=4, size=SIZE, num_frames=num_frames, num_inference_steps=1)


def test_exact_fields_lead_back_to_the_same_frame_after_fifty_mixed_moves():
    chain = mixed_chains(50, 0, SIZE)[0]
    assert composed.same_state_twice(chain, 13, FILM) > composed.RETURN_GATE


def test_a_report_holds_a_curve_for_every_way_to_make_the_films(preset):
    report = run(preset, 13)
    assert json.loads(json.dumps(report)) == report
    for curves in report["films"].values():
        assert {len(values) for values in curves.values()} == {4}
    exact, predicted = (report["films"][f"{name}, composed"] for name in ("exact fields", "predicted"))
    assert exact["psnr"][0] > 40 > predicted["psnr"][0]  # these weights know nothing
    assert exact["sharpness"][0] == pytest.approx(1, abs=0.02)
    assert "the same state twice: passed" in composed.table(report)


def test_clips_that_hold_no_move_are_refused(preset):
    with pytest.raises(InputError, match="--frames"):
        run(preset, 9)
