"""Renders the two example films from the painted pictures: `python assets/examples/render.py`. Replaces older ones."""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine import film
from engine.backends import open_backend
from engine.config import load_preset
from engine.events import TakeCommitted

FOLDER = Path(__file__).parent
FILMS = {
    "lighthouse": (
        "A day and a year at the lighthouse",
        "lighthouse, sunset, night, sunrise, winter",
        (
            "Sunset over the lighthouse.",
            "Night falls over the lighthouse.",
            "The sun rises over the lighthouse.",
            "A storm gathers over the lighthouse.",
            "Winter comes to the lighthouse.",
        ),
    ),
    "lake": (
        "Weather on the lake",
        "mountain lake, fog, autumn, night",
        (
            "Fog rolls in over the mountain lake.",
            "Autumn comes to the mountain lake.",
            "Evening comes and the sun sets over the mountain lake.",
            "Night falls over the mountain lake.",
        ),
    ),
}


def main() -> None:
    preset = load_preset("pocket")
    backend = open_backend(preset)
    for name, (title, idea, prompts) in FILMS.items():
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        store = film.create(
            FOLDER / name, FOLDER / f"{name}.jpg", preset, prompts=prompts, title=title, idea=idea, source="template"
        )
        for event in film.render(store, backend, preset):
            if isinstance(event, TakeCommitted):
                print(f"{name}: clip {event.index + 1} of {len(prompts)} in {event.seconds:.1f} s", flush=True)
        for leftover in (*store.folder.glob(".*"), store.folder / "attempts.json", store.folder / "events.jsonl"):
            leftover.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
