"""Runs `python -m engine batch` with the scripted backend, and with a scripted language model: something to kill."""

import sys
import time

from engine import backends, cli, drafting
from engine.domain import Beat
from engine.story.choose import Choice
from tests.fakes import ScriptedBackend


class Model:
    """A language model that takes `beat_s` for a beat."""

    source = "qwen"

    def __init__(self, beat_s: float) -> None:
        self.beat_s = beat_s

    def beats(self, brief):
        for number in range(len(brief.so_far) + 1, len(brief.so_far) + 1 + brief.count):
            time.sleep(self.beat_s)
            yield Beat(prompt=f"beat {number} of story {brief.seed}")

    def close(self) -> None: ...


if __name__ == "__main__":
    step_s, beat_s, *arguments = sys.argv[1:]
    backends.open_backend = lambda preset, **_: ScriptedBackend(step_s=float(step_s))
    if beat_s != "templates":
        drafting.choose = lambda *_: Choice("qwen", "A model", "It was asked for.")
        drafting.open_drafter = lambda *_: Model(float(beat_s))
    sys.exit(cli.main(arguments))
