"""Storylines being written, at most one a project: who writes, how far it is, what went wrong.

Templates answer at once. An endpoint is listened to by a thread here; a language model of this machine is a job of the
lane, so that it never shares memory with a film model. Cards are saved one at a time as they arrive, as one edit. When
a drafter fails, nobody steps in by themselves: the creator is asked. Knows nothing about HTTP or gradio.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.config import Config, Preset
from engine.domain import LANGUAGES, Beat, Clip, Pace, Project, Source, Tone, new_id
from engine.errors import InputError, StudioError
from engine.events import BeatDrafted, DrafterLoading
from engine.story.choose import TEMPLATES, Choice, choose, offered, open_drafter
from engine.story.drafter import Brief, StorylineDrafter, draft
from engine.story.template import TemplateDrafter
from engine.storyboard import with_clips
from studio.feed import Feed
from studio.history import History
from studio.library import Library
from studio.queue import DraftListener, Job, JobQueue
from studio.view import DraftFacts, Outcome, StoryFacts
from studio.words import cards_text

log = logging.getLogger(__name__)
MAX_AT_ONCE = 4  # answers of an endpoint listened to at the same time
CHOICE_AGE_S = 10.0  # files and settings are looked at again after this long
Then = Literal["", "generate", "forever"]  # what follows a storyline that is complete
WHY_NOT = "Templates know neither tones nor languages: set up a language model to use these."


@dataclass(frozen=True)
class Problem:
    """Why a storyline stopped before its last card."""

    message: str
    hint: str = ""
    error_id: str = ""


@dataclass(frozen=True)
class Draft:
    """A storyline being written, or one that stopped.

    first: index of its first card. slots: ids of the cards that are written anew, in order; what comes after them is
    appended. edit_id: all of it is one edit. of: cards asked for; done: cards that are there.
    """

    choice: Choice
    brief: Brief
    label: str
    first: int
    slots: tuple[str, ...] = ()
    then: Then = ""
    also: Callable[[Project], Project] = field(default=lambda project: project, repr=False)
    state: Literal["waiting", "loading", "writing", "stopping", "failed"] = "waiting"
    done: int = 0
    problem: Problem | None = None
    edit_id: str = field(default_factory=new_id)

    @property
    def of(self) -> int:
        return self.brief.count

    @property
    def under_way(self) -> bool:
        return self.state != "failed"


class Drafting:
    """Writes storylines into projects. `go_on` is called when one is complete and a film is to follow."""

    def __init__(self, config: Config, library: Library, queue: JobQueue, feed: Feed, history: History) -> None:
        self._config = config
        self._library = library
        self._queue = queue
        self._feed = feed
        self._history = history
        self._lock = threading.RLock()
        self._drafts: dict[str, Draft] = {}
        self._listening: dict[str, StorylineDrafter] = {}  # to an endpoint, by edit id
        self._pool = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="drafting")
        self._choices: dict[str, tuple[float, tuple[Choice, ...]]] = {}
        self.go_on: Callable[[str, Then], None] = lambda project_id, then: None
        queue.drafting = DraftListener(self._wanted, self._happened, self._job_ended)
        choose(config, library.default, None)  # what cannot be used is said when the studio starts

    # Who writes

    def offered(self, preset: Preset) -> tuple[Choice, ...]:
        """Every drafter that can be used here, the chosen one first."""
        with self._lock:
            known = self._choices.get(preset.name)
            if known and time.monotonic() - known[0] < CHOICE_AGE_S:
                return known[1]
        try:
            choices = offered(self._config, preset, self._queue.machine)
        except StudioError as err:  # a folder that went away since the start
            choices = (replace(TEMPLATES, why=err.message, hint=err.hint),)
        with self._lock:
            self._choices[preset.name] = time.monotonic(), choices
        return choices

    def choice(self, preset: Preset, source: str = "") -> Choice:
        """The drafter called `source`, or the chosen one for ""."""
        choices = self.offered(preset)
        if not source:
            return choices[0]
        found = next((choice for choice in choices if choice.source == source), None)
        if found is None:
            raise InputError(f"There is no drafter “{source[:40]}” here.", "Use one that the page offers.")
        return found

    # What is going on

    def of(self, project_id: str) -> Draft | None:
        with self._lock:
            return self._drafts.get(project_id)

    def under_way(self, project_id: str) -> bool:
        current = self.of(project_id)
        return current is not None and current.under_way

    def refuse_while_writing(self, project_id: str) -> None:
        if self.under_way(project_id):
            raise InputError("The storyline is still being written.", "Stop drafting first; written cards are kept.")

    def facts(self, project_id: str, preset: Preset) -> StoryFacts:
        """What the page shows of all this."""
        choices = self.offered(preset)
        current = self.of(project_id)
        place = 0
        if current and current.choice.source == "qwen" and (job := self._queue.job_of(project_id, "draft")):
            place = self._queue.place(job)
        draft_facts = current and DraftFacts(
            state=current.state,
            title=current.choice.title,
            source=current.choice.source,
            done=current.done,
            of=current.of,
            first=current.first,
            place=place,
            message=current.problem.message if current.problem else "",
            hint=current.problem.hint if current.problem else "",
            error_id=current.problem.error_id if current.problem else "",
        )
        return StoryFacts(
            drafters=tuple(choice_facts(choice) for choice in choices),
            draft=draft_facts,
            can_tell=choices[0].source != "template",
            why_not="" if choices[0].source != "template" else WHY_NOT,
        )

    # Writing

    def start(self, project_id: str, wanted: Draft) -> None:
        """Write `wanted` into the project: at once with templates, else card by card while the page goes on."""
        self.refuse_while_writing(project_id)
        repeats = wanted.brief.kind != "stream" and wanted.brief.so_far  # one prompt for the film: it is there
        if wanted.choice.source == "template" or repeats:
            self._write_at_once(project_id, wanted)
            return
        if wanted.choice.source == "qwen":
            self._queue.check_room("draft", project_id, self._library.owner(project_id))
        with self._lock:
            self._drafts[project_id] = wanted
        if wanted.choice.source == "qwen":
            self._queue.enqueue("draft", project_id, self._library.owner(project_id), after_restart="wait")
        else:
            self._pool.submit(self._listen, project_id, wanted)
        self._feed.bump(project_id)

    def stop(self, project_id: str) -> None:
        """End the draft; what is written stays."""
        with self._lock:
            current = self._drafts.get(project_id)
            if current is None:
                return
            if not current.under_way:
                del self._drafts[project_id]  # its message was read
            else:
                self._drafts[project_id] = replace(current, state="stopping", then="")
            listening = self._listening.get(current.edit_id)
        if current.choice.source == "qwen":
            self._queue.end(project_id, "stop", kind="draft")
        elif listening:
            listening.interrupt()
        self._feed.bump(project_id)

    def again(self, project_id: str, source: str, *, seed: int) -> None:
        """Go on with a draft that failed where it stopped, with the same drafter or another one."""
        failed = self.of(project_id)
        if failed is None or failed.under_way:
            raise InputError("There is no storyline to go on with.", "Draft a new one.")
        if failed.done >= failed.of:  # only what was to follow did not
            self._complete(project_id, failed)
            return
        project = self._library.project(project_id)
        written = tuple(clip.prompt for clip in project.clips[failed.first : failed.first + failed.done])
        brief = replace(failed.brief, count=failed.of - failed.done, so_far=(*failed.brief.so_far, *written), seed=seed)
        rest = replace(
            failed,
            choice=self.choice(self._library.preset(project), source) if source else failed.choice,
            brief=brief,
            first=failed.first + failed.done,
            slots=failed.slots[failed.done :],
            state="waiting",
            done=0,
            problem=None,
        )
        with self._lock:
            self._drafts.pop(project_id, None)
        self.start(project_id, rest)

    def forget(self, project_id: str) -> None:
        with self._lock:
            self._drafts.pop(project_id, None)

    def close(self) -> None:
        with self._lock:
            listening = list(self._listening.values())
            self._drafts = {key: replace(one, state="stopping", then="") for key, one in self._drafts.items()}
        for drafter in listening:
            drafter.interrupt()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _write_at_once(self, project_id: str, wanted: Draft) -> None:
        beats = draft(TemplateDrafter(), wanted.brief).beats
        self._history.edit(
            project_id,
            wanted.label,
            lambda before: finished(written(before, wanted, 0, beats), wanted),
            part_of=wanted.edit_id,
        )
        with self._lock:
            self._drafts.pop(project_id, None)
        if wanted.then:
            self.go_on(project_id, wanted.then)

    def _listen(self, project_id: str, wanted: Draft) -> None:
        """Write what an endpoint answers. Runs in a thread of the pool."""
        problem: Problem | None = None
        try:
            drafter = open_drafter(wanted.choice, self._config)
            with self._lock:
                self._listening[wanted.edit_id] = drafter
            try:
                with closing(drafter.beats(wanted.brief)) as beats:
                    numbered = enumerate(beats)
                    while self._goes_on(project_id, wanted) and (drafted := next(numbered, None)):
                        self._write(project_id, *drafted)
            finally:
                with self._lock:
                    self._listening.pop(wanted.edit_id, None)
                drafter.close()
        except StudioError as err:
            problem = Problem(err.message, err.hint)
        except Exception:
            error_id = secrets.token_hex(4)
            log.exception("error %s", error_id)
            problem = Problem("Something went wrong while drafting.", "Written cards are kept. Try again.", error_id)
        self._ended(project_id, wanted.edit_id, problem)

    def _goes_on(self, project_id: str, wanted: Draft) -> bool:
        with self._lock:
            current = self._drafts.get(project_id)
            if current is None or current.edit_id != wanted.edit_id or current.state == "stopping":
                return False
            if current.state == "waiting":
                self._drafts[project_id] = replace(current, state="writing")
                self._feed.bump(project_id)
            return True

    def _write(self, project_id: str, index: int, beat: Beat) -> None:
        """Save one card. A draft that was given up meanwhile writes nothing."""
        with self._lock:
            current = self._drafts.get(project_id)
            if current is None or current.state == "stopping":
                return
        self._history.edit(
            project_id,
            current.label,
            lambda before: written(before, current, index, [beat]),
            part_of=current.edit_id,
        )
        with self._lock:
            if (now := self._drafts.get(project_id)) and now.edit_id == current.edit_id:
                self._drafts[project_id] = replace(
                    now, done=index + 1, state="stopping" if now.state == "stopping" else "writing"
                )
        self._feed.announce(project_id, f"Card {current.first + index + 1} is written.")

    def _ended(self, project_id: str, edit_id: str, problem: Problem | None) -> None:
        current = self.of(project_id)
        if current is None or current.edit_id != edit_id:
            return
        kept = cards_text(current.done)
        if current.state == "stopping":
            self._leave(project_id, f"Drafting stopped. {kept.capitalize()} kept.")
        elif problem is None and current.done >= current.of:
            self._complete(project_id, current)
        else:
            problem = problem or Problem(f"The storyline ended after {kept} of {current.of}.")
            log.warning("a storyline failed: %s %s", current.choice.source, problem.error_id)
            self._fail(project_id, current, problem)

    def _complete(self, project_id: str, current: Draft) -> None:
        try:
            self._history.edit(
                project_id, current.label, lambda before: finished(before, current), part_of=current.edit_id
            )
            self._leave(project_id, "The storyline is written.")
            if current.then:
                self.go_on(project_id, current.then)
        except StudioError as err:
            self._fail(project_id, current, Problem(err.message, err.hint))

    def _leave(self, project_id: str, announced: str) -> None:
        with self._lock:
            self._drafts.pop(project_id, None)
        self._feed.announce(project_id, announced)

    def _fail(self, project_id: str, current: Draft, problem: Problem) -> None:
        with self._lock:
            self._drafts[project_id] = replace(current, state="failed", problem=problem)
        kept = cards_text(current.done).capitalize()
        self._feed.announce(project_id, f"{problem.message} {kept} kept.")

    # The lane's drafts, told by the queue's thread

    def _wanted(self, job: Job) -> tuple[Brief, Choice]:
        current = self.of(job.project_id)
        if current is None:
            raise InputError("That draft was given up.")
        return current.brief, current.choice

    def _happened(self, job: Job, event: DrafterLoading | BeatDrafted) -> None:
        current = self.of(job.project_id)
        if current is None:
            return
        if isinstance(event, BeatDrafted):
            try:
                self._write(job.project_id, event.index, Beat(prompt=event.prompt, caption=event.caption))
            except StudioError as err:  # the disk refuses: nothing more can be written
                self._ended(job.project_id, current.edit_id, Problem(err.message, err.hint))
                self._queue.end(job.project_id, "stop", kind="draft")
            return
        with self._lock:
            if current.state == "waiting":
                self._drafts[job.project_id] = replace(current, state="loading")
        self._feed.bump(job.project_id)

    def _job_ended(self, job: Job, outcome: Outcome | None) -> None:
        current = self.of(job.project_id)
        if current is None:
            return
        failed = outcome is not None and outcome.kind not in ("stopped", "paused")
        problem = Problem(outcome.message, outcome.hint, outcome.error_id) if failed and outcome else None
        self._ended(job.project_id, current.edit_id, problem)


def written(project: Project, draft: Draft, index: int, beats: Sequence[Beat]) -> Project:
    """`project` with `beats` as the cards from `index` of the draft on: in their slots, or appended."""
    clips = list(project.clips)
    places = {clip.id: place for place, clip in enumerate(clips)}
    for number, beat in enumerate(beats, index):
        slot = draft.slots[number] if number < len(draft.slots) else ""
        if slot in places:
            clips[places[slot]] = clips[places[slot]].model_copy(update=beat.model_dump() | {"pinned_take": None})
        else:
            clips.append(Clip(**beat.model_dump()))
    changed = with_clips(draft.also(project) if index == 0 else project, clips)
    if draft.first and not draft.slots:
        return changed  # a film that grows keeps the name of who wrote its story
    return changed.model_copy(update={"storyline_source": draft.choice.source})


def finished(project: Project, draft: Draft) -> Project:
    """`project` without the cards that the complete storyline has no place for."""
    beyond = set(draft.slots[draft.of :])
    return with_clips(project, [clip for clip in project.clips if clip.id not in beyond])


def setup(drafting: Drafting, preset: Preset) -> dict[str, object]:
    """What the page must know about storylines before there is a project, as plain data."""
    choices = drafting.offered(preset)
    can_tell = choices[0].source != "template"
    return {
        "drafter": choice_facts(choices[0]),
        "others": [choice_facts(choice) for choice in choices[1:]],
        "tones": list(Tone.__args__),
        "paces": list(Pace.__args__),
        "languages": [{"code": code, "name": name} for code, name in LANGUAGES.items()],
        "can_tell": can_tell,
        "why_not": "" if can_tell else WHY_NOT,
    }


def choice_facts(choice: Choice) -> dict[str, str]:
    source: Source = choice.source
    return {"source": source, "title": choice.title, "why": choice.why, "hint": choice.hint}
