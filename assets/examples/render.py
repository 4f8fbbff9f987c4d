"""Renders the example films from the painted pictures: `python assets/examples/render.py`. Replaces older ones."""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine import film
from engine.backends import open_backend
from engine.config import load_preset
from engine.events import TakeCommitted
from engine.project.store import Store

FOLDER = Path(__file__).parent
FILMS = {
    "lighthouse": (
        "An evening at the lighthouse",
        "lighthouse, evening, night",
        (
            "The camera zooms in on the lighthouse while clouds drift by.",
            "The sun sets behind the lighthouse.",
            "Night falls over the lighthouse while the camera pulls back.",
            "The sun rises over the lighthouse.",
        ),
    ),
    "lake": (
        "Weather on the lake",
        "mountain lake, ripples, fog, autumn",
        (
            "The water of the mountain lake ripples.",
            "The camera pans right over the mountain lake while fog rolls in.",
            "Autumn comes to the mountain lake and the camera pans left.",
            "The camera zooms in on the mountain lake while night falls.",
        ),
    ),
    "quay": (
        "Night in the harbour",
        "harbour, water, night, lamps",
        (
            "The water of the harbour ripples and the camera pans left.",
            "Night falls over the harbour while the lamps twinkle.",
            "The camera pans right over the harbour.",
            "Mist drifts past the harbour while the sun rises.",
        ),
    ),
    "woods": (
        "A year in the woods",
        "forest path, wind, autumn, snow",
        (
            "The trees sway in the wind.",
            "Autumn comes to the forest path and the camera tilts up.",
            "Snow falls on the forest path.",
            "The camera tilts down to the forest path while the snow stops.",
        ),
    ),
}


def without_needless_tails(store: Store) -> None:
    """Keep what a film is continued from for its last clip only: the frames are most of a take's bytes."""
    clips = film.plan(store, load_preset("pocket")).clips
    for planned in clips[:-1]:
        folder = store.take_folder(planned.digest)
        shutil.rmtree(folder / "tail")
        (folder / "tail").mkdir()
        take = planned.take.model_copy(update={"tail_frames": 0, "tail_states": 0})
        (folder / "take.json").write_text(take.model_dump_json(indent=1))


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
        without_needless_tails(store)
        for leftover in (*store.folder.glob(".*"), store.folder / "attempts.json", store.folder / "events.jsonl"):
            leftover.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
