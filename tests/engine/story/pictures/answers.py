"""Answers in the shape of the two services (Openverse API v1; MediaWiki `action=query`, `formatversion=2`), written by
hand: the names and types of the fields are theirs, the pictures are invented."""

from typing import Any

DOG = "4bc43a04-ef46-4544-a0c1-63c63f56e276"
STREET = "610756ec-ae31-4d5e-8f03-8cc52f31b71d"


def openverse_result(**changes: object) -> dict[str, Any]:
    identifier = changes.get("id", DOG)
    return {
        "id": identifier,
        "title": "A dog in the street",
        "indexed_on": "2022-08-27T17:39:48Z",
        "foreign_landing_url": "https://photos.example/4459771899",
        "url": "https://live.photos.example/4065/4459771899.jpg",
        "creator": "Ann Example",
        "creator_url": "https://photos.example/people/ann",
        "license": "by-sa",
        "license_version": "2.0",
        "license_url": "https://creativecommons.org/licenses/by-sa/2.0/",
        "provider": "flickr",
        "source": "flickr",
        "category": "photograph",
        "filesize": 896128,
        "filetype": "jpg",
        "tags": [{"accuracy": None, "name": "dog", "unstable__provider": "flickr"}],
        "attribution": '"A dog in the street" by Ann Example is licensed under CC BY-SA 2.0.',
        "fields_matched": ["title"],
        "mature": False,
        "height": 768,
        "width": 1024,
        "thumbnail": f"http://api.openverse.org/v1/images/{identifier}/thumb/",
        "detail_url": f"http://api.openverse.org/v1/images/{identifier}/",
        "related_url": f"http://api.openverse.org/v1/images/{identifier}/related/",
        "unstable__sensitivity": [],
    } | changes


def openverse_answer(*results: object) -> dict[str, Any]:
    return {"result_count": 240, "page_count": 12, "page_size": 20, "page": 1, "results": list(results)}


def said(value: object, source: str = "commons-desc-page") -> dict[str, Any]:
    return {"value": value, "source": source, "hidden": ""}


def commons_page(index: int = 1, *, meta: dict[str, object] | None = None, **info: object) -> dict[str, Any]:
    """A file that the search found; `info` changes its imageinfo, `meta` its extmetadata (None leaves a field out)."""
    file = "8/8e/Dog_in_Lisbon.jpg"
    fields: dict[str, object] = {
        "ObjectName": "Dog in Lisbon",
        "Artist": '<a href="//commons.wikimedia.org/wiki/User:Rui" title="User:Rui">Rui <b>Example</b></a>',
        "LicenseShortName": "CC BY-SA 4.0",
        "LicenseUrl": "https://creativecommons.org/licenses/by-sa/4.0",
        "Restrictions": "",
    } | (meta or {})
    return {
        "pageid": 4000 - index,
        "ns": 6,
        "title": "File:Dog in Lisbon.jpg",
        "index": index,
        "imagerepository": "local",
        "imageinfo": [
            {
                "size": 2_431_882,
                "width": 3000,
                "height": 2000,
                "thumburl": f"https://thumb.wikimedia.org/wikipedia/commons/thumb/{file}/330px-Dog_in_Lisbon.jpg"
                "?utm_source=commons.wikimedia.org&utm_campaign=imageinfo&utm_content=thumbnail",
                "thumbwidth": 330,
                "thumbheight": 220,
                "responsiveUrls": {"1.5": "https://thumb.wikimedia.org/a", "2": "https://thumb.wikimedia.org/b"},
                "url": f"https://upload.wikimedia.org/wikipedia/commons/{file}",
                "descriptionurl": "https://commons.wikimedia.org/wiki/File:Dog_in_Lisbon.jpg",
                "descriptionshorturl": "https://commons.wikimedia.org/w/index.php?curid=4000",
                "mime": "image/jpeg",
                "extmetadata": {name: said(value) for name, value in fields.items() if value is not None},
            }
            | info
        ],
    }


def commons_answer(*pages: object) -> dict[str, Any]:
    return {
        "batchcomplete": True,
        "continue": {"gsroffset": 40, "continue": "gsroffset||"},
        "query": {"pages": list(pages)},
    }


NO_HITS = {"batchcomplete": True}
COMMONS_ERROR = {
    "error": {"code": "ratelimited", "info": "You've exceeded your rate limit.", "docref": "See …"},
    "servedby": "mw-api-ext",
}
