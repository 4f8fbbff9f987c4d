"""Finding, showing and taking pictures: everything passes the picture import, and nothing is fetched twice."""

import gzip
import io
import json

import pytest
from PIL import Image

from engine.errors import BackendUnavailable, InputError
from engine.story.pictures import search as search_module
from engine.story.pictures.openverse import HOST, Openverse
from engine.story.pictures.search import FOUND_S, RESULTS_S, Remembered, Search
from tests.engine.story.pictures.answers import DOG, STREET, openverse_answer, openverse_result
from tests.engine.story.pictures.loopback import answer

THUMBNAIL = f"/v1/images/{DOG}/thumb/"
FULL = f"{THUMBNAIL}?full_size=true&compressed=false"


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def photo(width: int = 1024, height: int = 768) -> bytes:
    stream = io.BytesIO()
    Image.effect_mandelbrot((width, height), (-2, -1.5, 1, 1.5), 20).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def search(web, clock):
    """A search of an Openverse that knows two pictures."""
    body = json.dumps(openverse_answer(openverse_result(), openverse_result(id=STREET))).encode()
    web.otherwise = answer(body)
    return Search([Openverse(web.fetcher(HOST))], clock=clock)


def test_a_picture_is_found_shown_and_taken(web, search, tmp_path):
    web.answers |= {THUMBNAIL: answer(photo(600, 450)), FULL: answer(photo(3000, 2000))}
    found, _ = search.find("Dog, street")
    shown = Image.open(io.BytesIO(search.thumbnail(found.id)))
    assert (shown.format, shown.size) == ("JPEG", (320, 240))
    credit = search.take(found.id, tmp_path / "picture.png")
    taken = Image.open(tmp_path / "picture.png")
    assert (taken.format, taken.size) == ("PNG", (2560, 1707))
    assert (credit.author, credit.licence) == ("Ann Example", "CC BY-SA 2.0")


def test_the_same_keywords_are_not_asked_again_soon(web, search, clock):
    first = search.find("dog, street")
    assert search.find(" DOG  street ") == first
    assert len(web.requests) == 1
    clock.now += RESULTS_S
    assert {found.id for found in search.find("dog street")}.isdisjoint(found.id for found in first)
    assert len(web.requests) == 2


def test_a_found_picture_is_forgotten_after_an_hour(search, clock, tmp_path):
    found, _ = search.find("dog")
    clock.now += FOUND_S
    for use in (search.thumbnail, lambda found_id: search.take(found_id, tmp_path / "a.png")):
        with pytest.raises(InputError, match="too long ago"):
            use(found.id)


@pytest.mark.parametrize("found_id", ["", "a" * 26, "../../etc/passwd", "https://evil.test/a.png", DOG, "A" * 26])
def test_a_picture_is_named_by_its_id_alone(web, search, found_id, tmp_path):
    search.find("dog")
    for use in (search.thumbnail, lambda found_id: search.take(found_id, tmp_path / "a.png")):
        with pytest.raises(InputError, match="too long ago"):
            use(found_id)
    assert len(web.requests) == 1 and list(tmp_path.iterdir()) == []


def test_ids_of_two_searches_have_nothing_in_common(search):
    ids = [found.id for words in ("dog", "cat", "cow") for found in search.find(words)]
    assert len(set(ids)) == 6 and DOG not in "".join(ids)


HOSTILE = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": b"<!doctype html><script>alert(1)</script>",
    "gif": b"GIF89a" + b"\0" * 50,
    "gzip": gzip.compress(b"\0" * 10_000_000),
    "cut": photo()[:3000],
    "empty": b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_picture_is_refused_whatever_its_header_says(web, search, tmp_path, kind):
    web.answers |= {path: answer(HOSTILE[kind], content_type="image/jpeg") for path in (THUMBNAIL, FULL)}
    found, _ = search.find("dog")
    with pytest.raises(InputError):
        search.take(found.id, tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []


def test_a_thumbnail_that_cannot_be_had_is_fetched_once(web, search):
    web.answers[THUMBNAIL] = answer(b"", 404)
    found, _ = search.find("dog")
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            search.thumbnail(found.id)
    assert web.requests[1:] == [(HOST, THUMBNAIL)]


def test_a_thumbnail_is_fetched_once(web, search):
    web.answers[THUMBNAIL] = answer(photo(400, 400))
    found, _ = search.find("dog")
    assert search.thumbnail(found.id) == search.thumbnail(found.id)
    assert web.requests[1:] == [(HOST, THUMBNAIL)]


class Failing:
    """A source that is never there."""

    name, title = "failing", "Failing"

    def search(self, keywords, count):
        raise BackendUnavailable("Failing could not be reached.", "Try again.")

    def read(self, address, max_bytes):
        raise AssertionError("nothing was found here")


def test_a_source_that_fails_does_not_hide_the_others(web, search):
    both = Search([Failing(), *search.sources.values()])
    assert len(both.find("dog")) == 2
    with pytest.raises(BackendUnavailable, match="Failing could not be reached"):
        Search([Failing()]).find("dog")


def test_memory_is_bounded_however_much_is_searched(search, monkeypatch):
    for words in range(search_module.MAX_RESULTS + 50):
        search._results.put(("openverse", str(words)), ())
    assert len(search._results) == search_module.MAX_RESULTS
    few = Remembered(3, 10.0, Clock())
    for number in range(9):
        few.put(number, number)
    assert len(few) == 3 and few.get(8) == 8 and few.get(0) is None
