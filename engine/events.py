"""What happens to a film, as frozen dataclasses: the page, the CLI and the log read the same ones."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.domain import DriftReading


@dataclass(frozen=True)
class Event:
    @property
    def name(self) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def to_json(self) -> dict[str, Any]:
        """A JSON object with an `event` key; arrays are left out."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {k: dataclasses.asdict(v) if isinstance(v, DriftReading) else v for k, v in fields.items()}
        return {"event": self.name} | {k: v for k, v in plain.items() if not isinstance(v, np.ndarray)}


@dataclass(frozen=True)
class ProjectOpened(Event):
    path: str


@dataclass(frozen=True)
class ModelLoading(Event):
    preset: str


@dataclass(frozen=True)
class ModelReady(Event):
    preset: str
    seconds: float


@dataclass(frozen=True)
class DrafterLoading(Event):
    """A language model is being loaded, by its title; what else was in memory is gone."""

    title: str


@dataclass(frozen=True)
class BeatDrafted(Event):
    """One more clip of a storyline; index counts from 0 at the first that was asked for."""

    index: int
    prompt: str
    caption: str = ""


@dataclass(frozen=True)
class DrafterChosen(Event):
    """Who writes the storylines, and why; hint: what would make a better one possible."""

    source: str
    title: str
    why: str
    hint: str = ""


@dataclass(frozen=True)
class SampleStarted(Event):
    sample: str
    index: int
    of: int


@dataclass(frozen=True)
class StorylineDrafted(Event):
    """A storyline is complete. sample: of which sample, "" for a single one; is_kept: it was there already."""

    prompts: tuple[str, ...]
    source: str = ""
    sample: str = ""
    is_kept: bool = False


@dataclass(frozen=True)
class ItemFailed(Event):
    """One picture or film of many failed; the others go on."""

    item: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class FilmStarted(Event):
    """A film of many begins or goes on: `done` of its clips are there; what follows, up to FilmEnded, is about it."""

    film: str
    index: int
    of: int
    clips: int
    done: int


@dataclass(frozen=True)
class FilmEnded(Event):
    """A film of many as it is now. seconds: its length; made_in_s: what its takes took; error: why it is not whole."""

    film: str
    index: int
    state: str
    clips_done: int
    seconds: float
    made_in_s: float
    error: str = ""


@dataclass(frozen=True)
class ClipStarted(Event):
    clip_id: str
    index: int
    digest: str
    prompt: str
    seed: int
    attempt: int


@dataclass(frozen=True)
class ClipNotice(Event):
    """What the backend had to change to go on, in words for the person who waits."""

    clip_id: str
    index: int
    text: str


@dataclass(frozen=True)
class ClipStep(Event):
    """`preview`: uint8 (n, h, w, 3), a few small frames, or None on steps that make no preview."""

    clip_id: str
    index: int
    step: int
    of: int
    seconds: float
    preview: np.ndarray | None = None


@dataclass(frozen=True)
class TakeCommitted(Event):
    clip_id: str
    index: int
    digest: str
    frames: int
    seconds: float
    drift: DriftReading | None = None


@dataclass(frozen=True)
class FilmExported(Event):
    path: str
    frames: int
    fps: int
    clips: int
    num_frames: int
    num_motion_frames: int


@dataclass(frozen=True)
class JobDone(Event):
    clips: int


@dataclass(frozen=True)
class JobCancelled(Event):
    clips: int


@dataclass(frozen=True)
class JobFailed(Event):
    message: str
    hint: str
    error_id: str = ""
    clip_id: str = ""
    kind: str = ""
