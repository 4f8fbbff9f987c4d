"""Keyword pictures through the studio's real routes, from a folder of this machine."""

import av
import pytest
from PIL import Image
from starlette.testclient import TestClient

import studio as studio_package
from engine import storyboard
from engine.config import Config
from engine.errors import ConfigError, InputError
from engine.media import image
from studio.library import owner_of
from studio.limits import MAX_PER_HOUR
from studio.routes import PREFIX
from tests.studio.conftest import OWNER, Film, client_of, finish

ADDRESS = f"{PREFIX}/pictures"


@pytest.fixture
def looking(tmp_path, preset):
    """A studio, not started, that finds pictures in a folder of two."""
    folder = tmp_path / "found"
    folder.mkdir()
    for name in ("dog.png", "harbour.jpg"):
        Image.effect_mandelbrot((400, 320), (-2, -1.5, 1, 1.5), 30).convert("RGB").save(folder / name)
    (folder / "credits.yaml").write_text(
        "dog.png: {title: A dog, author: Ann Example, licence: CC BY 4.0, keywords: street,"
        " licence_url: 'https://creativecommons.org/licenses/by/4.0/', page_url: 'https://example.org/dog'}\n"
    )
    config = Config(
        data_dir=tmp_path / "data", preset=str(tmp_path / "tiny.yaml"), reserve_bytes=0, pictures=str(folder)
    )
    studio = studio_package.open_studio(config, backend="tests.studio.backends:fast", examples=tmp_path / "examples")
    yield studio
    studio.close()


@pytest.fixture
def client(looking) -> TestClient:
    return client_of(looking)


def found(client, keywords: object = "dog, street", **more: object):
    return client.post(ADDRESS, json={"keywords": keywords, "owner": OWNER} | more)


def test_what_is_found_is_described_without_any_address_of_its_source(client, tmp_path):
    [picture] = found(client).json()["pictures"]
    assert picture == {
        "id": picture["id"],
        "title": "A dog",
        "author": "Ann Example",
        "licence": "CC BY 4.0",
        "licence_url": "https://creativecommons.org/licenses/by/4.0/",
        "page_url": "https://example.org/dog",
        "source": "found",
        "width": 400,
        "height": 320,
        "thumbnail_url": f"{ADDRESS}/{picture['id']}",
    }
    assert str(tmp_path) not in found(client).text


def test_a_thumbnail_is_a_small_jpeg_of_ours(client):
    [picture] = found(client).json()["pictures"]
    shown = client.get(picture["thumbnail_url"])
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.content.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("path", ["a" * 26, "x", "..%2f..%2fsecret.key", "https:%2f%2fevil.test"])
def test_another_id_is_no_picture(client, path):
    answer = client.get(f"{ADDRESS}/{path}")
    assert answer.status_code in (400, 404) and answer.json()["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"owner": OWNER}, {"keywords": "", "owner": OWNER}, {"keywords": ["dog"], "owner": OWNER},
        {"keywords": "dog"}, {"keywords": "dog", "owner": 7}, {"keywords": "dog", "owner": "short"},
        {"keywords": "a" * 10_000, "owner": OWNER}, {"keywords": 7, "owner": OWNER}, ["dog"],
    ],
    ids=range(9),
)  # fmt: skip
def test_a_search_that_makes_no_sense_is_refused_in_words(client, body):
    answer = client.post(ADDRESS, json=body)
    assert answer.status_code == 400 and answer.json()["message"]


def test_a_search_from_another_site_or_by_get_is_refused(client):
    body = {"keywords": "dog", "owner": OWNER}
    assert client.post(ADDRESS, json=body, headers={"origin": "https://evil.test"}).status_code == 403
    assert client.post(ADDRESS, content="keywords=dog").status_code == 415
    assert client.get(ADDRESS, params=body).status_code == 404


def test_nothing_found_is_no_error(client):
    assert found(client, "submarine").json() == {"pictures": []}


def test_an_owner_may_search_so_often_an_hour(client):
    for _ in range(MAX_PER_HOUR["search"]):
        assert found(client).status_code == 200
    assert "picture searches" in found(client).json()["message"]
    assert found(client, owner="another-owner-here").status_code == 200


def test_a_film_is_made_from_a_found_picture_and_names_its_author(looking, client):
    [picture] = found(client).json()["pictures"]
    created = looking.actions.create(OWNER, None, keywords="dog", found_id=picture["id"])
    film = Film(looking, client, created.project_id, created.token)
    credit = film.state()["project"]["credit"]
    assert (credit["author"], credit["licence"], credit["source"]) == ("Ann Example", "CC BY 4.0", "found")
    line = "Picture: “A dog” by Ann Example, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), from found."
    assert credit["line"] == f"{line} https://example.org/dog"
    store = looking.actions.library.store(film.id)
    assert image.load(store.folder / "inputs" / "anchor.png").shape == (320, 400, 3)
    assert list(looking.uploads.iterdir()) == []

    store.edit(lambda project: storyboard.append(project, ["a dog wakes"]))
    finish(film)
    state = film.state()
    assert state["export"]["credit"] == credit["line"]
    with av.open(str(store.folder / "exports" / state["export"]["name"])) as exported:
        assert exported.metadata["copyright"] == credit["line"]


def test_a_film_from_an_upload_has_no_credit(quiet, new_film):
    assert new_film(quiet).state()["project"]["credit"] is None


def test_a_found_picture_that_is_gone_leaves_nothing_behind(looking, client, tmp_path):
    [picture] = found(client).json()["pictures"]
    (tmp_path / "found" / "dog.png").unlink()
    for found_id in (picture["id"], "a" * 26, "../x", 7):
        with pytest.raises(Exception, match=r"any more|too long ago|which picture") as refusal:
            looking.actions.create(OWNER, None, found_id=found_id)
        assert refusal.value.hint
    assert list(looking.uploads.iterdir()) == [] and looking.actions.library.count(owner_of(OWNER)) == 0


def test_switched_off_both_routes_are_no_routes(quiet):
    client = client_of(quiet)
    assert found(client).status_code == 404
    assert client.get(f"{ADDRESS}/{'a' * 26}").status_code == 404
    with pytest.raises(InputError, match="does not look for pictures"):
        quiet.actions.create(OWNER, None, found_id="a" * 26)


def test_a_source_that_does_not_exist_stops_the_start(tmp_path, preset):
    config = Config(data_dir=tmp_path / "data", preset=str(tmp_path / "tiny.yaml"), pictures="openvers")
    with pytest.raises(ConfigError, match="openvers"):
        studio_package.open_studio(config)
