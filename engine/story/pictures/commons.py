"""Wikimedia Commons through MediaWiki's API: a search among files, with the size, author and licence of each.

Wikimedia asks for a User-Agent that names the program and whom to write to, and serves small pictures in fixed widths
only (… 250, 330, 500, 960 …; https://www.mediawiki.org/wiki/Common_thumbnail_sizes), from thumb.wikimedia.org or
upload.wikimedia.org. Authors and titles come as HTML.
"""

from html.parser import HTMLParser
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, Field, ValidationError

from engine.domain import Credit, WebAddress
from engine.errors import BackendUnavailable
from engine.media.importer import MAX_BYTES
from engine.story.pictures import licences
from engine.story.pictures.fetch import AGAIN, Fetcher
from engine.story.pictures.sources import Found, is_usable, plain, title_of

HOST = "commons.wikimedia.org"
FILE_HOSTS = ("upload.wikimedia.org", "thumb.wikimedia.org")
PAGE = f"https://{HOST}/wiki/"
THUMBNAIL_WIDTH = 330
MAX_HITS = 40  # some fall away: other licences, drawings, small pictures
MAX_ANSWER_BYTES = 2_000_000
MAX_HTML_CHARACTERS = 5000
READABLE = ("image/jpeg", "image/png", "image/webp")
FIELDS = ("Artist", "ObjectName", "LicenseShortName", "NonFree", "Restrictions")


class Value(BaseModel):
    value: object = ""

    def text(self) -> str:
        return str(self.value)[:MAX_HTML_CHARACTERS] if isinstance(self.value, str | int | float) else ""


class ImageInfo(BaseModel):
    url: WebAddress
    thumburl: WebAddress
    descriptionurl: WebAddress
    mime: Annotated[str, Field(max_length=100)]
    size: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1, le=1_000_000)]
    height: Annotated[int, Field(ge=1, le=1_000_000)]
    extmetadata: Annotated[dict[str, Value], Field(max_length=100)]


class Page(BaseModel):
    title: Annotated[str, Field(max_length=1000)]
    index: int = 0  # rank in the search; pages come ordered by their id
    imageinfo: Annotated[list[ImageInfo], Field(min_length=1, max_length=1)]


class Query(BaseModel):
    pages: Annotated[list[object], Field(max_length=MAX_HITS)]


class Answer(BaseModel):
    """An answer to `action=query` with `formatversion=2`; without hits there is no `query`."""

    query: Query | None = None
    error: object | None = None


class Commons:
    """Keyword pictures from Wikimedia Commons."""

    name: Literal["commons"] = "commons"
    title = "Wikimedia Commons"

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    @classmethod
    def opened(cls, contact: str) -> "Commons":
        return cls(Fetcher({HOST, *FILE_HOSTS}, contact=contact))

    def search(self, keywords: str, count: int) -> tuple[Found, ...]:
        query = {
            "action": "query",
            "format": "json",
            "formatversion": 2,
            "generator": "search",
            "gsrsearch": f"{keywords} filetype:bitmap",
            "gsrnamespace": 6,
            "gsrlimit": MAX_HITS,
            "prop": "imageinfo",
            "iiprop": "url|size|mime|extmetadata",
            "iiurlwidth": THUMBNAIL_WIDTH,
            "iiextmetadatafilter": "|".join(FIELDS),
            "iiextmetadatalanguage": "en",
        }
        data = self._fetcher.get(
            f"https://{HOST}/w/api.php?{urlencode(query)}", accept="application/json", max_bytes=MAX_ANSWER_BYTES
        )
        try:
            answer = Answer.model_validate_json(data)
        except ValidationError as err:
            raise BackendUnavailable("Wikimedia Commons answered something else than pictures.", AGAIN) from err
        if answer.error is not None:
            raise BackendUnavailable("Wikimedia Commons refused the search.", AGAIN)
        pages = [page for data in (answer.query.pages if answer.query else ()) if (page := _page(data))]
        found = (self._found(page) for page in sorted(pages, key=lambda page: page.index))
        return tuple(one for one in found if one)[:count]

    def read(self, address: str, max_bytes: int) -> bytes:
        return self._fetcher.get(address, accept="image/jpeg, image/png, image/webp", max_bytes=max_bytes)

    def _found(self, page: Page) -> Found | None:
        """The picture, when it is of a usable kind and size, and free of all but its author's conditions."""
        [info] = page.imageinfo
        facts = {name: plain_html(info.extmetadata[name].text()) for name in FIELDS if name in info.extmetadata}
        licence = licences.from_name(facts.get("LicenseShortName", ""))
        if licence is None or facts.get("NonFree", "").lower() in ("true", "1"):
            return None
        if facts.get("Restrictions"):  # rights of people shown, trade marks, insignia
            return None
        if info.mime not in READABLE or info.size > MAX_BYTES or not is_usable(info.width, info.height):
            return None
        title = facts.get("ObjectName") or title_of(page.title.partition(":")[2])
        return Found(
            source=self.name,
            title=title,
            width=info.width,
            height=info.height,
            credit=Credit(
                title=title,
                author=facts.get("Artist", ""),
                licence=licence.name,
                licence_url=licence.url,
                page_url=info.descriptionurl if info.descriptionurl.startswith(PAGE) else None,
                source=self.title,
            ),
            thumbnail=info.thumburl,
            full=info.url,
        )


def _page(data: object) -> Page | None:
    try:
        return Page.model_validate(data)
    except ValidationError:
        return None


def plain_html(markup: str) -> str:
    """The text that a reader of `markup` sees, on one line and without any markup."""
    reader = _Reader()
    reader.feed(markup[:MAX_HTML_CHARACTERS])
    reader.close()
    return plain(" ".join("".join(reader.seen).split()))


class _Reader(HTMLParser):
    """Collects visible text: Commons hides machine-readable doubles of a name with `display: none`."""

    VOID = ("br", "img", "hr", "wbr", "input", "meta", "link", "col", "area", "base", "embed", "source", "track")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[str] = []
        self._open: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            self.seen.append(" ")
            return
        style = "".join((dict(attrs).get("style") or "").split()).lower()
        unseen = tag in ("script", "style", "template") or "display:none" in style
        self._open.append((tag, unseen or (bool(self._open) and self._open[-1][1])))

    def handle_endtag(self, tag: str) -> None:
        names = [name for name, _ in self._open]
        if tag in names:
            del self._open[len(names) - 1 - names[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if not (self._open and self._open[-1][1]):
            self.seen.append(data)
