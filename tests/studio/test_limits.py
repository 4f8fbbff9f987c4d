"""The guard in front of every route, Gradio's own included: a plain ASGI application stands in for them."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from engine.errors import InputError
from studio.limits import MAX_FILES, MAX_JSON_BYTES, MAX_PER_HOUR, MAX_UPLOAD_BYTES, Guard, Rates


async def swallow(request: Request) -> PlainTextResponse:
    try:
        return PlainTextResponse(str(len(await request.body())))
    except Exception:
        return PlainTextResponse("could not parse", 400)


@pytest.fixture
def client():
    app = Starlette(routes=[Route("/x", swallow, methods=["GET", "POST"])], middleware=[Middleware(Guard)])
    return TestClient(app, base_url="http://studio.test")


def test_a_json_body_of_one_megabyte_passes_and_a_larger_one_is_413(client):
    assert client.post("/x", content=b"x" * MAX_JSON_BYTES).text == str(MAX_JSON_BYTES)
    answer = client.post("/x", content=b"x" * (MAX_JSON_BYTES + 1))
    assert answer.status_code == 413 and "too large" in answer.json()["message"]


def test_a_body_without_a_length_is_counted_as_it_arrives(client):
    sent = []

    def chunks():
        for _ in range(200):
            sent.append(1)
            yield b"x" * 50_000

    assert client.post("/x", content=chunks()).status_code == 413


def test_a_lying_length_is_no_way_around(client):
    answer = client.post("/x", content=b"{}", headers={"content-length": "-5"})
    assert answer.status_code == 413


def test_uploads_may_be_larger_but_not_without_end(client):
    files = {"files": ("a.png", b"x" * (MAX_JSON_BYTES + 5))}
    assert client.post("/x", files=files).status_code == 200
    headers = {"content-type": "multipart/form-data; boundary=b", "content-length": str(MAX_UPLOAD_BYTES + 1)}
    assert client.post("/x", content=b"", headers=headers).status_code == 413


def test_eight_files_pass_and_nine_do_not(client):
    def send(count):
        return client.post("/x", files=[("files", (f"{n}.png", b"--data--")) for n in range(count)]).status_code

    assert (send(MAX_FILES), send(MAX_FILES + 1)) == (200, 413)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://studio.test"}, 200),
        ({"origin": "https://studio.test"}, 200),
        ({"origin": "http://evil.test"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://studio.test.evil.test"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "https://space.hf.space", "x-forwarded-host": "space.hf.space"}, 200),
    ],
)
def test_only_the_studios_own_page_may_post(client, headers, status):
    assert client.post("/x", content=b"{}", headers=headers).status_code == status
    assert client.get("/x", headers=headers).status_code == 200


def test_every_answer_has_the_security_headers(client):
    for answer in (client.get("/x"), client.get("/nothing"), client.post("/x", content=b"x" * 2_000_000)):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors" in answer.headers["content-security-policy"]


def test_uploads_an_hour_are_limited_by_client(client):
    app = Starlette(routes=[Route("/x", swallow, methods=["POST"])], middleware=[Middleware(Guard, rates=full())])
    answer = TestClient(app, base_url="http://studio.test").post("/x", files={"files": ("a.png", b"x")})
    assert answer.status_code == 429


def full() -> Rates:
    rates = Rates()
    for _ in range(MAX_PER_HOUR["upload"]):
        rates.count("upload", "testclient")
    return rates


def test_a_rate_is_counted_by_owner_and_by_kind():
    rates = Rates()
    for _ in range(MAX_PER_HOUR["draft"]):
        rates.count("draft", "a")
    with pytest.raises(InputError, match="last hour"):
        rates.count("draft", "a")
    rates.count("draft", "b")
    rates.count("upload", "a")


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [{"path": "http://169.254.169.254/latest", "meta": {"_type": "gradio.FileData"}}]}',
        b'{"data": [[{"a": {"path": " HTTPS://example.org/x.png"}}]]}',
        b'{"data": [{"path": "\\u0068ttp://example.org"}]}',
    ],
)
def test_a_file_given_as_a_web_address_is_refused_before_gradio_sees_it(body):
    app = Starlette(routes=[Route("/gradio_api/queue/join", swallow, methods=["POST"])], middleware=[Middleware(Guard)])
    client = TestClient(app, base_url="http://studio.test")
    headers = {"content-type": "application/json"}
    answer = client.post("/gradio_api/queue/join", content=body, headers=headers)
    assert answer.status_code == 400 and "does not fetch" in answer.json()["message"]
    harmless = b'{"data": [{"path": "/tmp/a.png", "url": "http://localhost/a.png"}, "see http://example.org"]}'
    answer = client.post("/gradio_api/queue/join", content=harmless, headers=headers)
    assert (answer.status_code, answer.text) == (200, str(len(harmless)))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7860", 200),
        ("localhost", 200),
        ("[::1]:7860", 200),
        ("evil.test:7860", 421),
        ("127.0.0.1.evil.test", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_a_studio_for_this_computer_answers_to_its_own_names_only(host, status):
    app = Starlette(routes=[Route("/x", swallow)], middleware=[Middleware(Guard, public=False)])
    assert TestClient(app).get("/x", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=http://10.0.0.1/", "/gradio_api/file=%68ttps://a.test", "/file/http://a", "/proxy=http://a"],
)
def test_addresses_with_which_gradio_would_fetch_are_no_pages(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and answer.json()["message"] == "There is no such page here."


def test_a_limit_is_said_in_the_plural():
    rates = Rates()
    for _ in range(MAX_PER_HOUR["copy"]):
        rates.count("copy", "a")
    with pytest.raises(InputError, match="60 copies in the last hour"):
        rates.count("copy", "a")
