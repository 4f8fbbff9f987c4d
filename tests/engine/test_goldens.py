"""Films and digests stay as they are when code is moved. `python tests/engine/test_goldens.py` records them anew, for
a change that is meant to be seen."""

import json
from pathlib import Path

import numpy as np

from tests import goldens

DATA = Path(__file__).parents[1] / "data" / "goldens"


def test_digests_are_those_of_films_made_before():
    assert goldens.digests() == json.loads((DATA / "digests.json").read_text())


def test_films_have_the_frames_that_they_had_before(tmp_path):
    """One level is allowed: a sum in another order tips a value over where levels are cut off."""
    made = goldens.untrained_films(tmp_path)
    with np.load(DATA / "frames.npz") as before:
        assert set(before) == set(made)
        worst = {name: int(np.abs(before[name].astype(int) - frames).max()) for name, frames in made.items()}
    assert max(worst.values()) <= 1, worst


if __name__ == "__main__":
    import tempfile

    DATA.mkdir(exist_ok=True)
    (DATA / "digests.json").write_text(json.dumps(goldens.digests(), indent=1) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(DATA / "frames.npz", **goldens.untrained_films(Path(folder)))
