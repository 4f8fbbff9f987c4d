"""The moves that a preset's model has shown it can make, as measured when its weights were made.

A model that follows free text (Wan) has none: then any prompt goes.
"""

import json
import re
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.config import Preset
from engine.errors import WeightsMismatch


class Action(BaseModel):
    """One move: phrases with a `{subject}` slot, and the words that ask for it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    kind: str
    phrases: tuple[str, ...]
    keywords: tuple[str, ...]
    figures: dict[str, float] = {}


class Vocabulary(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    actions: tuple[Action, ...] = ()

    def action_of(self, prompt: str) -> Action | None:
        """The first known move whose word is in `prompt`, if any; `stay` only when nothing else is asked for."""
        words = re.findall(r"[a-z]+", prompt.lower())
        found = {word: action for action in self.actions for word in action.keywords}
        hits = [found[word] for word in words if word in found]
        return next((action for action in hits if action.kind != "stay"), hits[0] if hits else None)


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
