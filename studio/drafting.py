"""Storylines being written, at most one a project: who writes, how far it is, what went wrong.

Templates answer at once. An endpoint is listened to by a thread here; a language model of this machine is a job of the
lane, so that it never shares memory with a film model. Cards are saved one at a time as they arrive, as one edit. When
a drafter fails, nobody steps in by themselves: the creator is asked. Knows nothing about HTTP or gradio.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from engine.config import Config, Preset
from engine.domain import ID_PATTERN, LANGUAGES, Beat, Clip, Pace, Project, Source, Tone, new_id
from engine.errors import InputError, StudioError
from engine.events import BeatDrafted, DrafterLoading
from engine.project.files import write_atomically
from engine.story.choose import TEMPLATES, Choice, choose, offered, open_drafter
from engine.story.drafter import Brief, StorylineDrafter, draft
from engine.story.template import TemplateDrafter
from engine.story.vocabulary import vocabulary_of
from engine.storyboard import with_clips
from studio.feed import Feed
from studio.history import History
from studio.library import Library
from studio.queue import DraftListener, Job, JobQueue
from studio.view import DraftFacts, Outcome, StoryFacts
from studio.words import cards_text

log = logging.getLogger(__name__)
MAX_AT_ONCE = 8  # answers of an endpoint listened to at the same time …
MAX_OF_AN_OWNER = 2  # … and of one owner's
CHOICE_AGE_S = 10.0  # files and settings are looked at again after this long
Then = Literal["", "generate", "forever"]  # what follows a storyline that is complete
WENT_WRONG = "Something went wrong while drafting."


@dataclass(frozen=True)
class Problem:
    """Why a storyline stopped before its last card."""

    message: str
    hint: str = ""
    error_id: str = ""


@dataclass(frozen=True)
class Draft:
    """A storyline being written, or one that stopped.

    first: index of its first card. slots: ids of the cards that are written anew, in order; further cards are
    appended. untouched: slots that somebody edited meanwhile: their beats are dropped. edit_id: all of it is one edit.
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
    untouched: frozenset[str] = frozenset()
    problem: Problem | None = None
    edit_id: str = field(default_factory=new_id)
    ids: tuple[str, ...] = ()  # of all cards, those of the slots first

    def __post_init__(self) -> None:
        fresh = (new_id() for _ in range(self.of - len(self.slots)))
        object.__setattr__(self, "ids", self.ids or (*self.slots[: self.of], *fresh))

    @property
    def of(self) -> int:
        return self.brief.count

    @property
    def under_way(self) -> bool:
        return self.state != "failed"

    @property
    def coming(self) -> tuple[str, ...]:
        """Ids of the cards that are still to be written, whether they are there or not."""
        return tuple(clip_id for clip_id in self.ids[self.done :] if clip_id not in self.untouched)


@dataclass(frozen=True)
class Lost:
    """A draft that the studio's end cut off, as kept across a restart."""

    done: int
    of: int
    title: str


class Drafting:
    """Writes storylines into projects. `go_on` is called when one is complete and a film is to follow.

    journal: the file that says across a restart which drafts were under way.
    """

    def __init__(
        self, config: Config, library: Library, queue: JobQueue, feed: Feed, history: History, journal: Path
    ) -> None:
        self._config = config
        self._library = library
        self._queue = queue
        self._feed = feed
        self._history = history
        self._journal = journal
        self._lock = threading.RLock()
        self._drafts: dict[str, Draft] = {}
        self._listening: dict[str, StorylineDrafter] = {}  # to an endpoint, by edit id
        self._futures: dict[str, Future[None]] = {}  # of those and of the ones that wait for a thread
        self._pool = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="drafting")
        self._choices: dict[str, tuple[float, tuple[Choice, ...]]] = {}
        self.go_on: Callable[[str, Then], None] = lambda project_id, then: None
        queue.drafting = DraftListener(self._wanted, self._happened, self._job_ended)
        choose(config, library.default, None)  # what cannot be used is said when the studio starts
        self._lost = self._take_up()

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
        return StoryFacts(
            drafters=tuple(choice_facts(choice) for choice in choices),
            draft=self._draft_facts(project_id),
            fields=fields(choices[0], preset),
        )

    def _draft_facts(self, project_id: str) -> DraftFacts | None:
        current, lost = self.of(project_id), self._lost.get(project_id)
        if current is None:
            return lost and DraftFacts(
                state="failed",
                title=lost.title,
                done=lost.done,
                of=lost.of,
                message="The studio was restarted while the storyline was being written.",
                hint="Draft again, or redraft from a card.",
            )
        job = self._queue.job_of(project_id, "draft") if current.choice.source == "qwen" else None
        problem = current.problem or Problem("")
        return DraftFacts(
            state=current.state,
            title=current.choice.title,
            source=current.choice.source,
            done=current.done,
            of=current.of,
            first=current.first,
            coming=current.coming,
            place=self._queue.place(job) if job else 0,
            behind_loading=bool(job and self._queue.loading_for(project_id)),
            message=problem.message,
            hint=problem.hint,
            error_id=problem.error_id,
        )

    # Writing

    def start(self, project_id: str, wanted: Draft) -> None:
        """Write `wanted` into the project: at once with templates, else card by card while the page goes on.

        A draft that failed before is forgotten once this one has begun.
        """
        self.refuse_while_writing(project_id)
        repeats = wanted.brief.kind != "stream" and wanted.brief.so_far  # one prompt for the film: it is there
        if wanted.choice.source == "template" or repeats:
            self._write_at_once(project_id, wanted)
            return
        owner = self._library.owner(project_id)
        with self._lock:
            before = self._drafts.get(project_id)
            if wanted.choice.source != "qwen":
                self._check_room(owner)
                self._futures[wanted.edit_id] = self._pool.submit(self._listen, project_id, wanted)
            self._drafts[project_id] = wanted
        try:
            if wanted.choice.source == "qwen":  # without the lock: the queue's thread asks for the draft under its own
                self._queue.enqueue("draft", project_id, owner, after_restart="wait")
        except BaseException:
            with self._lock:
                self._put(project_id, before)
            raise
        with self._lock:
            self._lost.pop(project_id, None)
            self._save()
        self._feed.bump(project_id)

    def _check_room(self, owner: str) -> None:
        mine = [
            project_id
            for project_id, one in self._drafts.items()
            if one.under_way and one.choice.source == "endpoint" and self._library.owner(project_id) == owner
        ]
        if len(mine) >= MAX_OF_AN_OWNER:
            raise InputError(f"{len(mine)} storylines of yours are being written.", "Wait for one, or stop one.")

    def stop(self, project_id: str) -> None:
        """End the draft; what is written stays. A problem that was read is put away."""
        with self._lock:
            self._lost.pop(project_id, None)
            current = self._drafts.get(project_id)
            if current and current.under_way:
                self._drafts[project_id] = replace(current, state="stopping", then="")
            else:
                self._put(project_id, None)
            self._save()
        if current and current.under_way:
            self._stop_writing(project_id, current)
        self._feed.bump(project_id)

    def _stop_writing(self, project_id: str, current: Draft) -> None:
        """Tell whoever writes `current` to stop; when nobody does, it is over."""
        if current.choice.source == "qwen":
            if self._queue.job_of(project_id, "draft"):
                self._queue.end(project_id, "stop", kind="draft")
            else:
                self._ended(project_id, current.edit_id, None)
            return
        with self._lock:
            listening, future = self._listening.get(current.edit_id), self._futures.get(current.edit_id)
        if listening:
            listening.interrupt()
        elif future is None or future.cancel():
            with self._lock:
                self._futures.pop(current.edit_id, None)
            self._ended(project_id, current.edit_id, None)

    def again(self, project_id: str, source: str, *, seed: int) -> None:
        """Go on with a draft that failed where it stopped, with the same drafter or another one."""
        failed = self.of(project_id)
        if failed is None or failed.under_way:
            raise InputError("There is no storyline to go on with.", "Draft a new one.")
        if failed.done >= failed.of:  # only what was to follow did not
            self._complete(project_id, failed)
            return
        project = self._library.project(project_id)
        prompts = {clip.id: clip.prompt for clip in project.clips}
        written_ids = failed.ids[: failed.done]
        if not all(clip_id in prompts for clip_id in written_ids):
            self.dismiss(project_id)
            raise InputError("Its written cards are not there any more.", "Draft again, or redraft from a card.")
        so_far = (*failed.brief.so_far, *(prompts[clip_id] for clip_id in written_ids))
        rest = replace(
            failed,
            choice=self.choice(self._library.preset(project), source) if source else failed.choice,
            brief=replace(failed.brief, count=failed.of - failed.done, so_far=so_far, seed=seed),
            first=failed.first + failed.done,
            slots=failed.slots[failed.done :],
            ids=failed.ids[failed.done :],
            state="waiting",
            done=0,
            problem=None,
        )
        self.start(project_id, rest)

    def follow(self, project_id: str, then: Then) -> bool:
        """Let `then` come after the draft under way; False when there is none."""
        with self._lock:
            current = self._drafts.get(project_id)
            if current is None or not current.under_way or current.state == "stopping":
                return False
            self._put(project_id, replace(current, then=then))
            self._save()
            return True

    def leave_alone(self, project_id: str, clip_id: str) -> None:
        """Somebody wrote that card by hand: the draft under way does not replace it."""
        with self._lock:
            current = self._drafts.get(project_id)
            if current and clip_id in current.coming:
                self._put(project_id, replace(current, untouched=current.untouched | {clip_id}))

    def dismiss(self, project_id: str) -> None:
        """Forget a draft that failed: its cards were undone or replaced."""
        with self._lock:
            current = self._drafts.get(project_id)
            if current is not None and not current.under_way:
                self._put(project_id, None)
            self._lost.pop(project_id, None)
            self._save()

    def forget(self, project_id: str) -> None:
        with self._lock:
            self._put(project_id, None)
            self._lost.pop(project_id, None)
            self._save()

    def close(self) -> None:
        """End what is listened to. Drafts under way stay in the journal."""
        with self._lock:
            listening = list(self._listening.values())
            self._drafts = {key: replace(one, state="stopping", then="") for key, one in self._drafts.items()}
        for drafter in listening:
            drafter.interrupt()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _put(self, project_id: str, draft: Draft | None) -> None:
        if draft is None:
            self._drafts.pop(project_id, None)
        else:
            self._drafts[project_id] = draft

    def _write_at_once(self, project_id: str, wanted: Draft) -> None:
        beats = draft(TemplateDrafter(), wanted.brief).beats
        self._history.edit(
            project_id,
            wanted.label,
            lambda before: finished(written(before, wanted, 0, beats), wanted),
            part_of=wanted.edit_id,
            idle=wanted.first == 0,
        )
        self.forget(project_id)
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
            problem = unexpected()
        finally:
            with self._lock:
                self._futures.pop(wanted.edit_id, None)
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
            idle=current.first == 0,
        )
        with self._lock:
            if (now := self._drafts.get(project_id)) and now.edit_id == current.edit_id:
                state = "stopping" if now.state == "stopping" else "writing"
                self._drafts[project_id] = replace(now, done=index + 1, state=state)
                self._save()
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
        """The last card is there: take away what is too many, and make the film if that was asked for."""
        try:
            self._history.edit(
                project_id, current.label, lambda before: finished(before, current), part_of=current.edit_id
            )
            self._leave(project_id, "The storyline is written.")
            if current.then:
                self.go_on(project_id, current.then)
        except StudioError as err:
            self._fail(project_id, current, Problem(err.message, err.hint))
        except Exception:
            self._fail(project_id, current, unexpected())

    def _leave(self, project_id: str, announced: str) -> None:
        self._feed.announce(project_id, announced)
        self.forget(project_id)
        self._feed.bump(project_id)

    def _fail(self, project_id: str, current: Draft, problem: Problem) -> None:
        with self._lock:
            self._drafts[project_id] = replace(current, state="failed", problem=problem)
            self._save()
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
            now = self._drafts.get(job.project_id)
            if now and now.state == "waiting":
                self._drafts[job.project_id] = replace(now, state="loading")
        self._feed.bump(job.project_id)

    def _job_ended(self, job: Job, outcome: Outcome | None) -> None:
        current = self.of(job.project_id)
        if current is None:
            return
        failed = outcome is not None and outcome.kind not in ("stopped", "paused")
        problem = Problem(outcome.message, outcome.hint, outcome.error_id) if failed and outcome else None
        self._ended(job.project_id, current.edit_id, problem)

    # Across a restart

    def _save(self) -> None:
        """Keep which drafts are under way; not worth an error when the disk refuses."""
        under_way = {
            key: {"done": one.done, "of": one.of, "title": one.choice.title, "then": one.then}
            for key, one in self._drafts.items()
            if one.under_way
        }
        try:
            write_atomically(self._journal, json.dumps(under_way).encode(), point="drafts")
        except (OSError, StudioError):
            log.warning("the journal of drafts could not be saved")

    def _take_up(self) -> dict[str, Lost]:
        """The drafts that the studio's end cut off. A film without end goes on by itself."""
        lost: dict[str, Lost] = {}
        for project_id, kept in read_journal(self._journal).items():
            try:
                owner = self._library.owner(project_id)
                if kept["then"] == "forever":
                    self._queue.enqueue("generate", project_id, owner, forever=True)
                else:
                    lost[project_id] = Lost(int(kept["done"]), int(kept["of"]), str(kept["title"])[:200])
            except (StudioError, OSError, KeyError, TypeError, ValueError):
                log.warning("a draft of an earlier run is forgotten")
        return lost


def read_journal(path: Path) -> dict[str, Mapping[str, object]]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        log.warning("%s is unreadable: cards are safe", path.name)
        return {}
    entries = data.items() if isinstance(data, dict) else ()
    return {key: value for key, value in entries if ID_PATTERN.match(key) and isinstance(value, dict)}


def unexpected() -> Problem:
    """A bug, inside its except block: the log has it under the id."""
    error_id = secrets.token_hex(4)
    log.exception("error %s", error_id)
    return Problem(WENT_WRONG, "Written cards are kept. Try again.", error_id)


def written(project: Project, draft: Draft, index: int, beats: Sequence[Beat]) -> Project:
    """`project` with `beats` as the cards from `index` of the draft on: in their slots, else behind the one before."""
    clips = list(project.clips)
    for number, beat in enumerate(beats, index):
        clip_id = draft.ids[number]
        if clip_id in draft.untouched:
            continue
        language = draft.brief.telling.language if beat.caption else ""
        said = beat.model_dump() | {"caption_language": language}
        places = {clip.id: place for place, clip in enumerate(clips)}
        if clip_id in places:
            clips[places[clip_id]] = clips[places[clip_id]].model_copy(update=said | {"pinned_take": None})
        else:
            before = next((places[one] + 1 for one in reversed(draft.ids[:number]) if one in places), draft.first)
            clips.insert(before, Clip(id=clip_id, **said))
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
    return {
        "drafter": choice_facts(choices[0]),
        "others": [choice_facts(choice) for choice in choices[1:]],
        "tones": list(get_args(Tone)),
        "paces": list(get_args(Pace)),
        "languages": [{"code": code, "name": name} for code, name in LANGUAGES.items()],
        "fields": fields(choices[0], preset),
    }


def fields(choice: Choice, preset: Preset) -> dict[str, dict[str, object]]:
    """Which ways of telling a story mean something to the drafter, and why the others do not."""
    vocabulary = vocabulary_of(preset)
    reasons = {"tone": "", "pace": "", "language": ""}
    if vocabulary and vocabulary.actions:
        reasons["tone"] = "The embedded model knows a few moves, and none of them has a tone."
    if choice.source == "template":
        reasons["language"] = "Templates write English only: set up a language model to use this."
    return {name: {"enabled": not reason, "why_not": reason} for name, reason in reasons.items()}


def choice_facts(choice: Choice) -> dict[str, str]:
    source: Source = choice.source
    return {"source": source, "title": choice.title, "why": choice.why, "hint": choice.hint}
