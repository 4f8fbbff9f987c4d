"""Keyword pictures for the page: where the operator named sources (`SVI_PICTURES`), and nowhere else.

    setup JSON        "pictures": {"enabled": true, "sources": ["Openverse", "Wikimedia Commons"]}
    POST /pictures    {"keywords": "dog, street", "owner": "…"}  (JSON)
        → {"pictures": [{"id", "title", "author", "licence", "licence_url" or null, "page_url" or null, "source",
                         "width", "height", "thumbnail_url"}, …]}   an empty list: nothing was found
        → 400 {"message", "hint", "id"}   no words, too many searches, no source answered
    GET  /pictures/{id}    a JPEG of at most 320 pixels a side; 400 as above when it cannot be had
    create event      `found`: the id of the picture, in the place of an upload

Switched off, neither route exists (404). The keywords travel in a body, so that no log of addresses holds them; where
pictures lie on the web the page never learns: this server fetches them and sends what passed the picture import.
"""

import secrets
import shutil
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.domain import Credit
from engine.errors import InputError
from engine.story.pictures.search import Search
from engine.story.pictures.sources import Found, sources_of
from studio.arguments import idea_text
from studio.library import owner_of
from studio.limits import Rates


class Pictures:
    """Searches and takes pictures for owners, within their limits."""

    def __init__(self, search: Search, rates: Rates) -> None:
        self._search = search
        self._rates = rates

    def find(self, secret: str, keywords: object) -> tuple[Found, ...]:
        """Pictures to `keywords` for the owner whose browser keeps `secret`."""
        idea = idea_text(keywords)
        self._rates.count("search", owner_of(secret))
        return self._search.find(idea)

    def thumbnail(self, found_id: str) -> bytes:
        return self._search.thumbnail(found_id)

    def take(self, found_id: object, owner: str, uploads: Path) -> tuple[Path, Credit]:
        """The picture as a file in a folder of its own below `uploads`, like an upload, and who made it."""
        if not isinstance(found_id, str):
            raise InputError("The page did not say which picture.", "Search again, then choose one.")
        self._rates.count("upload", owner)
        folder = uploads / f"found-{secrets.token_hex(16)}"
        folder.mkdir()
        try:
            return folder / "picture.png", self._search.take(found_id, folder / "picture.png")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def open_pictures(config: Config, rates: Rates) -> Pictures | None:
    """None unless the operator named sources. Raises `ConfigError` on a source that does not exist."""
    sources = sources_of(config)
    return Pictures(Search(sources), rates) if sources else None


def setup(config: Config) -> dict[str, Any]:
    """What the page needs to know before anybody searches."""
    titles = [source.title for source in sources_of(config)]
    return {"enabled": bool(titles), "sources": titles}


def described(found: Found, base: str) -> dict[str, Any]:
    """A found picture as JSON; `base` is where the studio's routes are mounted."""
    credit = found.credit
    return {
        "id": found.id,
        "title": found.title,
        "author": credit.author,
        "licence": credit.licence,
        "licence_url": credit.licence_url,
        "page_url": credit.page_url,
        "source": credit.source,
        "width": found.width,
        "height": found.height,
        "thumbnail_url": f"{base}/pictures/{found.id}",
    }
