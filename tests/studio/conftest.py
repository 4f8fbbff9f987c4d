"""A studio on a temporary folder with a real worker process, and a client that speaks to its real routes."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.testclient import TestClient

import studio as studio_package
from engine import film as engine_film
from engine import storyboard
from engine.config import Config, load_preset
from engine.domain import new_id
from engine.project.store import Store
from studio import Studio
from studio.library import owner_of
from studio.routes import PREFIX
from tests.conftest import PRESET
from tests.fakes import ScriptedBackend

OWNER = "owner-of-the-tests"


def opened(folder: Path, backend: str, *, data: str = "data", **settings: Any) -> Studio:
    """A studio on `folder`, with the preset of the tests and a scripted backend; not started."""
    config = Config(data_dir=folder / data, preset=str(folder / "tiny.yaml"), reserve_bytes=0, **settings)
    return studio_package.open_studio(config, backend=f"tests.studio.backends:{backend}", examples=folder / "examples")


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """An empty project, made once: importing its picture takes a process."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "weights").mkdir()
    (folder / "tiny.yaml").write_text(PRESET)
    Image.effect_mandelbrot((96, 72), (-2, -1.5, 1, 1.5), 30).convert("RGB").save(folder / "picture.png")
    engine_film.create(
        folder / "project",
        folder / "picture.png",
        load_preset(str(folder / "tiny.yaml")),
        idea="a hill, night",
        title="A hill",
    )
    return folder / "project"


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Studio]:
    """A studio with a slow backend, for the tests that leave its worker alone."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "weights").mkdir()
    (folder / "weights" / "model.safetensors").write_bytes(b"stand-in")
    (folder / "tiny.yaml").write_text(PRESET)
    studio = opened(folder, "slow")
    studio.start()
    yield studio
    studio.close()


@pytest.fixture
def open_studio(tmp_path, preset) -> Iterator[Callable[..., Studio]]:
    """A function that opens a studio on the test's data folder; all of them are closed at the end."""
    made: list[Studio] = []

    def make(backend: str = "fast", *, start: bool = True, beat_s: float | None = None, **settings: Any) -> Studio:
        studio = opened(tmp_path, backend, **settings)
        made.append(studio)
        if beat_s:
            studio.queue._options = replace(studio.queue._options, beat_s=beat_s)
        if start:
            studio.start()
        return studio

    yield make
    for studio in made:
        studio.close()


@pytest.fixture
def quiet(open_studio) -> Studio:
    """A studio without a worker: for edits, views and refusals."""
    return open_studio(start=False)


def client_of(studio: Studio) -> TestClient:
    """Talks to the routes as they are mounted beside Gradio, behind the guard."""
    guard, options = studio.middleware
    app = Starlette(routes=[Mount(PREFIX, studio.routes)], middleware=[Middleware(guard, **options)])
    return TestClient(app, base_url="http://127.0.0.1:7860")


class Film:
    """A project as a browser sees it."""

    def __init__(self, studio: Studio, client: TestClient, project_id: str, token: str) -> None:
        self.studio, self.client, self.id, self.token = studio, client, project_id, token

    def get(self, path: str, **params: Any):
        return self.client.get(f"{PREFIX}/p/{self.id}/{path}", headers={"X-Studio-Token": self.token}, params=params)

    def state(self) -> dict[str, Any]:
        answer = self.get("state")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def act(self, action: str, **details: Any):
        return self.client.post(
            f"{PREFIX}/p/{self.id}/act", headers={"X-Studio-Token": self.token}, json={"action": action, **details}
        )

    def do(self, action: str, **details: Any) -> dict[str, Any]:
        """Act, which must succeed; the new state."""
        answer = self.act(action, **details)
        assert answer.status_code == 200, answer.text
        return self.state()

    def until(self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float = 15.0) -> dict[str, Any]:
        """The first state for which `wanted` holds."""
        deadline = time.monotonic() + timeout_s
        while not wanted(state := self.state()):
            assert time.monotonic() < deadline, f"{state['phase']}: {state['message']}"
            time.sleep(0.02)
        return state

    def until_phase(self, phase: str, timeout_s: float = 15.0) -> dict[str, Any]:
        return self.until(lambda state: state["phase"] == phase, timeout_s)


def upload(studio: Studio, picture: Path) -> Path:
    """`picture` where Gradio would have put it."""
    folder = studio.uploads / "0123456789abcdef"
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(picture, folder))


@pytest.fixture
def new_film(template) -> Callable[..., Film]:
    """A function that gives a film with clips called “prompt 1” … to an owner of its own."""

    def make(studio: Studio, *, clips: int = 0, owner: str = "", client: TestClient | None = None) -> Film:
        project_id = studio.actions.library.copy(owner_of(owner or new_id()), template)
        film = Film(studio, client or client_of(studio), project_id, studio.tokens.give(project_id, "edit"))
        if clips:
            prompts = [f"prompt {number}" for number in range(1, clips + 1)]
            studio.actions.library.store(project_id).edit(lambda project: storyboard.append(project, prompts))
        return film

    return make


def finish(film: Film) -> None:
    """Make and export the film here, without a worker: quicker, for tests about something else."""
    studio = film.studio
    store = Store(studio.data / "films" / film.id)
    for _ in engine_film.render(store, ScriptedBackend(), studio.preset, reserve_bytes=0):
        pass
    engine_film.export(store, studio.preset)
