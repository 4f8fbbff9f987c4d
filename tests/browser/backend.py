"""A scripted backend whose pace and failures the test steers through a file, from outside the worker process."""

import json
import os
import time
from pathlib import Path

import numpy as np

from engine.backends.base import ClipResult
from engine.errors import GenerationError
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
    """Adds noise to the clips that `grainy` names."""

    def generate(self, request):
        for item in super().generate(request):
            if isinstance(item, ClipResult) and request.index in controls().get("grainy", []):
                noise = np.random.default_rng(request.index).normal(0, 25, item.frames.shape[1:3])[..., None]
                item = ClipResult((item.frames + noise).clip(0, 255).astype(np.uint8), item.timings)
            yield item


def open_backend(preset) -> ScriptedBackend:
    return Told(before_step=before_step)
