"""The program as it is started: app.py in its own process, asked over real HTTP and with gradio_client."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

import app
from engine.config import ROOT
from engine.errors import ConfigError
from studio import without_proxy
from tests.conftest import PRESET

PREFIX = "/gradio_api/studio"


class Server:
    def __init__(self, folder: Path) -> None:
        (folder / "weights").mkdir(exist_ok=True)
        (folder / "weights" / "model.safetensors").write_bytes(b"stand-in")
        (folder / "tiny.yaml").write_text(PRESET)
        self.data = folder / "data"
        self.lines: list[str] = []
        port = app.free_port("127.0.0.1", None)
        self.url = f"http://127.0.0.1:{port}"
        flags = ("--port", str(port), "--data-dir", str(self.data), "--preset", str(folder / "tiny.yaml"))
        nowhere = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9")
        environment = os.environ | {"SVI_BACKEND": "tests.studio.backends:slow", "SVI_RESERVE_BYTES": "0"} | nowhere
        environment |= {"NO_PROXY": "example.org", "no_proxy": "example.org"}
        self.process = subprocess.Popen(
            [sys.executable, "app.py", *flags],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._up = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("Studio: "):
                self._up.set()
        self._up.set()

    def wait(self) -> "Server":
        assert self._up.wait(60) and self.process.poll() is None, "".join(self.lines)
        return self

    def log(self) -> str:
        self._reader.join(5)
        return "".join(self.lines)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("app")).wait()
    yield server
    server.process.kill()


@pytest.fixture(scope="module")
def client(server):
    from gradio_client import Client

    return Client(server.url, verbose=False)


@pytest.fixture
def project(client, picture):
    from gradio_client import handle_file

    made = client.predict(handle_file(str(picture)), "a hill, night", api_name="/create_project")
    return made["project_id"], made["token"]


def until(client, project, phase: str) -> dict:
    deadline = time.monotonic() + 20
    while (status := client.predict(*project, api_name="/status"))["phase"] != phase:
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    return status


def test_the_page_and_its_routes_answer(server):
    page = httpx.get(server.url)
    assert page.status_code == 200 and "Stable Video Infinity" in page.text
    assert page.headers["referrer-policy"] == "no-referrer"
    assert httpx.get(f"{server.url}{PREFIX}/health").json()["ok"]
    assert httpx.get(f"{server.url}{PREFIX}/nothing").status_code == 404


def test_exactly_the_documented_endpoints_are_public(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/create_project", "/draft_storyline", "/generate", "/extend", "/status", "/export"}


def test_a_film_through_the_public_api(server, client, project):
    assert len(client.predict(*project, "a hill, fog", 2, api_name="/draft_storyline")["prompts"]) == 2
    assert client.predict(*project, api_name="/generate")["job_id"]
    until(client, project, "finished")
    assert client.predict(*project, 1, api_name="/extend")["job_id"]
    assert len(until(client, project, "finished")["clips"]) == 3
    client.predict(*project, api_name="/export")
    deadline = time.monotonic() + 10
    while not ((export := client.predict(*project, api_name="/status")["export"]) and export["url"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    film = httpx.get(server.url + export["url"])
    assert film.status_code == 200 and film.content[4:8] == b"ftyp"


def test_the_api_checks_tokens_and_arguments_like_the_page(client, project):
    from gradio_client.exceptions import AppError

    project_id, token = project
    with pytest.raises(AppError, match="no such project"):
        client.predict(project_id, "v" + token[1:], api_name="/status")
    with pytest.raises(AppError, match=r"10,000 characters"):
        client.predict(*project, ["x" * 10_000], api_name="/generate")
    with pytest.raises(AppError, match="list of texts"):
        client.predict(*project, "a text", api_name="/generate")
    with pytest.raises(AppError, match="clips can be added at a time"):
        client.predict(*project, ["x"] * 1000, api_name="/generate")
    with pytest.raises(AppError, match="number of clips"):
        client.predict(*project, "", 0, api_name="/draft_storyline")


def call(server, name: str, *data: object) -> httpx.Response:
    return httpx.post(f"{server.url}/gradio_api/call/{name}", json={"data": list(data)})


def test_a_path_that_was_not_uploaded_is_no_picture(server):
    for path in ("/etc/passwd", str(server.data / "secret.key"), "http://169.254.169.254/latest"):
        picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
        answer = call(server, "create_project", picture, "", "film", "", "")
        if path.startswith("http"):
            assert answer.status_code == 400
            continue
        event = httpx.get(f"{server.url}/gradio_api/call/create_project/{answer.json()['event_id']}", timeout=20).text
        assert "event: error" in event and str(server.data) not in event
    assert (server.data / "secret.key").exists()


def test_gradios_own_endpoints_have_the_same_limits(server):
    assert call(server, "status", "x" * 1_100_000, "t").status_code == 413
    files = [("files", (f"{n}.png", b"x")) for n in range(9)]
    assert httpx.post(f"{server.url}/gradio_api/upload", files=files).status_code == 413
    evil = httpx.post(f"{server.url}/gradio_api/queue/join", json={}, headers={"Origin": "http://evil.test"})
    assert evil.status_code == 403


def test_the_data_folder_is_not_served(server, project):
    for path in ("secret.key", "jobs.json", f"films/{project[0]}/project.json", "studio.lock"):
        assert httpx.get(f"{server.url}/gradio_api/file={server.data / path}").status_code in (403, 404)


def test_sigterm_ends_the_studio_cleanly_in_the_middle_of_a_clip(server, client, project):
    """The last test of this module: it ends the server."""
    client.predict(*project, "", 5, api_name="/draft_storyline")
    client.predict(*project, api_name="/generate")
    worker = httpx.get(f"{server.url}{PREFIX}/health").json()["pid"]
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    log = server.log()
    assert project[1] not in log
    assert "Traceback" not in log.partition("Stopping:")[2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1,0.0.0.0"),
        ({"no_proxy": "mirror.corp"}, "mirror.corp,127.0.0.1,localhost,::1,0.0.0.0"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_what_somebody_else_keeps_from_the_proxy_is_kept(monkeypatch, before, after):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    without_proxy("0.0.0.0")
    assert {os.environ.get(name, "*") for name in ("NO_PROXY", "no_proxy")} == {after}


def test_others_on_the_network_are_let_in_only_on_purpose(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    with pytest.raises(ConfigError, match="--public"):
        app.configuration(app.arguments(["--host", "0.0.0.0"]))
    assert app.configuration(app.arguments(["--host", "0.0.0.0", "--public"])).public


def test_a_space_listens_where_its_proxy_looks(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/film")
    config = app.configuration(app.arguments(["--port", str(app.free_port("127.0.0.1", None))]))
    assert (config.host, config.public) == ("0.0.0.0", True)


def test_a_host_that_is_not_this_computer_is_said_in_a_sentence():
    with pytest.raises(ConfigError, match="no address called no-such-host"):
        app.free_port("no-such-host.invalid", 7860)
    with pytest.raises(ConfigError, match=r"no address 192\.0\.2\.1"):
        app.free_port("192.0.2.1", None)


def test_a_port_in_use_is_said_in_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} is in use"):
            app.configuration(app.arguments(["--port", str(port)]))
