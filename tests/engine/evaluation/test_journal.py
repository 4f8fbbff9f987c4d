import json

import numpy as np
import pytest

from engine.domain import Resolution
from engine.errors import ConfigError, ProjectLocked
from engine.evaluation.arms import Arm
from engine.evaluation.chains import make_chains
from engine.evaluation.journal import Journal
from engine.variants import SHOT

DESCRIPTION = {"version": 1, "clips": 2}


@pytest.fixture(scope="module")
def chains():
    return make_chains(2, 0, 2, Resolution(32, 32))


@pytest.fixture(scope="module")
def arm():
    return Arm("shot base", "base", SHOT)


def figures(value: float) -> dict[str, list[float]]:
    return {"psnr": [value, value - 1], "dynamic_degree": [float("nan"), 1.0]}


def test_what_was_added_is_read_again(tmp_path, arm, chains):
    with Journal.open(tmp_path, DESCRIPTION) as journal:
        assert not journal.holds(arm, chains)
        journal.add(arm, chains, [figures(30), figures(20)])
    with Journal.open(tmp_path, DESCRIPTION) as journal:
        assert journal.holds(arm, chains)
        assert journal.values(arm, chains, "psnr").tolist() == [[30, 29], [20, 19]]
        assert np.isnan(journal.values(arm, chains, "dynamic_degree")[:, 0]).all()


def test_a_film_is_written_once(tmp_path, arm, chains):
    with Journal.open(tmp_path, DESCRIPTION) as journal:
        journal.add(arm, chains[:1], [figures(30)])
        journal.add(arm, chains, [figures(99), figures(20)])
        assert journal.values(arm, chains, "psnr")[:, 0].tolist() == [30, 20]
    assert len((tmp_path / "films.jsonl").read_text().splitlines()) == 2


def test_half_a_line_is_cut_off(tmp_path, arm, chains):
    with Journal.open(tmp_path, DESCRIPTION) as journal:
        journal.add(arm, chains, [figures(30), figures(20)])
    path = tmp_path / "films.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with Journal.open(tmp_path, DESCRIPTION) as journal:
        assert journal.holds(arm, chains[:1]) and not journal.holds(arm, chains)
        journal.add(arm, chains, [figures(30), figures(20)])
    assert path.read_bytes() == whole


def test_figures_of_other_settings_are_not_mixed_in(tmp_path):
    with Journal.open(tmp_path, DESCRIPTION):
        pass
    with (
        pytest.raises(ConfigError, match="measured with other clips"),
        Journal.open(tmp_path, DESCRIPTION | {"clips": 3}),
    ):
        pass


def test_a_damaged_journal_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "films.jsonl"
    path.write_text('{"arm": \n{}\n')
    with pytest.raises(ConfigError, match="damaged"), Journal.open(tmp_path, DESCRIPTION):
        pass
    assert path.read_text() == '{"arm": \n{}\n'


def test_lines_of_a_replaced_lora_do_not_count(tmp_path, arm, chains):
    import dataclasses

    before, after = (dataclasses.replace(arm, weights=weights) for weights in ("old × 1", "new × 1"))
    with Journal.open(tmp_path, DESCRIPTION) as journal:
        journal.add(before, chains, [figures(30), figures(20)])
        assert not journal.holds(after, chains)
        journal.add(after, chains, [figures(40), figures(50)])
        assert journal.values(after, chains, "psnr")[:, 0].tolist() == [40, 50]
    assert [json.loads(line)["weights"] for line in (tmp_path / "films.jsonl").read_text().splitlines()] == [
        "old × 1", "old × 1", "new × 1", "new × 1",
    ]  # fmt: skip


def test_two_runs_do_not_share_a_folder(tmp_path):
    second = Journal.open(tmp_path, DESCRIPTION)
    with Journal.open(tmp_path, DESCRIPTION), pytest.raises(ProjectLocked, match="measuring"), second:
        pass
