"""What is happening in each project at this moment: a revision, recent events, the step of the clip being made.

All in memory: the project folder and the job journal hold what must survive. Knows nothing about pages or processes.
"""

import json
import logging
import statistics
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.domain import Project, Resolution
from engine.errors import StudioError
from engine.events import ClipNotice, ClipStarted, ClipStep, Event, TakeCommitted
from engine.project.files import write_atomically

log = logging.getLogger(__name__)
RECENT_EVENTS = 200
REVS_PER_START = 10**9  # a start of the studio has its own range, so revisions grow across restarts without a clock
MEASURED = 5
KEPT_NOTICES = 20


@dataclass(frozen=True)
class Live:
    """The clip being made. `began` and `step_began` are monotonic seconds."""

    clip_id: str
    index: int
    digest: str
    step: int = 0
    of: int = 0
    began: float = field(default_factory=time.monotonic)
    step_began: float = field(default_factory=time.monotonic)
    preview: int = 0  # number of the newest preview; 0 when there is none
    notice: str = ""  # what the backend had to change to go on


class Feed:
    """Revision, recent events, live clip, previews and announcements per project. Safe to call from any thread."""

    def __init__(self, start: int = 1) -> None:
        self._lock = threading.Lock()
        self._first = start * REVS_PER_START
        self._rev: dict[str, int] = {}
        self._events: dict[str, deque[tuple[int, Event]]] = defaultdict(lambda: deque(maxlen=RECENT_EVENTS))
        self._live: dict[str, Live] = {}
        self._previews: dict[str, tuple[int, bytes]] = {}
        self._announced: dict[str, str] = {}
        self._notices: dict[str, tuple[ClipNotice, ...]] = {}
        self._served: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._counter = 0
        self._generation = start * 10**6  # where a project starts

    def rev(self, project_id: str) -> int:
        with self._lock:
            return self._rev.get(project_id, self._first)

    def bump(self, project_id: str) -> int:
        """Say that something about the project changed."""
        with self._lock:
            return self._bump(project_id)

    def bump_all(self) -> None:
        """Say that something about every project changed, for example that the model is there."""
        with self._lock:
            self._first += 1
            for project_id in self._rev:
                self._bump(project_id)

    def _bump(self, project_id: str) -> int:
        rev = self._rev[project_id] = self._rev.get(project_id, self._first) + 1
        return rev

    def since(self, project_id: str, rev: int) -> list[tuple[int, Event]]:
        """Events after `rev`, oldest first; at most the last few hundred are kept."""
        with self._lock:
            return [entry for entry in self._events.get(project_id, ()) if entry[0] > rev]

    def publish(self, project_id: str, event: Event, preview: bytes | None = None) -> int:
        """Record `event` (its preview as WebP) and what it says about the clip being made."""
        with self._lock:
            now = time.monotonic()
            match event:
                case ClipStarted():
                    self._live[project_id] = Live(event.clip_id, event.index, event.digest)
                case ClipStep():
                    live = self._live.get(project_id)
                    if live is None or live.clip_id != event.clip_id:
                        live = Live(event.clip_id, event.index, "")
                    number = live.preview
                    if preview:
                        self._counter += 1
                        number = self._counter
                        self._previews[project_id] = (number, preview)
                    self._live[project_id] = replace(live, step=event.step, of=event.of, step_began=now, preview=number)
                case ClipNotice():
                    live = self._live.get(project_id) or Live(event.clip_id, event.index, "")
                    self._live[project_id] = replace(live, notice=event.text, step_began=now)
                    self._notices[project_id] = (*self._notices.get(project_id, ()), event)[-KEPT_NOTICES:]
                    self._announced[project_id] = f"Clip {event.index + 1}: {event.text}"
                case TakeCommitted():
                    self._live.pop(project_id, None)
                    self._announced[project_id] = f"Clip {event.index + 1} is done."
            rev = self._bump(project_id)
            self._events[project_id].append(
                (rev, replace(event, preview=None) if isinstance(event, ClipStep) else event)
            )
            return rev

    def announce(self, project_id: str, text: str) -> int:
        with self._lock:
            self._announced[project_id] = text
            return self._bump(project_id)

    def announced(self, project_id: str) -> str:
        with self._lock:
            return self._announced.get(project_id, "")

    def notices(self, project_id: str) -> tuple[ClipNotice, ...]:
        """What backends had to change for this film since the studio started, oldest first."""
        with self._lock:
            return self._notices.get(project_id, ())

    def live(self, project_id: str) -> Live | None:
        with self._lock:
            return self._live.get(project_id)

    def settle(self, project_id: str) -> None:
        """No clip is being made any more."""
        with self._lock:
            self._live.pop(project_id, None)
            self._previews.pop(project_id, None)
            self._bump(project_id)

    def preview(self, project_id: str, number: int) -> bytes | None:
        with self._lock:
            known, data = self._previews.get(project_id, (0, b""))
            return data if known == number else None

    def generation(self, project_id: str, digests: tuple[str, ...]) -> int:
        """A number that changes only when segments already served change, shift or go; not when some are appended."""
        with self._lock:
            number, before = self._served.get(project_id, (self._generation, ()))
            if digests[: len(before)] != before:
                number += 1
            self._served[project_id] = (number, digests)
            return number

    def forget(self, project_id: str) -> None:
        """Drop everything about the project; should it be asked for again, its numbers go on growing."""
        with self._lock:
            self._first = max(self._first, self._rev.get(project_id, 0) + 1)
            self._generation = max(self._generation, self._served.get(project_id, (0, ()))[0] + 1)
            of_the_moment = (self._live, self._previews, self._announced, self._notices)
            for table in (self._rev, self._events, self._served, *of_the_moment):
                table.pop(project_id, None)


@dataclass(frozen=True)
class Pace:
    """Medians of recent measurements in seconds; None when there are none. `finish_s` is decoding and encoding."""

    step_s: float | None = None
    finish_s: float | None = None

    def clip_s(self, steps: int) -> float | None:
        return None if self.step_s is None else steps * self.step_s + (self.finish_s or 0.0)


class Paces:
    """Step times per (preset, size, steps, draft or not) on this machine, kept in one small file across runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._measured: dict[str, dict[str, list[float]]] = {}
        self._loads: dict[str, float] = {}
        try:
            data = json.loads(path.read_text())
            self._loads = {str(preset): float(seconds) for preset, seconds in data.get("loads", {}).items()}
            for key, kinds in data.get("clips", {}).items():
                self._measured[str(key)] = {
                    kind: [float(s) for s in kinds.get(kind, [])][-MEASURED:] for kind in ("step", "finish")
                }
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError, TypeError):
            log.warning("%s is unreadable: measuring anew", path.name)

    def of(self, project: Project, *, draft_steps: int | None = None) -> Pace:
        """Of the project's full quality, or of its drafts, which take `draft_steps`."""
        steps = draft_steps or project.num_inference_steps
        return self.at(project.preset, project.resolution, steps, draft=draft_steps is not None)

    def at(self, preset: str, resolution: Resolution, steps: int, *, draft: bool = False) -> Pace:
        with self._lock:
            kinds = self._measured.get(_key(preset, resolution, steps, draft), {})
            step, finish = kinds.get("step"), kinds.get("finish")
            return Pace(statistics.median(step) if step else None, statistics.median(finish) if finish else None)

    def add(
        self,
        project: Project,
        *,
        step_s: float | None = None,
        finish_s: float | None = None,
        draft_steps: int | None = None,
    ) -> None:
        with self._lock:
            steps = draft_steps or project.num_inference_steps
            key = _key(project.preset, project.resolution, steps, draft_steps is not None)
            kinds = self._measured.setdefault(key, {"step": [], "finish": []})
            for kind, value in (("step", step_s), ("finish", finish_s)):
                if value is not None:
                    kinds[kind] = [*kinds[kind], value][-MEASURED:]

    def loaded(self, preset: str, seconds: float) -> None:
        with self._lock:
            self._loads[preset] = seconds

    def load_s(self, preset: str) -> float | None:
        """How long loading the model took last time."""
        with self._lock:
            return self._loads.get(preset)

    def save(self) -> None:
        """Keep the measurements; they are not worth an error when the disk refuses."""
        with self._lock:
            data = json.dumps({"loads": self._loads, "clips": self._measured}).encode()
        try:
            write_atomically(self._path, data, point="timings")
        except (OSError, StudioError):
            log.warning("timings could not be saved")


def _key(preset: str, resolution: Resolution, steps: int, draft: bool) -> str:
    """A draft's steps run other LoRAs and may need one pass where full quality needs two."""
    return f"{preset}|{resolution}|{steps}{'|draft' if draft else ''}"
