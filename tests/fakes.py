"""The one test double: a backend without a model. It passes the backend contract suite."""

import hashlib
import threading
from collections.abc import Callable, Iterator

import numpy as np

from engine.backends.base import BackendInfo, ClipResult, Interrupted, StepDone
from engine.domain import ClipRequest


class ScriptedBackend:
    """Fades from the last condition frame to a colour drawn from the request, and is as deterministic as a real one.

    before_step: called with (request, step) before each step; may wait on an Event or raise, to script a failure.
    """

    def __init__(self, *, before_step: Callable[[ClipRequest, int], None] | None = None, step_s: float = 0.0) -> None:
        self.info = BackendInfo("scripted", "none", "scripted")
        self.before_step = before_step or (lambda request, step: None)
        self.step_s = step_s
        self.generated: list[str] = []
        self.closed = False
        self._pause = threading.Event()

    def generate(self, request: ClipRequest) -> Iterator[StepDone | ClipResult]:
        self._pause.clear()
        start = request.condition_frames[-1].astype(np.float32)
        target = scripted_target(request)
        for step in range(1, request.num_inference_steps + 1):
            self.before_step(request, step)
            if self._pause.wait(self.step_s):
                raise Interrupted
            share = step / request.num_inference_steps
            preview = (start * (1 - share) + target * share).astype(np.uint8)[::4, ::4]
            yield StepDone(step, request.num_inference_steps, preview[None])
        shares = np.linspace(0, 1, request.num_frames - len(request.condition_frames) + 1)[1:]
        moving = start[None] * (1 - shares)[:, None, None, None] + target * shares[:, None, None, None]
        frames = np.concatenate([request.condition_frames, moving.round().astype(np.uint8)])
        self.generated.append(request.digest)
        yield ClipResult(frames, {"denoise": 0.0})

    def interrupt(self) -> None:
        self._pause.set()

    def close(self) -> None:
        self.closed = True


def scripted_target(request: ClipRequest) -> np.ndarray:
    """A picture that depends on the prompt and the seed: the anchor in another light."""
    tint = np.frombuffer(hashlib.sha256(f"{request.prompt}/{request.seed}".encode()).digest()[:3], np.uint8)
    return 0.5 * request.anchor[..., ::-1].astype(np.float32) + 0.5 * tint.astype(np.float32)
