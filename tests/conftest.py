"""Fixtures shared by all tests: a picture, a preset whose weights are a stand-in file, and a project."""

import logging
import os
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("OMP_NUM_THREADS", "2")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job: Ctrl-C could not be tested
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from PIL import Image

from engine import film
from engine.config import load_preset

OLD_PROJECT = Path(__file__).parent / "data" / "old-project"  # made by an earlier studio; its stills are reduced
PRESET = """\
title: Tiny
family: pocket
model: weights
num_frames: 9
fps: 8
resolutions: [[64, 48], [48, 64], [64, 64]]
num_inference_steps: 2
guidance_scale: 1.0
dtype: float32
"""


@pytest.fixture(autouse=True)
def quiet_log(caplog, request):
    """An error in the log fails the test unless it is marked as expected."""
    yield
    if "expects_errors" in request.keywords:
        return
    errors = [
        r.getMessage()
        for r in caplog.get_records("call")
        if r.levelno >= logging.ERROR and r.name.startswith(("engine", "studio"))
    ]
    assert not errors, f"errors were logged: {errors}"


@pytest.fixture
def preset(tmp_path):
    """A preset of 9-frame clips at 64×48; its weights are a file that only the fingerprint reads."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"stand-in")
    (tmp_path / "tiny.yaml").write_text(PRESET)
    return load_preset(str(tmp_path / "tiny.yaml"))


@pytest.fixture
def picture(tmp_path):
    """A 96×72 photo-like PNG: a sky, a hill and some texture."""
    y, x = np.mgrid[0:72, 0:96] / 72.0
    sky = np.stack([120 + 60 * y, 150 + 40 * y, 220 - 60 * y], -1)
    hill = (y > 0.55 + 0.1 * np.sin(x * 6))[..., None] * np.array([-60, 10, -140])
    noise = np.random.default_rng(0).normal(0, 6, (72, 96, 3))
    path = tmp_path / "picture.png"
    Image.fromarray((sky + hill + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def store(tmp_path, picture, preset):
    """A project of three clips."""
    prompts = ["night falls over the hill", "fog rolls in", "the sun rises"]
    return film.create(tmp_path / "project", picture, preset, prompts=prompts)
