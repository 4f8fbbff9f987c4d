"""Who may see what, asked of every route that the application has."""

import re

import pytest
from starlette.routing import Route

from engine.domain import new_id
from studio.routes import PREFIX
from tests.studio.conftest import client_of, finish

FLOOR = 8


def routes_of(studio) -> list[tuple[str, str]]:
    """Every (method, path) below /p/, read from the application itself."""
    found = []
    for route in studio.routes.routes:
        assert isinstance(route, Route)
        if route.path.startswith("/p/"):
            found += [(method, route.path) for method in route.methods - {"HEAD"}]
    return found


@pytest.fixture
def films(quiet, new_film):
    """Two owners' films, the first finished and exported."""
    mine = new_film(quiet, clips=1, owner="owner-number-one")
    other = new_film(quiet, clips=1, owner="owner-number-two", client=mine.client)
    finish(mine)
    return mine, other


def address(film, path: str) -> str:
    """`path` with the values that are valid for `film`."""
    state = film.state()
    digest, name = state["clips"][0]["takes"][0]["digest"], state["export"]["name"]
    values = {"id": film.id, "digest": digest, "start": "0", "number": "1", "name": name, "kind": "txt"}
    return PREFIX + re.sub(r"\{(\w+)\}", lambda match: values[match[1]], path)


def test_every_route_of_another_project_looks_like_no_project(films):
    mine, other = films
    routes = routes_of(mine.studio)
    assert len(routes) >= FLOOR
    tokens = [None, "", "e.9999999999.x", other.token, other.act("share").json()["token"]]
    for method, path in routes:
        url = address(mine, path)
        for token in tokens:
            ways = ({"headers": {"X-Studio-Token": token}}, {"params": {"token": token}}) if token else ({},)
            for way in ways:
                body = {"json": {"action": "generate"}} if method == "POST" else {}
                answer = mine.client.request(method, url, **body, **way)
                assert answer.status_code == 404, (method, path, token)
                assert mine.id not in answer.text


def test_every_media_route_opens_with_the_projects_own_view_token(films):
    mine, _ = films
    token = mine.act("share").json()["token"]
    for method, path in routes_of(mine.studio):
        if method == "GET" and "preview" not in path:
            answer = mine.client.get(address(mine, path), params={"token": token})
            assert answer.status_code == 200, path


def test_a_project_that_does_not_exist_is_404_even_with_a_genuine_token(films):
    mine, _ = films
    ghost = new_id()
    token = mine.studio.tokens.give(ghost, "edit")
    assert mine.client.get(f"{PREFIX}/p/{ghost}/state", params={"token": token}).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "export/..%2Fproject.json",
        "export/%2e%2e%2f%2e%2e%2fsecret.key",
        "export/film-../../project.json",
        "poster/..%2F..%2Fproject.json",
        "poster/" + "g" * 64,
        "segment/" + "0" * 64 + "/0",
        "segment/" + "0" * 64 + "/-1",
        "segment/" + "0" * 64 + "/٣",
        "preview/99999999999999999999",
        "preview/../../x",
        "init/" + "0" * 63,
        "nothing",
    ],
)
def test_media_is_named_by_ids_never_by_paths(films, path):
    mine, _ = films
    answer = mine.get(path)
    assert answer.status_code == 404
    assert answer.json()["message"] == "There is no such page here."


def test_actions_are_json_posts_from_the_studios_own_page(films):
    mine, _ = films
    url = f"{PREFIX}/p/{mine.id}/act"
    headers = {"X-Studio-Token": mine.token}
    post = mine.client.post
    assert mine.client.get(url, headers=headers).status_code == 404
    assert post(url, headers=headers, data={"action": "undo"}).status_code == 415
    assert post(url, headers=headers | {"Content-Type": "text/plain"}, content='{"action": "undo"}').status_code == 415
    assert post(url, headers=headers | {"Origin": "http://evil.test"}, json={"action": "undo"}).status_code == 403
    assert post(url, headers=headers | {"Content-Type": "application/json"}, content="[" * 100_000).status_code == 400
    assert post(url, headers=headers, json=["undo"]).status_code == 400
    assert post(url, headers=headers, json={"action": "insert", "prompt": "x" * 1_100_000}).status_code == 413


def test_a_bug_shows_an_id_and_the_log_has_the_traceback(films, caplog, request):
    request.node.add_marker(pytest.mark.expects_errors)
    mine, _ = films
    mine.studio.actions._commands["undo"] = lambda project_id, body: 1 / 0
    answer = mine.act("undo")
    assert answer.status_code == 500 and "division" not in answer.text
    error_id = answer.json()["id"]
    assert any(error_id in record.getMessage() and record.exc_info for record in caplog.records)


def test_nothing_logged_holds_a_token_a_prompt_or_a_path(films, caplog):
    mine, _ = films
    caplog.clear()
    caplog.set_level("DEBUG", logger="studio")
    mine.do("insert", prompt="a very private prompt")
    mine.get("poster/" + "0" * 64)
    text = " ".join(record.getMessage() for record in caplog.records if record.name.startswith(("studio", "engine")))
    assert mine.token not in text and "private prompt" not in text and str(mine.studio.data) not in text


def test_a_state_of_200_clips_is_quick_and_an_unchanged_one_quicker(films):
    import time

    mine, _ = films
    for _ in range(2):
        mine.do("extend", count=100)
    rev = mine.state()["rev"]
    began = time.perf_counter()
    for _ in range(10):
        mine.state()
    full = (time.perf_counter() - began) / 10
    began = time.perf_counter()
    for _ in range(10):
        assert mine.get("state", since=rev).status_code == 204
    unchanged = (time.perf_counter() - began) / 10
    print(f"state of 201 clips {full * 1000:.1f} ms, unchanged {unchanged * 1000:.1f} ms")
    assert full < 0.25 and unchanged < 0.05, "loose: the machine may be busy"


def test_health_needs_no_token_and_tells_nothing_about_projects(films):
    mine, other = films
    answer = client_of(mine.studio).get(f"{PREFIX}/health")
    assert answer.json()["ok"] and mine.id not in answer.text and other.id not in answer.text
