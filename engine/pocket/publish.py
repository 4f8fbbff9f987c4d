"""Puts a trained pocket model into the folder that is shipped, unless a better one is there already."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from engine.pocket.gates import SHIPPED_SIZE, Report, report, score
from engine.pocket.model import load_components, save_components
from engine.pocket.phrases import OFFERS


def publish_model(trained: Path, folder: Path, *, size: tuple[int, int] = SHIPPED_SIZE) -> tuple[Report, bool]:
    """Measure the model in `trained` at the shipped size and copy it to `folder` if it beats the one there.

    Returns the figures, and whether the model was copied. The vocabulary lists only actions that passed their gate.
    """
    components = load_components(trained)
    measured = report(components, size=size)
    if score(measured) <= shipped_score(folder):
        return measured, False
    save_components(components, folder)
    text = json.dumps(vocabulary(measured), indent=2, ensure_ascii=False)
    (folder / "vocabulary.json").write_text(text + "\n", encoding="utf-8")
    return measured, True


def publish_lora(trained: Path, path: Path) -> None:
    """Copy a LoRA to where it is shipped; `bench drift` is what judges it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    shutil.copyfile(trained, temporary)
    temporary.replace(path)


def shipped_score(folder: Path) -> float:
    """The score of the model in `folder`, −∞ when there is none."""
    path = folder / "vocabulary.json"
    return json.loads(path.read_text(encoding="utf-8"))["score"] if path.is_file() else float("-inf")


def vocabulary(measured: Report) -> dict:
    """What the model may be asked for: name, kind, phrases, keywords and figures of each move that passed its gate."""
    passed = set(measured.passed)
    figures = {name: asdict(one) for name, one in measured.moves.items()}
    actions = [
        asdict(offer) | {"figures": {key: round(value, 2) for key, value in figures[offer.name].items()}}
        for offer in OFFERS
        if offer.name in passed
    ]
    return {
        "actions": actions,
        "score": round(score(measured), 3),
        "size": list(measured.size),
        "num_frames": measured.num_frames,
        "num_inference_steps": measured.num_inference_steps,
    }
