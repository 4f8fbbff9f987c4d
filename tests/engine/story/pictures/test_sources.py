"""What the two services and a folder find, and what of their answers is believed."""

import copy
import json
import random
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from engine.config import ASSETS, Config
from engine.domain import ID_PATTERN
from engine.errors import BackendUnavailable, ConfigError, InputError
from engine.story.pictures import licences
from engine.story.pictures.commons import FILE_HOSTS, Commons, plain_html
from engine.story.pictures.commons import HOST as COMMONS
from engine.story.pictures.folder import NOT_STATED, FolderSource
from engine.story.pictures.openverse import HOST as OPENVERSE
from engine.story.pictures.openverse import Openverse
from engine.story.pictures.sources import Found, in_turn, is_usable, plain, sources_of, words_of
from tests.engine.story.pictures.answers import (
    COMMONS_ERROR,
    DOG,
    NO_HITS,
    STREET,
    commons_answer,
    commons_page,
    openverse_answer,
    openverse_result,
)
from tests.engine.story.pictures.loopback import answer


def says(web, data: object) -> None:
    """Every request is answered with `data`, as JSON unless it is bytes."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    web.otherwise = answer(body, content_type="application/json")


def openverse(web) -> Openverse:
    return Openverse(web.fetcher(OPENVERSE))


def commons(web) -> Commons:
    return Commons(web.fetcher(COMMONS, *FILE_HOSTS))


def asked(web) -> tuple[str, str, dict[str, str]]:
    """Host, path and parameters of the only request."""
    [(host, target)] = web.requests
    parts = urlsplit(target)
    return host, parts.path, {name: value for name, [value] in parse_qs(parts.query, strict_parsing=True).items()}


# Words


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ("dog, street", "dog street"),
        ("  Old   Harbour!! ", "old harbour"),
        ("Hafen-Stadt, l'eau", "hafen-stadt l'eau"),
        ("犬、通り", "犬 通り"),
        ("शहर में कुत्ता", "शहर में कुत्ता"),
        ('dog -cat "exact" insource:/.*/ OR filetype:video', "dog cat exact insource or filetype video"),
        ("dog\u202estreet\x00 ' - <script>", "dog street script"),
        ("intitle:a|b&gsrlimit=500#x", "intitle a b gsrlimit 500 x"),
    ],
)
def test_keywords_become_plain_words(keywords, words):
    assert words_of(keywords) == words


@pytest.mark.parametrize("keywords", ["", "  ", "-- '' !!", "\x00", "🐶"])
def test_keywords_without_a_word_are_refused(keywords):
    with pytest.raises(InputError, match="no keywords"):
        words_of(keywords)


def test_too_many_keywords_are_refused():
    with pytest.raises(InputError, match="up to 200"):
        words_of("dog " * 60)


# Licences


@pytest.mark.parametrize(
    ("code", "version", "name"),
    [("by", "2.0", "CC BY 2.0"), ("by-sa", "4.0", "CC BY-SA 4.0"), ("cc0", "1.0", "CC0 1.0"), ("cc0", None, "CC0 1.0"),
     ("pdm", "1.0", "Public Domain Mark 1.0")],
)  # fmt: skip
def test_openverse_licences_that_allow_changes_are_known(code, version, name):
    assert licences.from_code(code, version).name == name


@pytest.mark.parametrize(
    ("code", "version"),
    [("by-nc", "2.0"), ("by-nd", "4.0"), ("by-nc-sa", "3.0"), ("by-nc-nd", "2.0"), ("nc-sampling+", "1.0"),
     ("sampling+", "1.0"), ("by", None), ("by", "4.0/../../x"), ("by", "9.9"), ("", None), ("BY-ND", "4.0")],
)  # fmt: skip
def test_other_openverse_licences_are_not(code, version):
    assert licences.from_code(code, version) is None


@pytest.mark.parametrize(
    ("name", "url"),
    [("CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
     ("CC BY 2.0", "https://creativecommons.org/licenses/by/2.0/"),
     ("CC BY-SA 3.0 de", "https://creativecommons.org/licenses/by-sa/3.0/de/"),
     ("CC0", "https://creativecommons.org/publicdomain/zero/1.0/"), ("Public domain", None)],
)  # fmt: skip
def test_commons_licences_that_allow_changes_are_known(name, url):
    assert licences.from_name(name).url == url


@pytest.mark.parametrize(
    "name",
    ["CC BY-NC 4.0", "CC BY-ND 2.0", "CC BY-NC-SA 3.0", "GFDL", "FAL", "Fair use", "Copyrighted free use", "",
     "CC BY-SA", "CC BY 4.0 <b>", "CC BY-SA 4.0\nND", "cc by 4.0 evil", "All rights reserved"],
)  # fmt: skip
def test_other_commons_licences_are_not(name):
    assert licences.from_name(name) is None


# Openverse


def test_openverse_is_asked_for_free_pictures_that_may_be_changed(web):
    says(web, openverse_answer())
    assert openverse(web).search("dog street", 12) == ()
    assert asked(web) == (
        OPENVERSE,
        "/v1/images/",
        {"q": "dog street", "license": "by,by-sa,cc0,pdm", "mature": "false", "page_size": "20"},
    )


def test_an_openverse_picture_is_read_through_openverse(web):
    says(web, openverse_answer(openverse_result()))
    [found] = openverse(web).search("dog", 12)
    assert (found.title, found.width, found.height) == ("A dog in the street", 1024, 768)
    assert found.credit.model_dump() == {
        "title": "A dog in the street",
        "author": "Ann Example",
        "licence": "CC BY-SA 2.0",
        "licence_url": "https://creativecommons.org/licenses/by-sa/2.0/",
        "page_url": f"https://openverse.org/image/{DOG}",
        "source": "Openverse",
    }
    assert found.thumbnail == f"https://{OPENVERSE}/v1/images/{DOG}/thumb/"
    assert found.full == f"{found.thumbnail}?full_size=true&compressed=false"
    assert ID_PATTERN.fullmatch(found.id)
    assert OPENVERSE not in repr(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"license": "by-nc"}, {"license": "by-nd"}, {"license": ""}, {"license_version": None}, {"mature": True},
        {"filetype": "svg"}, {"filetype": "gif"}, {"width": None}, {"height": None}, {"width": 0}, {"width": -5},
        {"width": 100}, {"width": 8000, "height": 900}, {"width": 9000, "height": 9000}, {"width": "wide"},
        {"id": "../../etc"}, {"id": "https://evil.test/"}, {"id": None}, {"title": 7}, {"creator": {"$": 1}},
        {"title": "a" * 6000},
    ],
)  # fmt: skip
def test_an_openverse_picture_that_cannot_be_used_is_left_out(web, changes):
    says(web, openverse_answer(openverse_result(**changes), openverse_result(id=STREET)))
    assert [found.thumbnail for found in openverse(web).search("dog", 12)] == [
        f"https://{OPENVERSE}/v1/images/{STREET}/thumb/"
    ]


def test_no_address_of_an_openverse_answer_is_used(web):
    evil = {
        name: "https://evil.test/" for name in ("url", "thumbnail", "detail_url", "foreign_landing_url", "license_url")
    }
    says(web, openverse_answer(openverse_result(**evil)))
    [found] = openverse(web).search("dog", 12)
    assert "evil" not in f"{found.thumbnail} {found.full} {found.credit}"


def test_no_more_than_asked_come_back(web):
    says(web, openverse_answer(*[openverse_result()] * 20))
    assert len(openverse(web).search("dog", 12)) == 12


# Wikimedia Commons


def test_commons_is_asked_for_files_with_their_licence(web):
    says(web, NO_HITS)
    assert commons(web).search("dog street", 12) == ()
    host, path, parameters = asked(web)
    assert (host, path) == (COMMONS, "/w/api.php")
    assert parameters == {
        "action": "query",
        "format": "json",
        "formatversion": "2",
        "generator": "search",
        "gsrsearch": "dog street filetype:bitmap",
        "gsrnamespace": "6",
        "gsrlimit": "40",
        "prop": "imageinfo",
        "iiprop": "url|size|mime|extmetadata",
        "iiurlwidth": "330",
        "iiextmetadatafilter": "Artist|ObjectName|LicenseShortName|NonFree|Restrictions",
        "iiextmetadatalanguage": "en",
    }


def test_a_commons_picture_names_its_author_without_markup(web):
    says(web, commons_answer(commons_page()))
    [found] = commons(web).search("dog", 12)
    assert found.credit.model_dump() == {
        "title": "Dog in Lisbon",
        "author": "Rui Example",
        "licence": "CC BY-SA 4.0",
        "licence_url": "https://creativecommons.org/licenses/by-sa/4.0/",
        "page_url": "https://commons.wikimedia.org/wiki/File:Dog_in_Lisbon.jpg",
        "source": "Wikimedia Commons",
    }
    assert (found.width, found.height) == (3000, 2000)
    assert found.full == "https://upload.wikimedia.org/wikipedia/commons/8/8e/Dog_in_Lisbon.jpg"
    assert found.thumbnail.startswith("https://thumb.wikimedia.org/")


def test_commons_pictures_come_by_rank_though_pages_come_by_id(web):
    says(web, commons_answer(*(commons_page(index, meta={"ObjectName": str(index)}) for index in (3, 1, 2))))
    assert [found.title for found in commons(web).search("dog", 12)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("meta", "info"),
    [
        ({"LicenseShortName": "CC BY-NC-SA 4.0"}, {}),
        ({"LicenseShortName": "GFDL"}, {}),
        ({"LicenseShortName": None}, {}),
        ({"LicenseShortName": {"en": "CC0"}}, {}),
        ({"NonFree": "true"}, {}),
        ({"Restrictions": "personality"}, {}),
        ({"Restrictions": "trademarked|insignia"}, {}),
        ({}, {"mime": "image/tiff"}),
        ({}, {"mime": "image/svg+xml"}),
        ({}, {"mime": "image/gif"}),
        ({}, {"size": 25_000_001}),
        ({}, {"width": 200}),
        ({}, {"width": 20000, "height": 10000}),
        ({}, {"url": "http://upload.wikimedia.org/a.jpg"}),
        ({}, {"url": "file:///etc/passwd"}),
        ({}, {"thumburl": "https://upload.wikimedia.org/a\r\nb"}),
        ({}, {"thumburl": None}),
        ({}, {"extmetadata": []}),
    ],
)
def test_a_commons_picture_that_cannot_be_used_is_left_out(web, meta, info):
    says(web, commons_answer(commons_page(1, meta=meta, **info), commons_page(2, meta={"ObjectName": "kept"})))
    assert [found.title for found in commons(web).search("dog", 12)] == ["kept"]


def test_a_file_of_a_foreign_host_is_found_but_never_fetched(web):
    """An answer may name any https address; the fetcher opens Wikimedia's own."""
    evil = "https://169.254.169.254/latest/meta-data/"
    says(web, commons_answer(commons_page(url=evil, thumburl=evil, descriptionurl="https://evil.test/wiki/File:A")))
    source = commons(web)
    [found] = source.search("dog", 12)
    assert found.credit.page_url is None
    web.connected.clear()
    for address in (found.full, found.thumbnail):
        with pytest.raises(BackendUnavailable):
            source.read(address, 1000)
    assert web.connected == []


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("Rui", "Rui"),
        ("<a href='x'>Rui</a> &amp; <i>Ann</i>", "Rui & Ann"),
        ("Unknown<span style='display: none;'>Unknown</span> author", "Unknown author"),
        ("<script>alert(1)</script>Rui<style>p{}</style>", "Rui"),
        ("<div style='DISPLAY:NONE'><p>a<br>b</div>Rui", "Rui"),
        ("a<br/>b<p>c</p>", "a bc"),
        ("&lt;img src=x onerror=alert(1)&gt;", "<img src=x onerror=alert(1)>"),
        ("<img src=x onerror=alert(1)>Rui", "Rui"),
        ("<b>Rui", "Rui"),
        ("</b></b>Rui<", "Rui<"),
        ("<!-- comment -->Rui\u202e\x00\n\t Example", "Rui Example"),
        ("a" * 9000, "a" * 300),
        ("<b>" * 1000 + "Rui", "Rui"),
        ("", ""),
    ],
)
def test_markup_becomes_the_text_that_a_reader_sees(markup, text):
    assert plain_html(markup) == text


# Answers that are no answers


def both(value: str) -> bytes:
    """`value` where Openverse has its results, and where Commons has its pages."""
    return f'{{"results": {value}, "query": {{"pages": {value}}}}}'.encode("latin-1")


NONSENSE = [
    b"",
    b"null",
    b"[]",
    b"7",
    b"<!doctype html><html>sign in</html>",
    b"\x89PNG\r\n\x1a\n",
    b"[" * 100_000,
    both("7"),
    both("null"),
    both('{"0": {}}'),
    both("[" + ",".join(["1"] * 50) + "]"),
    both('{"a":' * 5000 + "1" + "}" * 5000),
    both('["\xff"]'),
    both("[" + " " * 1_500_000 + "]"),
    both("[1,"),
]


@pytest.mark.parametrize("data", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize("source", [openverse, commons])
def test_an_answer_that_is_no_answer_is_an_error(web, source, data):
    says(web, data)
    with pytest.raises(BackendUnavailable):
        source(web).search("dog", 12)


def test_an_error_of_commons_is_an_error(web):
    says(web, COMMONS_ERROR)
    with pytest.raises(BackendUnavailable, match="refused the search"):
        commons(web).search("dog", 12)


def mutated(data: object, rng: random.Random) -> object:
    """`data` with one value, anywhere, replaced by something else."""
    odd = [
        None,
        "",
        "x" * 7000,
        -1,
        1e308,
        10**40,
        True,
        [],
        {},
        [[]],
        {"value": None},
        "\ud800",
        "javascript:alert(1)",
    ]
    data = copy.deepcopy(data)
    place, key = data, None
    while True:
        inner = place if key is None else place[key]
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
        if not keys or (key is not None and rng.random() < 0.15):
            break
        place, key = inner, rng.choice(keys)
    if key is not None:
        place[key] = rng.choice(odd)
    return data


@pytest.mark.parametrize("source", ["openverse", "commons"])
def test_whatever_a_field_holds_what_is_found_is_whole(web, source):
    rng = random.Random(5)
    plausible = {
        "openverse": openverse_answer(openverse_result(), openverse_result(id=STREET)),
        "commons": commons_answer(commons_page(1), commons_page(2)),
    }[source]
    searcher = {"openverse": openverse, "commons": commons}[source](web)
    kept = 0
    for _ in range(150):
        says(web, mutated(mutated(plausible, rng), rng))
        try:
            found = searcher.search("dog", 12)
        except BackendUnavailable:
            continue
        for one in found:
            kept += 1
            assert one.credit.licence.startswith(("CC", "Public"))
            assert is_usable(one.width, one.height)
            assert plain(one.title) == one.title and plain(one.credit.author) == one.credit.author
            one.credit.model_dump_json()
    assert kept > 50


# Folders


@pytest.fixture
def folder(tmp_path):
    """Three pictures: one credited in credits.yaml, one beside itself, one by nobody."""
    for name in ("harbour_at_dawn.jpg", "dog.png", "plain.webp"):
        Image.effect_noise((400, 320), 40).convert("RGB").save(tmp_path / name)
    (tmp_path / "credits.yaml").write_text(
        "dog.png:\n  title: A dog\n  author: Ann\n  licence: CC0 1.0\n  keywords: street, sitting\n"
    )
    (tmp_path / "harbour_at_dawn.json").write_text('{"author": "Ben", "licence": "CC BY 4.0"}')
    return tmp_path


def of_folder(folder) -> FolderSource:
    return FolderSource(folder, name="mine", title="Mine")


def test_a_folder_is_searched_by_what_is_said_of_its_pictures(folder):
    source = of_folder(folder)
    assert [found.title for found in source.search("street dog", 9)] == ["A dog"]
    assert [found.title for found in source.search("dog harb", 9)] == ["A dog", "harbour at dawn"]
    assert [found.credit.licence for found in source.search("plain", 9)] == [NOT_STATED]
    assert [found.credit.author for found in source.search("dawn", 9)] == ["Ben"]
    assert source.search("submarine", 9) == ()
    [found] = source.search("dog", 1)
    assert source.read(found.full, 1000) == (folder / "dog.png").read_bytes()


def test_a_folder_reads_no_file_outside_of_itself(folder):
    (folder.parent / "secret.txt").write_text("secret")
    for address in ("../secret.txt", str(folder.parent / "secret.txt"), "..", "", "missing.png"):
        with pytest.raises(BackendUnavailable):
            of_folder(folder).read(address, 1000)


def test_files_of_a_folder_that_are_no_pictures_are_left_out(folder):
    (folder / "dog2.png").write_bytes(b"<svg/>")
    (folder / "dog3.svg").write_text("<svg/>")
    (folder / "dog4.jpg").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "dog5.png")
    (folder / "harbour_at_dawn.json").write_text("[" * 9000)
    assert [found.full for found in of_folder(folder).search("dog harbour", 9)] == ["dog.png", "harbour_at_dawn.jpg"]


def test_a_mistake_in_the_credits_is_told_when_the_studio_starts(folder):
    (folder / "credits.yaml").write_text("dog.png: {auhtor: Ann}")
    with pytest.raises(ConfigError, match="auhtor"):
        of_folder(folder)


# Configuration


def test_sources_come_in_the_order_that_the_operator_names_them(folder):
    config = Config(pictures=f" commons, openverse,examples ,{folder}, commons")
    assert [source.title for source in sources_of(config)] == [
        "Wikimedia Commons",
        "Openverse",
        "Examples",
        folder.name,
    ]
    assert sources_of(Config()) == ()


@pytest.mark.parametrize(
    "pictures", ["openvers", "https://evil.test/pictures", "./no-such-folder", "google", "~nosuchuser/x"]
)
def test_an_unknown_source_is_named_when_the_studio_starts(pictures):
    with pytest.raises(ConfigError) as refusal:
        sources_of(Config(pictures=pictures))
    if pictures == "openvers":
        assert "Did you mean “openverse”?" in refusal.value.hint


def test_the_examples_that_ship_are_credited_and_found():
    source = FolderSource(ASSETS / "examples", name="examples", title="Examples")
    credited = source.credits()
    assert set(credited) == {path.name for path in source.files()} and len(credited) >= 5
    for path in source.files():
        [found, *_] = source.search(path.stem, 20)
        assert found.full == path.name and found.credit.licence != NOT_STATED
    assert [found.full for found in source.search(words_of("dog, street"), 1)] == ["street.jpg"]


def test_sources_take_turns():
    def of(source: str, count: int) -> tuple[Found, ...]:
        return tuple(Found(source, f"{source}{n}", 400, 400, None, "", "") for n in range(count))

    assert [found.title for found in in_turn([of("a", 3), (), of("b", 1)])] == ["a0", "b0", "a1", "a2"]
