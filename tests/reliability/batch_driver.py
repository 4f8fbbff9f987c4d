"""Runs `python -m engine batch` with the scripted backend, and with a scripted language model: something to kill."""

import sys
import time

from engine import backends, cli, drafting
from engine.domain import Beat
from engine.story.choose import Choice
from tests.fakes import ScriptedBackend
from tests.reliability.victim import Report


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


def run(report: Report, arguments: list[str], step_s: float, beat_s: float | None) -> None:
    """Run the batch; with `beat_s` its storylines are written by `Model`, else by templates."""
    backends.open_backend = lambda preset, **_: ScriptedBackend(step_s=step_s)
    if beat_s is not None:
        drafting.choose = lambda *_: Choice("qwen", "A model", "It was asked for.")
        drafting.open_drafter = lambda *_: Model(beat_s)
    sys.exit(cli.main(arguments))
