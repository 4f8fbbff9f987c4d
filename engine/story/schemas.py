"""Shapes of a model's answers: JSON schemas in which every text is bounded, and the length of the longest answer.

Patterns keep to what every constrained decoder reads alike: anchors, literal letters, one class of characters with one
bounded repeat. Classes hold neither quote nor backslash (in llama.cpp's and xgrammar's grammars `.` would let the
quote through), so that a text is the same inside JSON; English has no brackets or braces in it, so that it is not code.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENGLISH = "[A-Za-z0-9 ,.;:'!?-]"
PHRASE = "[A-Za-z0-9 ,'-]"  # nothing that means something in a pattern: a phrase can be the literal start of one
ANY_SCRIPT = r'[^"\\<>{}\x00-\x1F\x7F-\x9F]'
INDENTATION = 24  # blanks and line ends that a server may put around a key or an item


@dataclass(frozen=True)
class Shape:
    """A JSON schema and the bytes of its longest answer: a bound on tokens for every byte-level tokenizer."""

    schema: Mapping[str, object]
    longest: int

    @property
    def keys(self) -> frozenset[str]:
        """The keys of an object, all of which it must have."""
        return frozenset(self.schema["required"])


def english(least: int, most: int, *, opening: str = "", ending: str = "") -> Shape:
    """Text of `least` to `most` characters after a literal `opening` (of PHRASE) and before an `ending` (a pattern of
    one character)."""
    start = f"{opening}[ ,]" if opening else ""
    return Shape(
        {"type": "string", "pattern": f"^{start}{ENGLISH}{{{least},{most}}}{ending}$"}, len(opening) + most + 4
    )


def phrase(least: int, most: int) -> Shape:
    """A noun phrase: a capital letter, PHRASE, and no punctuation at the end."""
    pattern = f"^[A-Z]{PHRASE}{{{least - 2},{most - 2}}}[A-Za-z0-9]$"
    return Shape({"type": "string", "pattern": pattern}, most + 2)


def any_script(least: int, most: int) -> Shape:
    return Shape({"type": "string", "pattern": f"^{ANY_SCRIPT}{{{least},{most}}}$"}, 4 * most + 2)  # UTF-8: up to 4


def one_of(choices: Sequence[str]) -> Shape:
    return Shape({"type": "string", "enum": list(choices)}, max(len(json.dumps(choice)) for choice in choices))


def list_of(item: Shape, count: int) -> Shape:
    schema = {"type": "array", "items": item.schema, "minItems": count, "maxItems": count}
    return Shape(schema, count * (item.longest + 2 + INDENTATION) + 2)


def object_of(fields: Mapping[str, Shape]) -> Shape:
    """An object with exactly these keys, written in this order."""
    schema = {
        "type": "object",
        "properties": {key: field.schema for key, field in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }
    return Shape(schema, sum(len(key) + 6 + INDENTATION + field.longest for key, field in fields.items()) + 2)
