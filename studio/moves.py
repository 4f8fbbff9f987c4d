"""The moves of the embedded model as plain data for the page: what is offered, and what a prompt asks for."""

from functools import lru_cache
from typing import Any

from engine.story.drafter import shortened
from engine.story.template import parse_keywords, readable, split
from engine.story.vocabulary import Vocabulary


def offered(vocabulary: Vocabulary | None, idea: str = "") -> list[dict[str, str]]:
    """Every move: name, title, kind, and a sentence that asks for it of the subject that `idea` names."""
    if vocabulary is None:
        return []
    names = tuple(action.name for action in vocabulary.actions)
    sentences = dict(zip(names, _sentences(vocabulary.model_dump_json(), idea), strict=True))
    return [
        {"name": action.name, "title": action.title, "kind": action.kind, "sentence": sentences[action.name]}
        for action in vocabulary.actions
    ]


@lru_cache(maxsize=64)
def _sentences(vocabulary_json: str, idea: str) -> tuple[str, ...]:
    vocabulary = Vocabulary.model_validate_json(vocabulary_json)
    _, subject = split(parse_keywords(shortened(idea)), vocabulary)
    return tuple(readable(action, vocabulary, subject)[0] for action in vocabulary.actions)


def asked(vocabulary: Vocabulary | None, prompt: str) -> dict[str, Any] | None:
    """What the model makes of a prompt: moves, the words that it goes by, and those it does not know. None where any
    text goes.
    """
    if vocabulary is None or not vocabulary.actions:
        return None
    reading = vocabulary.reading(prompt)
    titles = {action.name: action.title for action in vocabulary.actions}
    return {
        "moves": [f"{titles[move.name]} {move.amount}".rstrip() for move in reading.moves],
        "heard": list(reading.heard),
        "ignored": list(reading.ignored),
    }
