import json

import numpy as np
import pytest
from PIL import Image

from engine import backends, cli
from tests.fakes import ScriptedBackend


@pytest.fixture
def opened(monkeypatch):
    """Every backend that was opened; all are scripted ones."""
    found = []

    def open_backend(preset, **_):
        found.append(ScriptedBackend())
        return found[-1]

    monkeypatch.setattr(backends, "open_backend", open_backend)
    monkeypatch.setenv("SVI_RESERVE_BYTES", "0")
    return found


@pytest.fixture
def pictures(tmp_path):
    """A folder of two pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(("cat.png", "dog.webp")):
        noise = np.random.default_rng(number).integers(0, 255, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder


@pytest.fixture
def batch(tmp_path, preset, opened, capsys):
    """Run `batch` on a plan; returns (exit code, events or lines, stderr)."""

    def command(plan, *flags, as_json=True):
        (tmp_path / "plan.yaml").write_text(plan, encoding="utf-8")
        words = ["batch", tmp_path / "plan.yaml", "--out", tmp_path / "out", "--preset", tmp_path / "tiny.yaml", *flags]
        code = cli.main([*map(str, words), *(["--json"] if as_json else [])])
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        return code, [json.loads(line) for line in lines] if as_json else lines, captured.err

    return command
