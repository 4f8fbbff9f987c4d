"""A folder of pictures on this machine as a source: works offline, and holds what the operator put there.

PNG, JPEG and WebP files of the folder itself. Who made them stands in `credits.yaml` (file name → title, author,
licence, …) or beside a picture in a .json file of the same name; without either the page says that none is stated.
"""

import json
import logging
from pathlib import Path
from typing import Annotated

from PIL import Image, UnidentifiedImageError
from pydantic import Field

from engine.config import Settings, read_yaml, validated
from engine.domain import Credit, WebAddress
from engine.errors import BackendUnavailable, ConfigError
from engine.media.importer import MAX_BYTES
from engine.story.pictures.sources import Found, is_usable, plain, title_of

log = logging.getLogger(__name__)
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_FILES = 5000
MAX_CREDIT_BYTES = 20_000
NOT_STATED = "No licence stated"

Text = Annotated[str, Field(max_length=300)]


class Entry(Settings):
    """What is said of one picture."""

    title: Text = ""
    author: Text = ""
    licence: Annotated[str, Field(min_length=1, max_length=100)] = NOT_STATED
    licence_url: WebAddress | None = None
    page_url: WebAddress | None = None
    keywords: Annotated[str, Field(max_length=500)] = ""


class FolderSource:
    """Pictures of a folder whose name, title, author or keywords hold the words of a search."""

    def __init__(self, folder: Path, *, name: str, title: str) -> None:
        if not folder.is_dir():
            raise ConfigError(f"There is no folder of pictures {folder.name}/.", "Check the setting “pictures”.")
        self.name = name
        self.title = title
        self._folder = folder
        self.credits()  # a mistake in the file is told when the studio starts

    def credits(self) -> dict[str, Entry]:
        """What credits.yaml says, by file name. Raises `ConfigError`."""
        path = self._folder / "credits.yaml"
        data = read_yaml(path) if path.is_file() else {}
        return {str(name): validated(Entry, entry or {}, f"credits.yaml, {name}") for name, entry in data.items()}

    def files(self) -> list[Path]:
        found = (path for path in self._folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
        return sorted(found)[:MAX_FILES]

    def search(self, keywords: str, count: int) -> tuple[Found, ...]:
        """The pictures that most words fit; a word also fits when a longer one begins with it."""
        words = keywords.split()
        try:
            credits, files = self.credits(), self.files()
        except (ConfigError, OSError) as err:
            log.warning("the folder %s: %s", self.title, err)
            raise BackendUnavailable(f"The pictures of “{self.title}” cannot be read.", "Tell who runs this.") from err
        entries = {path: self._entry(path, credits) for path in files}
        fits = {path: _fit(words, path, entry) for path, entry in entries.items()}
        ranked = sorted((path for path in files if fits[path]), key=lambda path: -fits[path])
        found = (self._found(path, entries[path]) for path in ranked)
        return tuple(one for one in found if one)[:count]

    def read(self, address: str, max_bytes: int) -> bytes:
        """`address` is a file's name; what is small enough for a picture is small enough for its thumbnail."""
        try:
            return (self._folder / Path(address).name).read_bytes()
        except OSError as err:
            raise BackendUnavailable(f"The picture is not in “{self.title}” any more.", "Search again.") from err

    def _entry(self, path: Path, credits: dict[str, Entry]) -> Entry:
        if path.name in credits:
            return credits[path.name]
        beside = path.with_suffix(".json")
        try:
            if not beside.is_file() or beside.stat().st_size > MAX_CREDIT_BYTES:
                return Entry()
            return validated(Entry, json.loads(beside.read_bytes()), beside.name)
        except (OSError, ValueError, RecursionError, ConfigError) as err:
            log.warning("%s says nothing that can be read of its picture (%s)", beside.name, type(err).__name__)
            return Entry()

    def _found(self, path: Path, entry: Entry) -> Found | None:
        try:
            if path.stat().st_size > MAX_BYTES:
                return None
            with Image.open(path, formats=FORMATS) as picture:  # reads the header only
                width, height = picture.size
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None
        if not is_usable(width, height):
            return None
        title = plain(entry.title) or title_of(path.name)
        credit = Credit(
            title=title,
            author=plain(entry.author),
            licence=plain(entry.licence, 100) or NOT_STATED,
            licence_url=entry.licence_url,
            page_url=entry.page_url,
            source=plain(self.title, 60) or "Pictures",
        )
        return Found(self.name, title, width, height, credit, thumbnail=path.name, full=path.name)


def _fit(words: list[str], path: Path, entry: Entry) -> int:
    """How many of `words` begin one that is said of the picture."""
    said = plain(f"{path.stem} {entry.title} {entry.author} {entry.keywords}", 2000).lower()
    known = "".join(c if c.isalnum() else " " for c in said).split()
    return sum(any(other.startswith(word) for other in known) for word in words)
