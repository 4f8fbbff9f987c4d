"""Openverse (https://api.openverse.org/v1/): hundreds of millions of openly licensed pictures, without a key.

The pictures themselves lie with many other hosts. They are read through Openverse's own image proxy
(`/v1/images/{id}/thumb/`, `full_size=true` for the whole picture), so that one host is all this source ever opens, and
no address of an answer is followed. Without a key a page has at most 20 pictures, and some 20 searches a minute pass.
"""

from typing import Annotated, Literal
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, Field, ValidationError

from engine.domain import Credit
from engine.errors import BackendUnavailable
from engine.story.pictures import licences
from engine.story.pictures.fetch import AGAIN, Fetcher
from engine.story.pictures.sources import Found, is_usable, plain

HOST = "api.openverse.org"
PAGE = "https://openverse.org/image"
MAX_PAGE_SIZE = 20
MAX_ANSWER_BYTES = 1_000_000
READABLE = (None, "jpg", "jpeg", "png", "webp")

Text = Annotated[str, Field(max_length=5000)]
Side = Annotated[int, Field(ge=1, le=1_000_000)]


class Result(BaseModel):
    """One picture, as far as it is used here; every field that Openverse may leave empty can be None."""

    id: UUID
    title: Text | None = None
    creator: Text | None = None
    license: Annotated[str, Field(max_length=50)]
    license_version: Annotated[str, Field(max_length=25)] | None = None
    filetype: Annotated[str, Field(max_length=50)] | None = None
    mature: bool = False
    width: Side | None = None
    height: Side | None = None


class Answer(BaseModel):
    results: Annotated[list[object], Field(max_length=MAX_PAGE_SIZE)]


class Openverse:
    """Keyword pictures from Openverse."""

    name: Literal["openverse"] = "openverse"
    title = "Openverse"

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    @classmethod
    def opened(cls, contact: str) -> "Openverse":
        return cls(Fetcher({HOST}, contact=contact))

    def search(self, keywords: str, count: int) -> tuple[Found, ...]:
        query = {
            "q": keywords,
            "license": ",".join(licences.OPENVERSE_CODES),
            "mature": "false",
            "page_size": MAX_PAGE_SIZE,  # some fall away below
        }
        data = self._fetcher.get(
            f"https://{HOST}/v1/images/?{urlencode(query)}", accept="application/json", max_bytes=MAX_ANSWER_BYTES
        )
        try:
            answer = Answer.model_validate_json(data)
        except ValidationError as err:
            raise BackendUnavailable("Openverse answered something else than pictures.", AGAIN) from err
        found = (self._found(result) for result in answer.results)
        return tuple(one for one in found if one)[:count]

    def read(self, address: str, max_bytes: int) -> bytes:
        return self._fetcher.get(address, accept="image/jpeg, image/png, image/webp", max_bytes=max_bytes)

    def _found(self, data: object) -> Found | None:
        """The picture, when it is whole, of a usable size and under a licence that lets anybody change it."""
        try:
            result = Result.model_validate(data)
        except ValidationError:
            return None
        licence = licences.from_code(result.license.lower(), result.license_version)
        if licence is None or result.mature or result.filetype not in READABLE:
            return None
        if not result.width or not result.height or not is_usable(result.width, result.height):
            return None
        title = plain(result.title or "")
        proxy = f"https://{HOST}/v1/images/{result.id}/thumb/"
        return Found(
            source=self.name,
            title=title,
            width=result.width,
            height=result.height,
            credit=Credit(
                title=title,
                author=plain(result.creator or ""),
                licence=licence.name,
                licence_url=licence.url,
                page_url=f"{PAGE}/{result.id}",
                source=self.title,
            ),
            thumbnail=proxy,
            full=f"{proxy}?full_size=true&compressed=false",
        )
