"""What every backend keeps to (engine/backends/base.py). `make` opens one; `clip_request` is a request it can serve."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from engine.backends.base import Backend, ClipResult, Interrupted, StepDone
from engine.domain import ClipRequest


def frames_of(backend: Backend, request: ClipRequest) -> np.ndarray:
    *_, result = backend.generate(request)
    return result.frames


class BackendContract:
    """Inherit, and give a `backend` fixture and a `make_request` fixture: (**changes) -> ClipRequest."""

    def test_it_yields_every_step_then_one_result(self, backend: Backend, make_request: Callable[..., ClipRequest]):
        request = make_request(num_inference_steps=3)
        *steps, result = backend.generate(request)
        assert [(step.step, step.of) for step in steps] == [(1, 3), (2, 3), (3, 3)]
        assert all(isinstance(step, StepDone) for step in steps)
        assert isinstance(result, ClipResult)

    def test_frames_are_uint8_rgb_of_the_size_asked_for(self, backend, make_request):
        request = make_request()
        frames = frames_of(backend, request)
        assert frames.dtype == np.uint8
        assert frames.shape == (request.num_frames, request.resolution.height, request.resolution.width, 3)
        assert frames.flags.c_contiguous

    def test_the_first_step_has_a_small_preview(self, backend, make_request):
        request = make_request()
        steps = backend.generate(request)
        preview = next(steps).preview
        steps.close()
        assert preview.dtype == np.uint8
        assert preview.ndim == 4 and preview.shape[-1] == 3
        assert 1 <= len(preview) <= 8
        assert max(preview.shape[1:3]) <= 256

    def test_the_same_request_gives_the_same_frames_whatever_came_before(self, backend, make_request):
        request = make_request()
        first = frames_of(backend, request)
        frames_of(backend, make_request(prompt="another one", seed=9, variant="shot"))
        assert np.array_equal(frames_of(backend, request), first)

    def test_the_seed_matters(self, backend, make_request):
        one, other = (make_request(prompt="the camera wanders around", seed=seed) for seed in (1, 2))
        assert not np.array_equal(frames_of(backend, one), frames_of(backend, other))

    def test_an_interrupt_ends_the_clip_and_leaves_the_backend_usable(self, backend, make_request):
        request = make_request()
        first = frames_of(backend, request)
        steps = backend.generate(request)
        next(steps)
        backend.interrupt()
        with pytest.raises(Interrupted):
            list(steps)
        assert np.array_equal(frames_of(backend, request), first)

    def test_closing_after_a_step_leaves_the_backend_usable(self, backend, make_request):
        request = make_request()
        first = frames_of(backend, request)
        steps = backend.generate(request)
        next(steps)
        steps.close()
        assert np.array_equal(frames_of(backend, request), first)

    def test_it_takes_one_or_five_condition_frames(self, backend, make_request):
        for count in (1, 5):
            assert len(frames_of(backend, make_request(num_condition_frames=count))) == make_request().num_frames

    def test_it_does_not_change_the_request(self, backend, make_request):
        request = make_request(num_condition_frames=5)
        anchor, condition_frames = request.anchor.copy(), request.condition_frames.copy()
        frames_of(backend, request)
        assert np.array_equal(request.anchor, anchor)
        assert np.array_equal(request.condition_frames, condition_frames)

    def test_what_it_yields_crosses_processes(self, backend, make_request):
        for item in backend.generate(make_request()):
            assert isinstance(pickle.loads(pickle.dumps(item)), type(item))

    def test_it_names_itself(self, backend):
        assert backend.info.name and backend.info.device and backend.info.fingerprint
