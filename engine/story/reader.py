"""Reads a model's JSON while it is being written. Knows the outer form of an answer, nothing of its meaning.

Local models are held to the schema; an endpoint may send prose around the JSON, other JSON, half of it, or no end.
"""

import json
import re
from collections.abc import Iterable, Iterator

MAX_ANSWER_CHARACTERS = 100_000  # many times what any question allows
MAX_OPENINGS = 50  # braces in prose before the JSON


class Unreadable(ValueError):
    """The answer is not what was asked for; the text says how, to go after “the answer”."""


def read_object(pieces: Iterable[str], required: Iterable[str]) -> dict[str, object]:
    """The first JSON object with exactly the keys `required` in the whole answer. Raises `Unreadable`."""
    text = "".join(bounded(pieces))
    keys, decoder = set(required), json.JSONDecoder()
    for number, opening in enumerate(re.finditer(r"\{", text)):
        if number >= MAX_OPENINGS:
            break
        try:
            found, _ = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and set(found) == keys:
            return found
    raise Unreadable("is not the JSON object that was asked for" if text.strip() else "is empty")


def read_items(pieces: Iterable[str], key: str) -> Iterator[dict[str, str]]:
    """Objects of the array in `{"key": [{…}, …]}`, each as soon as its last character is there.

    Items are flat: texts only. Raises `Unreadable` where the answer stops being that, after the items before it.
    """
    opening, reader = re.compile(r'\{\s{0,100}"' + re.escape(key) + r'"\s{0,100}:\s{0,100}\['), None
    before = ""
    for piece in bounded(pieces):
        if reader is None:
            before += piece
            found = opening.search(before, max(0, len(before) - len(piece) - 400))
            if not found:
                continue
            reader, piece = _Items(), before[found.end() :]
        yield from reader.feed(piece)
        if reader.is_complete:
            return
    if reader is None:
        raise Unreadable("is not the JSON that was asked for" if before.strip() else "is empty")
    raise Unreadable("breaks off")


def bounded(pieces: Iterable[str]) -> Iterator[str]:
    total = 0
    for piece in pieces:
        total += len(piece) or 1
        if total > MAX_ANSWER_CHARACTERS:
            raise Unreadable("does not end")
        yield piece


class _Items:
    """The inside of an array of flat objects, character by character: every character is looked at once."""

    def __init__(self) -> None:
        self.is_complete = False
        self._item: list[str] | None = None  # the characters of the object being read
        self._in_text = self._escaped = False

    def feed(self, piece: str) -> Iterator[dict[str, str]]:
        for character in piece:
            if self._item is not None:
                self._item.append(character)
                if self._ends_item(character):
                    text, self._item = "".join(self._item), None
                    yield flat(text)
            elif character == "{":
                self._item = [character]
            elif character == "]":
                self.is_complete = True
                return
            elif character not in ", \t\r\n":
                raise Unreadable("holds something other than objects in its list")

    def _ends_item(self, character: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif self._in_text:
            self._escaped = character == "\\"
            self._in_text = character != '"'
        elif character == '"':
            self._in_text = True
        elif character in "{[":
            raise Unreadable("holds lists or objects where texts belong")
        return character == "}" and not self._in_text


def flat(text: str) -> dict[str, str]:
    try:
        item = json.loads(text)
    except ValueError as err:
        raise Unreadable("is not valid JSON") from err
    if not all(isinstance(value, str) for value in item.values()):
        raise Unreadable("holds numbers where texts belong")
    return item
