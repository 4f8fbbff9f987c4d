"""P11: a long film costs per clip what a short one does."""

import gc
import os
import time

import pytest

from engine import film
from engine.events import TakeCommitted
from tests.fakes import ScriptedBackend

pytestmark = pytest.mark.reliability
CLIPS = int(os.environ.get("SOAK_CLIPS", "150"))


def resident_bytes() -> int:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_memory_files_and_planning_stay_flat(tmp_path, picture, preset):
    store = film.create(tmp_path / "long", picture, preset, prompts=[f"clip {n}" for n in range(CLIPS)])
    resident, files = {}, {}
    for event in film.render(store, ScriptedBackend(), preset, reserve_bytes=0):
        if isinstance(event, TakeCommitted) and event.index % 50 == 49:
            gc.collect()
            resident[event.index] = resident_bytes()
            files[event.index] = len(os.listdir("/proc/self/fd"))
    first, last = min(resident), max(resident)
    slope = (resident[last] - resident[first]) / (last - first)
    assert slope < 50_000, f"{slope:.0f} bytes a clip"
    assert files[last] == files[first]
    began = time.process_time()
    assert film.plan(store, preset).next is None
    spent = time.process_time() - began
    print(f"{CLIPS} clips: {slope:.0f} bytes a clip, plan {spent * 1000:.0f} ms")
