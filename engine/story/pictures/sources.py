"""The seam for whoever has pictures to keywords, and the fixed list of those there are.

A source finds pictures that may be used and changed by anybody who names the author, and reads them by the address that
it gave them. What it found is hostile until checked: text is shown as text, a picture is decoded in a child process.
Imports no network code: a source that is not configured is never loaded.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from engine.config import ASSETS, Config
from engine.domain import Credit, new_id
from engine.errors import ConfigError, InputError, nearest
from engine.media.importer import MAX_ASPECT, MAX_PIXELS, MAX_SIDE

MAX_QUERY_CHARACTERS = 200  # Openverse cuts a longer one
MIN_SIDE = 320  # smaller pictures make no film worth watching; the other bounds are those of an import
FOLDER_MARKS = ("/", "\\", "~", ".")  # an entry of `Config.pictures` with one of them is a folder


@dataclass(frozen=True)
class Found:
    """A picture to choose. `id` cannot be guessed; the addresses are for its source and never leave the server."""

    source: str
    title: str
    width: int
    height: int
    credit: Credit
    thumbnail: str = field(repr=False)
    full: str = field(repr=False)
    id: str = field(default_factory=new_id)


class PictureSource(Protocol):
    """`name` is what the operator writes, `title` what the page shows."""

    name: str
    title: str

    def search(self, keywords: str, count: int) -> tuple[Found, ...]:
        """At most `count` pictures to `keywords` (as `words_of` returns them), best first.

        Raises `BackendUnavailable` when the source cannot be reached or answers nonsense.
        """
        ...

    def read(self, address: str, max_bytes: int) -> bytes:
        """The file at an address that this source gave, unchecked. Raises `BackendUnavailable`."""
        ...


def sources_of(config: Config) -> tuple[PictureSource, ...]:
    """The sources that the operator named, in that order; none unless asked for. Raises `ConfigError`."""
    entries = dict.fromkeys(entry.strip() for entry in config.pictures.split(","))
    return tuple(_source(entry, config.pictures_contact) for entry in entries if entry)


def _openverse(contact: str) -> PictureSource:
    from engine.story.pictures.openverse import Openverse

    return Openverse.opened(contact)


def _commons(contact: str) -> PictureSource:
    from engine.story.pictures.commons import Commons

    return Commons.opened(contact)


def _examples(contact: str) -> PictureSource:
    return _folder(ASSETS / "examples", name="examples", title="Examples")


def _folder(path: Path, *, name: str, title: str) -> PictureSource:
    from engine.story.pictures.folder import FolderSource

    return FolderSource(path, name=name, title=title)


SOURCES: dict[str, Callable[[str], PictureSource]] = {
    "openverse": _openverse,
    "commons": _commons,
    "examples": _examples,
}


def _source(entry: str, contact: str) -> PictureSource:
    if entry in SOURCES:
        return SOURCES[entry](contact)
    if any(mark in entry for mark in FOLDER_MARKS):
        try:
            path = Path(entry).expanduser()
        except RuntimeError as err:  # “~name” of a user that there is not
            raise ConfigError(f"There is no folder of pictures {entry[:80]}.", "Write it from the root on.") from err
        return _folder(path, name=entry, title=path.name or "Pictures")
    raise ConfigError(
        f"There is no picture source “{entry[:40]}”.", f"{nearest(entry, list(SOURCES))} A folder is given as ./name."
    )


def words_of(keywords: str) -> str:
    """Keywords as plain lower-case words: what a search engine takes for an operator is gone.

    Raises `InputError` when no word is left, or when they are too many for a search.
    """
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "'’-" else " " for c in keywords)
    words = " ".join(word for part in kept.split() if (word := part.strip("'’-").lower()))
    if not words:
        raise InputError("There are no keywords to search with.", "Type one or two words, for example: dog, street.")
    if len(words) > MAX_QUERY_CHARACTERS:
        raise InputError(
            f"The keywords have {len(words):,} characters; a search takes up to {MAX_QUERY_CHARACTERS}.",
            "Keep the words that matter most.",
        )
    return words


def plain(text: str, most: int = 300) -> str:
    """`text` on one line without control, format and bidirectional characters, at most `most` long."""
    visible = "".join(c if c in "\u200c\u200d" or unicodedata.category(c) not in _UNSEEN else " " for c in text)
    return " ".join(visible.split())[:most].strip()


_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def is_usable(width: int, height: int) -> bool:
    """Whether a picture of this size can become the anchor of a film."""
    short, long = sorted((width, height))
    return short >= MIN_SIDE and long <= MAX_SIDE and long <= MAX_ASPECT * short and width * height <= MAX_PIXELS


def title_of(file_name: str) -> str:
    """A title from a file's name, without its ending and underscores."""
    return plain(re.sub(r"\.[A-Za-z]{3,4}$", "", file_name).replace("_", " "))


def in_turn(answers: Iterable[tuple[Found, ...]]) -> tuple[Found, ...]:
    """The pictures of several sources, one of each in turn, so that none hides the others."""
    lists = [list(answer) for answer in answers]
    longest = max((len(answer) for answer in lists), default=0)
    return tuple(answer[place] for place in range(longest) for answer in lists if place < len(answer))
