"""What of a project goes into a brief."""

import pytest

from engine import film
from engine.story.drafter import MAX_KEYWORDS_CHARACTERS, brief_for, shortened
from engine.story.template import TemplateDrafter

LONG = ", ".join(f"harbour {number}" for number in range(150))


def test_a_film_with_a_long_idea_can_be_extended(tmp_path, picture, preset):
    project = film.create(tmp_path / "film", picture, preset, prompts=["night falls"], idea=LONG[:2000]).load()
    brief = brief_for(project, preset, picture, count=2, so_far=("night falls",))
    assert len(list(TemplateDrafter().beats(brief))) == 2
    assert LONG.startswith(f"{brief.keywords}, ")


@pytest.mark.parametrize(
    ("idea", "keywords"),
    [
        ("dog, street", "dog, street"),
        (LONG, LONG[: LONG.rindex(",", 0, MAX_KEYWORDS_CHARACTERS + 1)]),
        ("a, " + "word " * 200, ("a, " + "word " * 200)[:497]),  # not a word of it is lost to a comma at the beginning
        ("word " * 100 + "end", ("word " * 100).strip()),
        ("x" * 600, "x" * 500),
        ("x" * 500 + ", y", "x" * 500),
    ],
)
def test_an_idea_is_shortened_at_a_comma_or_a_word(idea, keywords):
    assert shortened(idea) == keywords
    assert len(shortened(idea)) <= MAX_KEYWORDS_CHARACTERS
