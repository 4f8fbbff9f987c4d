"""The real app in a process of its own, and Debian's Chromium in front of it.

`studio` is one app for all tests; `own_studio` starts one that a test may kill. Both are steered by `Running.tell`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.screen import Screen

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
START_S = 60
PRESET = """\
title: Scripted
description: A stand-in without a model, for tests.
family: pocket
model: weights
num_frames: 25
fps: 12
resolutions: [[192, 128], [128, 192], [160, 160]]
num_inference_steps: 4
quality: {fast: 2, balanced: 4, best: 8}
guidance_scale: 1.0
dtype: float32
"""
ACTIONS = [
    ("stay", "stay", ("{subject} stays still",), ("stay", "still")),
    ("night", "light", ("Night falls over {subject}",), ("night", "dark")),
    ("fog", "light", ("Fog rolls in over {subject}",), ("fog", "mist")),
    ("sunrise", "light", ("The sun rises over {subject}",), ("sunrise", "rises", "dawn")),
    ("winter", "light", ("Snow covers {subject}",), ("winter", "snow")),
]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser_type_launch_args():
    arguments = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    return {
        "executable_path": CHROMIUM,
        "args": [*arguments.split(), "--disable-component-update", "--disable-sync"],
    }


class Running:
    """An app on a data folder. `stop()` ends it as a user would, `kill()` as a power cut; `start()` brings it back."""

    def __init__(self, folder: Path, *, preset: str, backend: str, **variables: str) -> None:
        self.folder = folder
        self.variables = variables
        self.preset = preset
        self.backend = backend
        self.control = folder / "control.json"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def tell(self, **what) -> None:
        """Steer the backend: step_s=…, hold=[clip indices], fail=[clip indices], grainy=[clip indices]."""
        part = self.control.with_suffix(".part")
        part.write_text(json.dumps(what))
        part.replace(self.control)

    def start(self) -> "Running":
        environment = os.environ | {
            "SVI_DATA_DIR": str(self.folder / "data"),
            "SVI_PRESET": self.preset,
            "SVI_PORT": str(self.port),
            "SVI_BACKEND": self.backend,
            "SVI_TEST_CONTROL": str(self.control),
            "SVI_RESERVE_BYTES": "1000000",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "2",
            **self.variables,
        }
        with open(self.folder / "app.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.url}/gradio_api/studio/health", timeout=1).close()
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise RuntimeError(f"the app did not start:\n{(self.folder / 'app.log').read_text()[-3000:]}")

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End the app and its worker at once."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


def scripted(folder: Path) -> Running:
    (folder / "weights").mkdir()
    (folder / "weights" / "model.safetensors").write_bytes(b"stand-in")
    actions = [dict(zip(("name", "kind", "phrases", "keywords"), action, strict=True)) for action in ACTIONS]
    (folder / "weights" / "vocabulary.json").write_text(json.dumps({"actions": actions}))
    (folder / "scripted.yaml").write_text(PRESET)
    return Running(folder, preset=str(folder / "scripted.yaml"), backend="tests.browser.backend:open_backend")


@pytest.fixture(scope="session")
def shared_studio(tmp_path_factory):
    running = scripted(tmp_path_factory.mktemp("studio")).start()
    yield running
    running.stop()


@pytest.fixture
def studio(shared_studio):
    shared_studio.tell()
    yield shared_studio
    shared_studio.tell()


@pytest.fixture
def own_studio(tmp_path):
    running = scripted(tmp_path).start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A 600×400 landscape: sky, sun, hills, water."""
    y, x = np.mgrid[0:400, 0:600] / 400.0
    picture = np.stack([90 + 120 * y, 120 + 50 * y, 180 - 40 * y], -1)
    picture[((x - 1.1) ** 2 + (y - 0.32) ** 2) < 0.006] = (255, 226, 170)
    picture[y > 0.55 + 0.12 * np.sin(x * 5)] = (62, 70, 92)
    picture[y > 0.7] = (44, 76, 102)
    path = tmp_path_factory.mktemp("photo") / "harbour.jpg"
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


@pytest.fixture
def open_screen(new_context):
    """Opens tabs; each `browser=` number is a browser of its own. An error on any page fails the test."""
    contexts, screens = {}, []

    def opened(studio: Running, path: str = "/", *, browser: int = 0, **options) -> Screen:
        if browser not in contexts:
            contexts[browser] = new_context(**({"viewport": {"width": 1440, "height": 900}} | options))
        screen = Screen(contexts[browser].new_page(), studio.url)
        screens.append(screen)
        return screen.open(path)

    yield opened
    for screen in screens:
        assert not screen.errors, f"errors on the page: {screen.errors}"
        assert not screen.foreign, f"requests to other hosts: {screen.foreign}"


@pytest.fixture
def screen(studio, open_screen) -> Screen:
    return open_screen(studio)
