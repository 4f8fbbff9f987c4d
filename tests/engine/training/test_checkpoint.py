import random

import pytest
import torch

from engine.errors import TrainingError
from engine.training.checkpoint import load_checkpoint, random_state, restore_random, save_checkpoint


def test_a_checkpoint_round_trips(tmp_path):
    state = {"step": 3, "weights": {"a": torch.arange(4.0)}, "names": ["x"]}
    save_checkpoint(tmp_path / "deep" / "checkpoint.pt", state)
    loaded = load_checkpoint(tmp_path / "deep" / "checkpoint.pt")
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"]["a"], torch.arange(4.0))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["checkpoint.pt"]


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="Delete it"):
        load_checkpoint(path)


def test_random_numbers_continue_where_they_stopped():
    rng = random.Random(7)
    rng.gauss(0, 1)
    state = random_state(rng)
    expected = [rng.gauss(0, 1), rng.random()]
    other = random.Random()
    restore_random(other, state)
    assert [other.gauss(0, 1), other.random()] == expected
