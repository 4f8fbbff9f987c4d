"""A scripted backend whose pace and failures the test steers through a file, from outside the worker process."""

import json
import os
import time
from pathlib import Path

import numpy as np

from engine.backends import fingerprint
from engine.backends.base import BackendInfo, ClipResult, Notice
from engine.config import RANDOM_WEIGHTS
from engine.errors import GenerationError
from engine.tiers import GB, Machine
from tests.fakes import ScriptedBackend

CONTROL = "SVI_TEST_CONTROL"


def controls() -> dict:
    try:
        return json.loads(Path(os.environ[CONTROL]).read_text())
    except (OSError, ValueError):
        return {}


def before_step(request, step: int) -> None:
    """Take `step_s` seconds, wait while `hold` names this clip (from its second step), fail where `fail` says."""
    told = controls()
    time.sleep(told.get("step_s", 0.02))
    if step == 2 and request.index in told.get("fail", []):
        raise GenerationError("The model gave an empty picture.", "Earlier clips are safe. Try again.")
    while step >= 2 and request.index in controls().get("hold", []):
        time.sleep(0.05)


class Told(ScriptedBackend):
    """Adds noise to the clips that `grainy` names, and a notice before those that `lowered` names."""

    def generate(self, request):
        if request.index in controls().get("lowered", []):
            yield Notice("Not enough GPU memory: going on with a tiled VAE.")
        for item in super().generate(request):
            if isinstance(item, ClipResult) and request.index in controls().get("grainy", []):
                noise = np.random.default_rng(request.index).normal(0, 25, item.frames.shape[1:3])[..., None]
                item = ClipResult((item.frames + noise).clip(0, 255).astype(np.uint8), item.timings)
            yield item


def open_backend(preset) -> ScriptedBackend:
    fingerprint(preset, next(iter(preset.variants)))  # raises where weights are missing, as loading would
    backend = Told(before_step=before_step)
    if preset.random_weights:
        backend.info = BackendInfo(f"scripted, {RANDOM_WEIGHTS}", "none", "scripted")
    return backend


def machine_here() -> Machine:
    """A computer without a GPU, or what `machine` says of it."""
    return Machine(**({"name": "this CPU", "kind": "cpu", "free_ram": 16 * GB} | controls().get("machine", {})))
