import pytest

from engine import film
from engine.config import ASSETS, load_preset
from engine.project import takes
from engine.project.store import Store

EXAMPLES = sorted(path.parent for path in (ASSETS / "examples").glob("*/project.json"))


def test_four_films_ship():
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_finished_with_the_weights_that_ship(folder):
    store = Store(folder)
    planned = film.plan(store, load_preset("pocket"))
    assert not planned.outgrown
    assert [clip.status for clip in planned.clips] == ["done"] * len(planned.clips)
    takes.verify(store.takes_folder, [clip.take for clip in planned.clips])
