"""A preset for two GPUs in the studio's worker: real processes, the tiny model on the CPU."""

import time

import psutil
import pytest

from engine import film
from engine.config import load_preset
from engine.events import ClipStep, JobCancelled, JobDone, TakeCommitted
from studio.worker import Cancel, Options, Render, Worker
from tests.engine.models.tiny import write_tiny_wan

pytestmark = pytest.mark.slow


@pytest.fixture
def worker():
    worker = Worker(Options(threads=1))
    yield worker
    worker.kill()


def events_of(worker):
    """The events of a job as they arrive, its end included."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and worker.alive:
        if not worker.connection.poll(1):
            continue
        for answer in worker.receive():
            yield answer.event
            if isinstance(answer.event, JobDone | JobCancelled):
                return
    raise AssertionError("the job did not end")


def test_a_film_on_two_ranks_can_be_stopped_and_outlives_a_follower(worker, picture, tmp_path):
    write_tiny_wan(tmp_path)
    (tmp_path / "two.yaml").write_text((tmp_path / "tiny.yaml").read_text() + "gpus: 2\n")
    preset = load_preset(str(tmp_path / "two.yaml"))
    store = film.create(tmp_path / "film", picture, preset, prompts=["fog", "rain"], num_inference_steps=100)

    worker.send(Render("first", store.folder, preset, 1000))
    for event in events_of(worker):
        if isinstance(event, ClipStep) and event.step == 5:
            worker.send(Cancel("first"))
    assert event == JobCancelled(0)

    [follower] = psutil.Process(worker.process.pid).children()
    worker.send(Render("second", store.folder, preset, 1000))
    committed = 0
    for event in events_of(worker):
        if isinstance(event, ClipStep) and event.step == 5 and follower.is_running():
            follower.kill()
        committed += isinstance(event, TakeCommitted)
    assert event == JobDone(2) and committed == 2
    assert film.plan(store, preset).next is None

    [follower] = psutil.Process(worker.process.pid).children()
    worker.kill()
    assert not psutil.wait_procs([follower], timeout=20)[1]
