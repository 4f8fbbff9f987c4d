"""The moves that a preset's model has shown it can make, as measured when its weights were made.

A model that follows free text (Wan) has none: then any prompt goes.
"""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.config import Preset
from engine.errors import WeightsMismatch
from engine.pocket.reading import Reading, read


class Action(BaseModel):
    """One move: sentences that ask for it, most with a `{subject}` slot, and words for it, to choose by."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    kind: str  # stay, camera, light or living
    phrases: tuple[str, ...]
    keywords: tuple[str, ...] = ()
    figures: dict[str, float] = {}

    @property
    def title(self) -> str:
        """As people read it: “pan left”."""
        return self.name.replace("_", " ")


class Vocabulary(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    actions: tuple[Action, ...] = ()

    def of(self, name: str) -> Action | None:
        """The action called `name`."""
        return next((action for action in self.actions if action.name == name), None)

    def reading(self, prompt: str) -> Reading:
        """What `prompt` asks of the model, of the moves that it is known to make."""
        found = read(prompt)
        moves = tuple(move for move in found.moves if self.of(move.name))
        return replace(found, moves=moves, heard=found.heard if moves else ())

    def action_of(self, prompt: str) -> Action | None:
        """The first known move that `prompt` names, if any; `stay` only when nothing else is asked for."""
        moves = self.reading(prompt).moves
        return self.of(moves[0].name) if moves else None

    def listed(self) -> str:
        """All moves by kind, for a sentence: “camera: pan left, zoom in; light: night, fog”."""
        kinds = dict.fromkeys(action.kind for action in self.actions)
        names = {kind: ", ".join(action.title for action in self.actions if action.kind == kind) for kind in kinds}
        return "; ".join(text if kind == "stay" else f"{kind}: {text}" for kind, text in names.items())


@lru_cache(maxsize=8)
def _read(path: Path, mtime_ns: int) -> Vocabulary:
    try:
        return Vocabulary.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as err:
        raise WeightsMismatch(f"{path.name} beside the weights is damaged.", "Restore it from the release.") from err


def vocabulary_of(preset: Preset) -> Vocabulary | None:
    """The vocabulary of `preset`'s model, or None when it follows free text."""
    path = preset.path(preset.model) / "vocabulary.json"
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else None
