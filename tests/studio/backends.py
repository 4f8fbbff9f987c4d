"""Backends the spawned worker opens by name: `tests.studio.backends:slow` and so on."""

import os
from pathlib import Path

from engine.backends.base import BackendInfo, Interrupted, Notice
from engine.config import RANDOM_WEIGHTS, Preset
from engine.errors import OutOfMemory, WeightsMissing
from engine.tiers import GB, Machine
from tests.fakes import ScriptedBackend


def fast(preset: Preset) -> ScriptedBackend:
    return ScriptedBackend()


def slow(preset: Preset) -> ScriptedBackend:
    """A step takes 0.15 s."""
    return ScriptedBackend(step_s=0.15)


def gated(preset: Preset, first_step: int = 1) -> ScriptedBackend:
    """Steps wait until the file `gate` beside the preset exists, so that a test decides when to go on."""
    gate = preset.folder / "gate"

    def wait(request: object, step: int) -> None:
        while step >= first_step and not gate.exists() and not backend._pause.wait(0.02):
            pass

    backend = ScriptedBackend(before_step=wait)
    return backend


def held(preset: Preset) -> ScriptedBackend:
    """`gated` after the first step."""
    return gated(preset, first_step=2)


def buggy(preset: Preset) -> ScriptedBackend:
    """The second clip meets a bug, once: a file remembers it."""
    mark = Path(preset.folder / "bug-seen")

    def fail(request: object, step: int) -> None:
        if request.index == 1 and not mark.exists():
            mark.touch()
            raise RuntimeError("illegal access")

    return ScriptedBackend(before_step=fail)


def missing(preset: Preset) -> ScriptedBackend:
    """Cannot be opened until the file `weights-here` is beside the preset."""
    if not (preset.folder / "weights-here").exists():
        raise WeightsMissing("The weights of this preset are not here.", "Download them first.")
    return ScriptedBackend()


def exhausted(preset: Preset) -> ScriptedBackend:
    """Runs out of memory at its first clip, and can then not be opened again until `weights-here` exists."""
    opened, weights = preset.folder / "opened", preset.folder / "weights-here"
    if opened.exists() and not weights.exists():
        raise WeightsMissing("The weights of this preset are not here.", "Download them first.")
    opened.touch()

    def fail(request: object, step: int) -> None:
        if not weights.exists():
            raise OutOfMemory("No memory left.")

    return ScriptedBackend(before_step=fail)


def startled(preset: Preset) -> ScriptedBackend:
    """Its first step is interrupted though nobody ended the job, as when an interruption comes too late."""
    left = [None]

    def interrupt(request: object, step: int) -> None:
        if left:
            left.pop()
            raise Interrupted

    return ScriptedBackend(before_step=interrupt)


def suicidal(preset: Preset) -> ScriptedBackend:
    """Takes the process down at every clip."""
    return ScriptedBackend(before_step=lambda request, step: os._exit(9))


class Lowered(ScriptedBackend):
    """Says at its second clip that memory ran out, then waits for the file `gate` beside the preset."""

    def generate(self, request):
        if request.index == 1:
            yield Notice("Not enough GPU memory: going on with a tiled VAE.")
        yield from super().generate(request)


def lowered(preset: Preset) -> ScriptedBackend:
    gate = preset.folder / "gate"

    def wait(request: object, step: int) -> None:
        while request.index == 1 and not gate.exists() and not backend._pause.wait(0.02):
            pass

    backend = Lowered(before_step=wait)
    return backend


def noise(preset: Preset) -> ScriptedBackend:
    """Names what it makes as a model without its weights does."""
    backend = ScriptedBackend()
    backend.info = BackendInfo(f"{preset.name} · {RANDOM_WEIGHTS}", "none", "scripted")
    return backend


def machine_here() -> Machine:
    """What the worker reports in the place of this computer."""
    return Machine("a CPU for tests", "cpu", 8 * GB)
