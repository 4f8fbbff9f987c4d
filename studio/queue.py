"""One lane of jobs for the whole studio, first come, first served, and the life of the worker that runs them.

The journal `jobs.json` holds what must survive a restart: the jobs, and how each project's last job ended. One thread
owns the worker; everything else here may be called from any thread.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.config import Preset
from engine.domain import Id, Project, new_id
from engine.errors import InputError, StudioError, WeightsMissing
from engine.events import (
    BeatDrafted,
    ClipStarted,
    ClipStep,
    DrafterLoading,
    FilmExported,
    JobCancelled,
    JobDone,
    JobFailed,
    ModelLoading,
    ModelReady,
    TakeCommitted,
)
from engine.project.files import write_atomically
from engine.story.choose import Choice
from engine.story.drafter import Brief
from engine.tiers import Machine
from studio import dial
from studio.feed import Feed, Paces
from studio.limits import MAX_RUNNING_JOBS, MAX_WAITING_JOBS
from studio.view import Outcome
from studio.worker import (
    Cancel,
    Command,
    Draft,
    Export,
    Happened,
    Load,
    Options,
    Plan,
    Planned,
    Render,
    Seen,
    Train,
    Trained,
    Worker,
)

log = logging.getLogger(__name__)
SILENT_BEATS = 10  # a worker whose heart has missed so many beats (20 s) is killed
STALL_FACTOR = 10  # so is one whose step takes this many times the usual …
STALL_FLOOR_S = 25.0  # … and at least this long
STALL_FLOOR_FULL_SIZE_S = 600.0  # 14B fuses LoRAs, reads prompts and moves experts between two steps
STALL_UNKNOWN_S = 1800.0  # before anything was measured
LOAD_AGAIN_S = (20.0, 600.0)  # a model that could not be loaded is tried again, first and last interval
STALLED_S = 3.0  # a step without news for so long lets pages fetch a new estimate …
RAISE_EVERY_S = 10.0  # … this often
MAX_RESTARTS = 3  # of the worker within one job, without a clip in between
SHUTDOWN_S = 15.0
WENT_WRONG = ("Something went wrong in the studio.", "Finished clips are safe. Try again.")
Kind = Literal["generate", "export", "draft", "plan", "train"]  # the last two are a training run's
OF_A_RUN: tuple[Kind, ...] = ("plan", "train")
Ending = Literal["", "pause", "stop", "shutdown"]


class Job(BaseModel):
    """One request for work on one project, or training run, as kept in the journal."""

    model_config = ConfigDict(extra="ignore")

    id: Id
    kind: Kind
    project_id: Id
    owner: str
    state: Literal["waiting", "running"] = "waiting"
    forever: bool = False
    after_restart: Literal["continue", "wait"] = "continue"
    restarts: int = 0
    asked: bool = False  # asked for again while it was running: look once more whether a clip is missing
    ending: Literal["", "pause", "stop"] = ""  # somebody ended it; said again if the studio closes before it did


class Saved(BaseModel):
    """The journal's content."""

    model_config = ConfigDict(extra="ignore")

    starts: int = 0
    jobs: list[Job] = []
    outcomes: dict[Id, Outcome] = {}


class Projects(Protocol):
    """What the queue needs to know about projects."""

    def folder(self, project_id: str) -> Path: ...
    def project(self, project_id: str) -> Project: ...
    def preset(self, project: Project) -> Preset: ...


@dataclass
class Listener:
    """Told by the queue's thread. `film_done`: whether a clip is missing, perhaps one that it appended itself."""

    changed: Callable[[str], None] = lambda project_id: None
    film_done: Callable[[Job], bool] = lambda job: False
    exported: Callable[[Job, FilmExported | JobFailed], None] = lambda job, event: None


@dataclass
class DraftListener:
    """Told by the queue's thread, without its lock but for `draft`: what is to be written, and by which model, is asked
    under it. Who answers must not hold a lock of their own while they call the queue."""

    draft: Callable[[Job], tuple[Brief, Choice]]
    happened: Callable[[Job, DrafterLoading | BeatDrafted], None]
    ended: Callable[[Job, Outcome | None], None]  # None: it is complete


@dataclass
class TrainingListener:
    """Told by the queue's thread. recipe: its file, written when the job starts. ended: None when it is complete."""

    recipe: Callable[[Job], Path]
    planned: Callable[[Job, Planned], None] = lambda job, event: None
    trained: Callable[[Job, Trained], None] = lambda job, event: None
    ended: Callable[[Job, Outcome | None], None] = lambda job, outcome: None


@dataclass
class _Lane:
    """What the worker is doing. `sent`: the running job's command is with the worker."""

    loaded: str = ""
    drafter: str = ""  # the title of the language model that is loaded in the place of a film model
    loading: str = ""
    job: Job | None = None
    sent: bool = False
    ending: Ending = ""
    last_event: float = field(default_factory=time.monotonic)
    raised: float = 0.0  # when pages were last told of a step that takes long


class JobQueue:
    """The jobs, the outcomes and the worker."""

    def __init__(
        self,
        journal: Path,
        projects: Projects,
        feed: Feed | None = None,
        paces: Paces | None = None,
        *,
        options: Options,
        reserve_bytes: int = 500_000_000,
        warm: Preset | None = None,
    ) -> None:
        self._journal = journal
        self._projects = projects
        self._options = options
        self._reserve_bytes = reserve_bytes
        self._warm = warm
        self._lock = threading.RLock()
        self._wake_receiver, self._wake_sender = Pipe(duplex=False)
        self._lane = _Lane()
        self._worker: Worker | None = None
        self._warm_failures = 0
        self._load_again_s, self._load_again_at = LOAD_AGAIN_S[0], 0.0
        self._closing = False
        self._deadline = 0.0
        self._thread: threading.Thread | None = None
        self.unavailable: StudioError | None = None
        self.machine: Machine | None = None  # as the worker saw it when it started
        self.listener = Listener()
        self.drafting: DraftListener | None = None
        self._ended_drafts: list[tuple[Job, Outcome | None]] = []
        self.training: TrainingListener | None = None
        saved = self._read()
        self.starts = saved.starts + 1
        self.feed = feed or Feed(self.starts)
        self.paces = paces or Paces(journal.with_name("timings.json"))
        self._jobs: list[Job] = []
        self._outcomes = {known: outcome for known, outcome in saved.outcomes.items() if self._is_there(known)}
        for job in saved.jobs:
            self._take_up(job)
        self._save()

    # Life

    def start(self) -> None:
        """Start the worker and the thread that owns it; the warm preset's model is loaded in the background."""
        self._thread = threading.Thread(target=self._run, name="job-queue", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = SHUTDOWN_S) -> None:
        """Stop the clip being made, keep the jobs for the next start, end the worker. Takes at most ~20 s."""
        with self._lock:
            self._closing = True
            self._deadline = time.monotonic() + timeout_s
            if self._lane.job and self._lane.sent:
                self._lane.ending = self._lane.ending or "shutdown"
                self._send(Cancel(self._lane.job.id))
        self._wake()
        if self._thread:
            self._thread.join(timeout_s + 4)
        with self._lock:
            self._save()
        self.paces.save()

    def health(self) -> dict[str, object]:
        with self._lock:
            lane, worker = self._lane, self._worker
            state = "ready" if lane.loaded or lane.drafter else "starting"
            if lane.job:
                state = "busy"
            if lane.loading:
                state = "loading"
            if self.unavailable:
                state = "unavailable"
            return {
                "ok": True,
                "worker": state,
                "pid": worker.process.pid if worker else None,
                "preset": lane.loaded or lane.loading,
                "jobs": len(self._jobs),
            }

    # Asking

    def job_of(self, project_id: str, kind: Kind = "generate") -> Job | None:
        with self._lock:
            return next((job for job in self._jobs if job.project_id == project_id and job.kind == kind), None)

    def busy(self, project_id: str) -> bool:
        """Whether the project has a job of any kind."""
        with self._lock:
            return any(job.project_id == project_id for job in self._jobs)

    def place(self, job: Job) -> int:
        """How many jobs are before `job`."""
        with self._lock:
            return next((place for place, other in enumerate(self._jobs) if other.id == job.id), 0)

    def ahead(self, job: Job) -> list[Job]:
        with self._lock:
            return self._jobs[: self.place(job)]

    def ending_of(self, project_id: str, kind: Kind = "generate") -> Ending:
        with self._lock:
            job = self._lane.job
            return self._lane.ending if job and job.project_id == project_id and job.kind == kind else ""

    def loading_for(self, project_id: str) -> str:
        """The preset whose model is being loaded for this project's running job, or ""."""
        with self._lock:
            job = self._lane.job
            if job is None or job.project_id != project_id or self._lane.sent:
                return ""
            return self._lane.loading or (self._warm.name if self._warm else "")

    def outcome(self, project_id: str) -> Outcome | None:
        with self._lock:
            return self._outcomes.get(project_id)

    # Changing

    def enqueue(
        self,
        kind: Kind,
        project_id: str,
        owner: str,
        *,
        forever: bool = False,
        after_restart: Literal["continue", "wait"] = "continue",
    ) -> Job:
        """A waiting job, or the project's one of this kind if there is one. Raises `InputError` beyond the limits."""
        with self._lock:
            self.check_room(kind, project_id, owner)
            if existing := self.job_of(project_id, kind):
                existing.forever = existing.forever or forever
                existing.asked = kind == "generate" and self._lane.job is existing
                self._save()
                return existing
            job = Job(
                id=new_id(),
                kind=kind,
                project_id=project_id,
                owner=owner,
                forever=forever,
                after_restart=after_restart,
            )
            self._jobs.append(job)
            if kind == "generate":
                self._outcomes.pop(project_id, None)
            self._save()
        self.feed.bump(project_id)
        self._wake()
        return job

    def check_room(self, kind: Kind, project_id: str, owner: str) -> None:
        """Raise `InputError` when `enqueue` would."""
        with self._lock:
            if existing := self.job_of(project_id, kind):
                if self._lane.job is existing and self._lane.ending:
                    raise InputError("The last job is still stopping.", "Try again in a moment.")
                return
            mine = sum(job.owner == owner and job.project_id != project_id for job in self._jobs)
            if mine >= MAX_RUNNING_JOBS + MAX_WAITING_JOBS:
                raise InputError(
                    f"You have {mine} jobs under way, the limit here.", "Nothing is lost. Wait for one, or stop one."
                )

    def end(self, project_id: str, how: Literal["pause", "stop"], *, kept: int = 0, kind: Kind = "generate") -> None:
        """Pause or stop the project's job of this kind; `kept`: finished clips, for the message."""
        with self._lock:
            job = self.job_of(project_id, kind)
            if job is None:
                return
            job.forever = job.asked = False
            if self._lane.job is job and self._lane.sent:
                if not self._lane.ending or self._lane.ending == "pause":
                    self._lane.ending = job.ending = how
                    self._send(Cancel(job.id))
            else:
                self._finish(job, ended(how, kept))
            self._save()
        self.feed.bump(project_id)
        self._wake()

    def forget(self, project_id: str) -> None:
        """The project is gone: its last outcome is of no use."""
        with self._lock:
            if self._outcomes.pop(project_id, None):
                self._save()

    # The thread that owns the worker

    def _run(self) -> None:
        while True:
            try:
                with self._lock:
                    if self._closing and (not self._lane.sent or time.monotonic() > self._deadline):
                        break
                    worker = self._ensure_worker()
                wait([self._wake_receiver, *([worker.connection, worker.process.sentinel] if worker else [])], 1.0)
                while self._wake_receiver.poll():
                    self._wake_receiver.recv()
                self._turn()
                self._tell_ended_drafts()
            except Exception:  # the lane must outlive a bug in handling one event
                log.exception("job queue")
                time.sleep(0.5)
        with self._lock:
            worker, self._worker = self._worker, None
        if worker:
            worker.close(2.0)

    def _turn(self) -> None:
        worker = self._worker
        if worker:
            self._hear(worker)
            with self._lock:
                trouble = self._worker_trouble(worker)
            if trouble:
                self._hear(worker)  # what it said before it died counts, and perhaps it was us who were late
        with self._lock:
            if worker and (reason := self._worker_trouble(worker)):
                self._lose_worker(worker, reason)
            elif not self._closing:
                self._dispatch()
                self._load_again()
                self._raise_stalled_estimates()

    def _hear(self, worker: Worker) -> None:
        for answer in worker.receive():
            if isinstance(answer, Seen):
                self.machine = answer.machine
                self.feed.bump_all()
                continue
            try:
                self._tell_of_draft(answer)
                self._handle(answer, *self._film_goes_on(answer))
            except Exception:  # one answer's trouble costs its job, not the answers after it
                error_id = secrets.token_hex(4)
                log.exception("error %s", error_id)
                self._give_up(answer.job_id, error_id)

    def _tell_of_draft(self, answer: Happened) -> None:
        """Pass on what the running draft wrote; the listener edits the project, so without the lock."""
        with self._lock:
            job = self._lane.job
        if isinstance(answer.event, DrafterLoading | BeatDrafted) and job and job.id == answer.job_id and self.drafting:
            self.drafting.happened(job, answer.event)

    def _tell_ended_drafts(self) -> None:
        with self._lock:
            ended_drafts, self._ended_drafts = self._ended_drafts, []
        for job, outcome in ended_drafts:
            if self.drafting:
                try:
                    self.drafting.ended(job, outcome)
                except Exception:  # one draft's trouble must not cost the others their end
                    log.exception("draft %s", job.id[:6])

    def _give_up(self, job_id: str, error_id: str) -> None:
        """End a job after a bug or a refusing disk on this side."""
        with self._lock:
            job = self._lane.job
            if job and job.id == job_id:
                self._send(Cancel(job.id))
                self._finish(job, Outcome("failed", *WENT_WRONG, error_id))

    def _ensure_worker(self) -> Worker | None:
        if self._worker is None and not self._closing:
            if self._warm_failures > MAX_RESTARTS and not self._jobs:
                return None  # it keeps dying while idle: wait until somebody needs it
            self._worker = Worker(self._options)
            self._lane.last_event = time.monotonic()
            if self._warm and not self._jobs:
                self._load(self._warm)
        return self._worker

    def _load(self, preset: Preset) -> None:
        self._lane.loading = preset.name
        self._send(Load(preset))

    def _load_again(self) -> None:
        """Try a model that could not be loaded from time to time: somebody may have put its weights there."""
        idle = self._lane.job is None and not self._lane.loading
        if self.unavailable and self._warm and idle and time.monotonic() > self._load_again_at:
            self._load(self._warm)

    def _send(self, command: Command) -> None:
        if self._worker:
            self._worker.send(command)

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_sender.send(None)

    def _dispatch(self) -> None:
        lane = self._lane
        if lane.job is None:
            if not self._jobs:
                return
            lane.job, lane.sent, lane.ending = self._jobs[0], False, ""
            lane.job.state = "running"
            lane.last_event = time.monotonic()
            self._save()
            self.feed.bump(lane.job.project_id)
        if lane.sent or lane.loading:
            return
        job = lane.job
        try:
            if job.kind in OF_A_RUN:
                self._dispatch_training(job)
                return
            if job.kind == "draft":
                self._dispatch_draft(job)
                return
            project = self._projects.project(job.project_id)
            preset = self._projects.preset(project)
            folder = self._projects.folder(job.project_id)
        except StudioError as err:
            self._not_started(job, JobFailed(err.message, err.hint, kind=type(err).__name__))
            return
        except OSError:
            error_id = secrets.token_hex(4)
            log.exception("error %s", error_id)
            self._not_started(job, JobFailed(*WENT_WRONG, error_id))
            return
        if job.kind == "export":
            self._send(Export(job.id, folder, preset))
        elif lane.loaded != preset.name:
            self._load(preset)
            self.feed.bump(job.project_id)
            return
        else:
            self._send(Render(job.id, folder, preset, self._reserve_bytes))
        lane.sent = True
        lane.last_event = time.monotonic()
        self.feed.bump(job.project_id)

    def _dispatch_draft(self, job: Job) -> None:
        if self.drafting is None:
            raise StudioError("This studio has no language model.")
        self._send(Draft(job.id, *self.drafting.draft(job)))
        self._lane.loaded = ""  # the worker makes room first
        self._lane.sent = True
        self._lane.last_event = time.monotonic()
        self.feed.bump(job.project_id)

    def _dispatch_training(self, job: Job) -> None:
        if self.training is None:
            raise StudioError("This studio does not train.")
        recipe = self.training.recipe(job)
        if job.kind == "plan":
            self._send(Plan(job.id, recipe))
        else:
            self._lane.loaded = self._lane.drafter = ""  # the worker makes room first
            self._send(Train(job.id, recipe))
        self._lane.sent = True
        self._lane.last_event = time.monotonic()
        self.feed.bump(job.project_id)

    def _not_started(self, job: Job, event: JobFailed) -> None:
        if job.kind == "export":
            self.listener.exported(job, event)
        self._finish(job, failed(event))

    def _film_goes_on(self, answer: Happened) -> tuple[bool, Outcome | None]:
        """Whether a clip is missing though the worker found none, and why a film without end came to one.

        Asked without the lock: the listener edits the project.
        """
        with self._lock:
            job = self._lane.job
            if not (isinstance(answer.event, JobDone) and job and job.id == answer.job_id):
                return False, None
            if self._closing or not (job.forever or job.asked):
                return job.forever or job.asked, None  # asked again after the restart
            job.asked = False
        try:
            return self.listener.film_done(job), None
        except StudioError as err:
            return False, Outcome("limit", err.message, err.hint)

    def _handle(self, answer: Happened, again: bool, limit: Outcome | None) -> None:
        with self._lock:
            lane = self._lane
            lane.last_event = time.monotonic()
            event = answer.event
            if isinstance(event, ModelLoading):
                lane.loading, lane.loaded, lane.drafter = event.preset, "", ""
            elif isinstance(event, DrafterLoading):
                lane.drafter = event.title
            elif isinstance(event, ModelReady):
                lane.loading, lane.loaded, self._warm_failures = "", event.preset, 0
                self.paces.loaded(event.preset, event.seconds)
                if self.unavailable:
                    self.unavailable, self._load_again_s = None, LOAD_AGAIN_S[0]
                    self.feed.bump_all()
            if not answer.job_id:
                if isinstance(event, JobFailed):
                    self._model_failed(event)
                if lane.job:
                    self.feed.bump(lane.job.project_id)
                return
            job = lane.job
            if job is None or job.id != answer.job_id:
                return  # the tail of a job that was given up
            self._job_event(job, answer, again, limit)

    def _job_event(self, job: Job, answer: Happened, again: bool, limit: Outcome | None) -> None:
        event = answer.event
        match event:
            case JobDone():
                self._done(job, again, limit)
            case JobCancelled():
                self._cancelled(job)
            case JobFailed():
                log.warning("job %s failed: %s %s", job.id[:6], event.kind, event.error_id)
                if self._lane.loading:  # it failed while loading the model anew, after a lack of memory
                    self._lane.loading, self._lane.loaded = "", ""
                if job.kind == "export":
                    self.listener.exported(job, event)
                self._finish(job, failed(event))
            case FilmExported():
                self.listener.exported(job, event)
            case DrafterLoading() | BeatDrafted():
                self.feed.bump(job.project_id)  # they were told before
            case Planned() | Trained():
                tell = self.training.planned if isinstance(event, Planned) else self.training.trained
                tell(job, event)
                self.feed.bump(job.project_id)
            case _:
                self._measure(job, event)
                if isinstance(event, TakeCommitted):
                    job.restarts = 0
                    self._outcomes.pop(job.project_id, None)
                    self._save()
                self.feed.publish(job.project_id, event, answer.preview)
                if isinstance(event, ClipStarted | TakeCommitted):
                    self.listener.changed(job.project_id)

    def _done(self, job: Job, again: bool, limit: Outcome | None) -> None:
        if (again or job.asked) and job in self._jobs and not job.ending:
            self._jobs.remove(job)
            self._jobs.append(job)  # to the back: other projects get their turn between two clips
            job.state = "waiting"
            self._lane.job, self._lane.sent, self._lane.ending = None, False, ""
            self._save()
            self.feed.bump(job.project_id)
            return
        self._finish(job, ended(job.ending, None) if again and job.ending else limit)
        if job.kind == "generate" and not job.forever:
            self.feed.announce(job.project_id, "Your film is complete.")

    def _cancelled(self, job: Job) -> None:
        how = self._lane.ending or "stop"
        live = self.feed.live(job.project_id)
        if how == "shutdown":
            job.state = "waiting"
            self._lane.job, self._lane.sent, self._lane.ending = None, False, ""
            self.feed.settle(job.project_id)
            self._save()
            return
        self._finish(job, ended(how, None, clip_id=live.clip_id if live else "", number=live.index if live else None))

    def _finish(self, job: Job, outcome: Outcome | None) -> None:
        """The job leaves the lane; a generate job's outcome is remembered."""
        if job in self._jobs:
            self._jobs.remove(job)
        if self._lane.job is job:
            self._lane.job, self._lane.sent, self._lane.ending = None, False, ""
        if job.kind == "generate":
            self._outcomes.pop(job.project_id, None)
            if outcome:
                self._outcomes[job.project_id] = outcome
                self.feed.announce(job.project_id, outcome.message)
            self.feed.settle(job.project_id)
            self.paces.save()
        self._save()
        if job.kind == "draft":
            self._ended_drafts.append((job, outcome))
        if job.kind in OF_A_RUN and self.training:
            self.training.ended(job, outcome)
            if self._worker and self._warm and not (self._jobs or self._lane.loaded or self._closing):
                self._load(self._warm)  # ready for the next film
        self.listener.changed(job.project_id)
        self.feed.bump(job.project_id)
        self._wake()

    def _model_failed(self, event: JobFailed) -> None:
        """Loading failed: the job that needed the model fails; without a job it is said when somebody asks."""
        lane = self._lane
        lane.loading, lane.loaded = "", ""
        again = self.unavailable is not None and str(self.unavailable) == str(StudioError(event.message, event.hint))
        self.unavailable = StudioError(event.message, event.hint)
        self._load_again_at = time.monotonic() + self._load_again_s
        if event.kind != WeightsMissing.__name__:  # looking whether files have come costs nothing
            self._load_again_s = min(2 * self._load_again_s, LOAD_AGAIN_S[1])
        if not again:
            self.feed.bump_all()
            log.warning("the model could not be loaded: %s", event.message)
        if lane.job and lane.job.kind == "generate" and not lane.sent:
            self._finish(lane.job, failed(event))

    def _measure(self, job: Job, event: object) -> None:
        if not isinstance(event, ClipStep | TakeCommitted):
            return
        with suppress(StudioError):
            project = self._projects.project(job.project_id)
            draft_steps = self._draft_steps(project, event.clip_id)
            steps = draft_steps or project.num_inference_steps
            if isinstance(event, ClipStep):
                if event.of != steps:
                    return  # its quality was changed while it is made
                if event.step > 1 or event.of == 1:  # the first step includes encoding the picture and the prompt
                    self.paces.add(project, step_s=event.seconds, draft_steps=draft_steps)
            elif step_s := self.paces.of(project, draft_steps=draft_steps).step_s:
                finish_s = max(0.0, event.seconds - step_s * steps)
                self.paces.add(project, finish_s=finish_s, draft_steps=draft_steps)

    def _draft_steps(self, project: Project, clip_id: str) -> int | None:
        """The steps of that clip when it is a draft, else None."""
        preset = self._projects.preset(project)
        if not dial.is_draft(project, preset, project.clip_index(clip_id)):
            return None
        return dial.num_steps(project, preset, draft=True)

    # Trouble

    def _worker_trouble(self, worker: Worker) -> str:
        """Why the worker must be replaced, or ""."""
        if not worker.alive:
            return f"it ended with code {worker.process.exitcode}"
        if worker.silent_s() > SILENT_BEATS * self._options.beat_s:
            return f"no sign of life for {worker.silent_s():.0f} s"
        job = self._lane.job
        if job and self._lane.sent and not self._lane.loading:
            stalled_s = time.monotonic() - self._lane.last_event
            if stalled_s > self._stall_limit_s(job):
                return f"no step for {stalled_s:.0f} s"
        return ""

    def _stall_limit_s(self, job: Job) -> float:
        if job.kind == "draft":  # loading a language model and its first answer take what they take
            return STALL_UNKNOWN_S
        live = self.feed.live(job.project_id)
        with suppress(StudioError):
            project = self._projects.project(job.project_id)
            pace = self.paces.of(project, draft_steps=self._draft_steps(project, live.clip_id) if live else None)
            if pace.step_s is not None and pace.finish_s is not None:
                is_pocket = self._projects.preset(project).family == "pocket"
                floor_s = STALL_FLOOR_S if is_pocket else STALL_FLOOR_FULL_SIZE_S
                return max(floor_s, STALL_FACTOR * max(pace.step_s, pace.finish_s))
        return STALL_UNKNOWN_S

    def _lose_worker(self, worker: Worker, reason: str) -> None:
        """Replace a dead or hung worker; the job goes on from its last finished clip, unless it keeps happening."""
        log.warning("the worker is replaced: %s", reason)
        worker.kill()
        self._worker = None
        job = self._lane.job
        sent = self._lane.sent
        self._lane = _Lane()
        if job is None or job not in self._jobs:
            self._warm_failures += 1
            return
        job.restarts += 1
        live = self.feed.live(job.project_id)
        what = f"Clip {live.index + 1}" if live else "The job" if sent else "Loading the model"
        clip_id = live.clip_id if live else ""
        self.feed.settle(job.project_id)
        if job.kind == "export":
            self.listener.exported(job, JobFailed("The export was interrupted.", "Your clips are safe. Export again."))
            self._finish(job, None)
        elif job.kind == "draft" and not job.ending:
            if sent or job.restarts > MAX_RESTARTS:
                what = "The language model stopped the studio's worker."
                self._finish(job, Outcome("failed", what, "Films are not affected."))
            else:
                job.state = "waiting"  # it was the film model that was being loaded
                self._save()
        elif job.kind in OF_A_RUN:
            self._finish(job, ended("pause", None) if job.ending else Outcome("interrupted"))
        elif job.ending:
            self._finish(job, ended(job.ending, None, clip_id=clip_id, number=live.index if live else None))
        elif job.restarts > MAX_RESTARTS:
            self._finish(
                job,
                Outcome(
                    "failed",
                    f"{what} stopped the studio's worker {job.restarts} times.",
                    "Finished clips are safe. Retry, or change its prompt or seed.",
                    clip_id=clip_id,
                ),
            )
        else:
            job.state = "waiting"
            text = f"{what} was interrupted. Nothing is lost; it starts again by itself."
            self._outcomes[job.project_id] = Outcome("interrupted", text, clip_id=clip_id)
            self.feed.announce(job.project_id, text)
            self._save()

    def _raise_stalled_estimates(self) -> None:
        """Let pages fetch a new estimate while a step takes unusually long."""
        job = self._lane.job
        now = time.monotonic()
        if job and self._lane.sent and now > max(self._lane.last_event + STALLED_S, self._lane.raised + RAISE_EVERY_S):
            self._lane.raised = now
            self.feed.bump(job.project_id)

    # Journal

    def _take_up(self, job: Job) -> None:
        """A job of an earlier run: it goes on by itself, or waits for a click, or was ended as the studio closed."""
        if job.kind == "draft":
            return  # its cards are in the project; the rest is asked for again
        if job.kind in OF_A_RUN:
            return  # paused: training is gone on with when somebody asks
        if job.ending:
            self._outcomes[job.project_id] = ended(job.ending, None)
        elif job.after_restart == "continue":
            self._jobs.append(job.model_copy(update={"state": "waiting"}))
        elif job.kind == "generate":
            self._outcomes[job.project_id] = Outcome(
                "interrupted", "The studio was restarted. Stopped, nothing lost.", "Resume to go on."
            )

    def _is_there(self, project_id: str) -> bool:
        try:
            return self._projects.folder(project_id).is_dir()
        except StudioError:
            return False

    def _read(self) -> Saved:
        try:
            return Saved.model_validate_json(self._journal.read_bytes())
        except FileNotFoundError:
            return Saved()
        except (OSError, ValidationError, ValueError):
            log.warning("%s is unreadable: waiting jobs are forgotten, projects are safe", self._journal.name)
            return Saved(starts=int(time.time()))

    def _save(self) -> None:
        saved = Saved(starts=self.starts, jobs=self._jobs, outcomes=self._outcomes)
        try:
            write_atomically(self._journal, json.dumps(saved.model_dump(mode="json")).encode(), point="jobs")
        except OSError as err:
            log.warning("the job journal could not be saved: %s", err.strerror)


def ended(how: str, kept: int | None, *, clip_id: str = "", number: int | None = None) -> Outcome:
    """What is said after Pause or Stop."""
    verb = "Paused" if how == "pause" else "Stopped"
    where = f" at clip {number + 1}" if number is not None else ""
    kept_text = "" if not kept else f" {kept} finished clip{'' if kept == 1 else 's'} kept."
    kind = "paused" if how == "pause" else "stopped"
    return Outcome(kind, f"{verb}{where}. Nothing is lost.{kept_text}", clip_id=clip_id)


def failed(event: JobFailed) -> Outcome:
    kind = "full" if event.kind == "DiskFull" else "failed"
    return Outcome(kind, event.message, event.hint, event.error_id, event.clip_id)
