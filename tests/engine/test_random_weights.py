"""A film made with random weights, from the command line: it is marked wherever it is named, and never made unasked."""

import json

import av
import pytest

from app import arguments
from engine import cli, film
from engine.config import Config
from engine.project.store import Store
from tests.engine.models.tiny import PRESET


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run one command with a preset whose weights do not exist; returns (exit code, last event, stderr)."""
    (tmp_path / "tiny.yaml").write_text(PRESET)
    monkeypatch.setenv("SVI_RESERVE_BYTES", "0")

    def command(*words):
        code = cli.main([*map(str, words), "--preset", str(tmp_path / "tiny.yaml"), "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out.splitlines()[-1]), captured.err

    return command


def test_a_film_of_random_weights_is_marked_in_its_takes_and_in_the_file(run, tmp_path, picture):
    folder, file = tmp_path / "film", tmp_path / "film.mp4"
    words = ("generate", "--image", picture, "--prompt", "night", "--clips", 2, "--project", folder, "--out", file)
    code, event, _ = run(*words, "--random-weights")
    assert (code, event["event"]) == (0, "film_exported")
    backends = {take.backend for take in Store.open(folder).takes().values()}
    assert backends == {"tiny · random weights (stand-in, 2 of 40 blocks, 24 wide instead of 5120)"}
    with av.open(str(file)) as container:
        assert container.metadata["comment"] == f"{film.AI_NOTE}; model: Tiny Wan, random weights"


def test_without_the_flag_missing_weights_are_an_error(run, tmp_path, picture):
    words = ("--prompt", "night", "--project", tmp_path / "film")
    assert run("generate", "--image", picture, *words, "--random-weights")[0] == 0
    code, event, err = run("extend", *words)
    assert (code, event["kind"]) == (2, "WeightsMissing")
    assert "The weights folder model/ is missing" in err
    assert run("extend", *words, "--random-weights")[0] == 0


def test_the_studio_is_asked_by_flag_or_environment_only(monkeypatch):
    assert not Config.load(**vars(arguments([]))).random_weights
    assert Config.load(**vars(arguments(["--random-weights"]))).random_weights
    monkeypatch.setenv("SVI_RANDOM_WEIGHTS", "1")
    assert Config.load(**vars(arguments([]))).random_weights
