"""Renders and exports one project with the scripted backend, reporting each committed digest: something to kill."""

from pathlib import Path

from engine import film, storyboard
from engine.config import load_preset
from engine.events import TakeCommitted
from engine.project.store import Store
from tests.fakes import ScriptedBackend
from tests.reliability.victim import Report


def run(report: Report, folder: Path, preset_file: str, step_s: float = 0.0) -> None:
    preset = load_preset(preset_file)
    store = Store.open(folder)
    store.edit(lambda p: storyboard.append(p, ["the last clip"]) if len(p.clips) < 3 else p)
    for event in film.render(store, ScriptedBackend(step_s=step_s), preset, reserve_bytes=0):
        if isinstance(event, TakeCommitted):
            report(event.digest)
    film.export(store, preset, store.exports / "film.mp4")
