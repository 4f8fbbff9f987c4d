"""The process that owns the model. It takes commands from a pipe and answers with events; it never sees a page.

`main` is the child's side: one backend, one job at a time, a heartbeat every two seconds, and an end as soon as the
server is gone. `Worker` is the server's side: start, send, receive, kill. Neither imports gradio.
"""

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import queue
import secrets
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engine.backends.base import Interrupted
from engine.config import Config, Preset
from engine.errors import OutOfMemory, StudioError, TrainingError
from engine.events import (
    BeatDrafted,
    ClipStarted,
    ClipStep,
    DrafterLoading,
    Event,
    JobCancelled,
    JobDone,
    JobFailed,
    ModelLoading,
    ModelReady,
    TakeCommitted,
)
from engine.story.choose import Choice, open_drafter
from engine.story.drafter import Brief, StorylineDrafter
from engine.tiers import Machine

log = logging.getLogger(__name__)
BEAT_S = 2.0
START_S = 60.0  # a new process may take this long until its first beat
PREVIEW_BYTES = 100_000
NICE = 2  # below the web server: pages answer while the CPU renders


@dataclass(frozen=True)
class Options:
    """backend: "module:function" that opens a backend for a preset, in the place of `engine.backends.open_backend`;
    drafter: the same for the drafter of a `QwenModel`."""

    backend: str = ""
    drafter: str = ""
    threads: int | None = None
    beat_s: float = BEAT_S
    log_level: int = logging.INFO


# Commands


@dataclass(frozen=True)
class Load:
    preset: Preset


@dataclass(frozen=True)
class Render:
    job_id: str
    folder: Path
    preset: Preset
    reserve_bytes: int


@dataclass(frozen=True)
class Export:
    job_id: str
    folder: Path
    preset: Preset


@dataclass(frozen=True)
class Draft:
    """Write a storyline with the language model of `choice`. The film model goes first: one model at a time."""

    job_id: str
    brief: Brief
    choice: Choice


@dataclass(frozen=True)
class Plan:
    """Say what the training run of `recipe` needs; the model stays loaded."""

    job_id: str
    recipe: Path


@dataclass(frozen=True)
class Train:
    """Train by `recipe`, from its last checkpoint when there is one. The film model goes first: one model at a time."""

    job_id: str
    recipe: Path


@dataclass(frozen=True)
class Cancel:
    job_id: str


@dataclass(frozen=True)
class Close: ...


Command = Load | Render | Export | Draft | Plan | Train | Cancel | Close


# Answers


@dataclass(frozen=True)
class Beat: ...


@dataclass(frozen=True)
class Planned:
    """What a training run needs: memory and disk by item, why it does not fit, and what had to be assumed.

    groups: (title, ((item, bytes), …), bytes available).
    """

    groups: tuple[tuple[str, tuple[tuple[str, int], ...], int], ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """A record of the trainer; they are in the run's own journal as well."""

    kind: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Happened:
    """`event` of job `job_id` ("" for the model itself); `preview` is its WebP."""

    job_id: str
    event: Event | Planned | Trained
    preview: bytes | None = None


@dataclass(frozen=True)
class Seen:
    """The machine as it was before anything was loaded."""

    machine: Machine


Answer = Beat | Happened | Seen


def main(connection: Connection, options: Options) -> None:
    """The child's life: serve commands until the server closes it or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides when to end
    logging.basicConfig(level=options.log_level, format="%(asctime)s worker %(levelname)s %(name)s: %(message)s")
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICE)
    Child(connection, options).serve()


class Child:
    """Owns the backend and the pipe's far end."""

    def __init__(self, connection: Connection, options: Options) -> None:
        self._connection = connection
        self._options = options
        self._sending = threading.Lock()
        self._commands: queue.Queue[Command] = queue.Queue()
        self._cancelled: set[str] = set()
        self._rendering = ""  # the job whose clip is being made
        self._backend: Any = None
        self._preset: Preset | None = None
        self._drafter: StorylineDrafter | None = None
        self._drafter_of: Choice | None = None
        self._drafting = ""  # the job whose storyline is being written

    def serve(self) -> None:
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        self._look()
        while not isinstance(command := self._commands.get(), Close):
            match command:
                case Load():
                    self._guarded("", lambda preset=command.preset: self._open(preset))
                case Render():
                    self._guarded(command.job_id, lambda job=command: self._render(job))
                case Export():
                    self._guarded(command.job_id, lambda job=command: self._export(job))
                case Draft():
                    self._guarded(command.job_id, lambda job=command: self._draft(job))
                case Plan():
                    self._guarded(command.job_id, lambda job=command: self._plan(job))
                case Train():
                    self._guarded(command.job_id, lambda job=command: self._train(job))
        self._drop_backend()
        self._drop_drafter()

    def _listen(self) -> None:
        try:
            while True:
                command = self._connection.recv()
                if isinstance(command, Cancel):
                    self._cancelled.add(command.job_id)
                    if command.job_id == self._rendering and self._backend is not None:
                        self._backend.interrupt()
                    drafter = self._drafter
                    if command.job_id == self._drafting and drafter is not None:
                        drafter.interrupt()
                else:
                    self._commands.put(command)
        except (EOFError, OSError):
            os._exit(0)  # the server is gone; the kernel releases the project's lock, the take is not committed

    def _beat(self) -> None:
        while True:
            self._answer(Beat())
            time.sleep(self._options.beat_s)

    def _look(self) -> None:
        """Report the machine. The model stack is imported here, which loading a model would do in any case."""
        try:
            look = machine_of(self._options.backend)
            if look:
                self._answer(Seen(look()))
        except (ImportError, RuntimeError, OSError) as err:  # loading the model will say it better
            log.warning("the machine could not be looked at: %s", err)

    def _answer(self, answer: Answer) -> None:
        try:
            with self._sending:
                self._connection.send(answer)
        except OSError:
            os._exit(0)

    def _happened(self, job_id: str, event: Event | Planned | Trained, preview: bytes | None = None) -> None:
        self._answer(Happened(job_id, event, preview))

    def _guarded(self, job_id: str, work: Any) -> None:
        """Run `work`; what goes wrong becomes a `JobFailed`. After a bug the process ends: its state is suspect."""
        self._clip_id = ""
        try:
            work()
        except StudioError as err:
            self._happened(job_id, JobFailed(err.message, err.hint, clip_id=self._clip_id, kind=type(err).__name__))
        except Exception as err:
            error_id = secrets.token_hex(4)
            log.exception("error %s", error_id)
            what = "making this clip" if self._clip_id else "doing this job" if job_id else "loading the model"
            self._happened(
                job_id,
                JobFailed(
                    f"Something went wrong while {what}.",
                    "What was finished is safe. Try again; the log has the details.",
                    error_id,
                    self._clip_id,
                    type(err).__name__,
                ),
            )
            logging.shutdown()
            os._exit(3)

    def _open(self, preset: Preset) -> Any:
        if self._backend is not None and self._preset == preset:
            return self._backend
        self._drop_backend()
        self._drop_drafter()
        self._happened("", ModelLoading(preset.name))
        began = time.monotonic()
        if self._options.backend:
            backend = named(self._options.backend)(preset)
        else:
            from engine.backends import open_backend

            backend = open_backend(preset, threads=self._options.threads)
        self._backend, self._preset = backend, preset
        seconds = time.monotonic() - began
        log.info("preset %s loaded in %.1f s", preset.name, seconds)
        self._happened("", ModelReady(preset.name, seconds))
        return backend

    def _drop_backend(self) -> None:
        if self._backend is not None:
            backend, self._backend, self._preset = self._backend, None, None
            backend.close()
            del backend
            gc.collect()

    def _draft(self, job: Draft) -> None:
        """Write the storyline, a beat at a time. After a lack of memory the language model goes, whatever it was."""
        self._drafting = job.job_id
        try:
            drafter = self._open_drafter(job)
            with contextlib.closing(drafter.beats(job.brief)) as beats:
                numbered = enumerate(beats)
                while job.job_id not in self._cancelled and (drafted := next(numbered, None)):
                    index, beat = drafted
                    self._happened(job.job_id, BeatDrafted(index, beat.prompt, beat.caption))
        except OutOfMemory:
            self._drop_drafter()
            raise
        finally:
            self._drafting = ""
        ended = JobCancelled(0) if job.job_id in self._cancelled else JobDone(0)
        self._cancelled.discard(job.job_id)
        self._happened(job.job_id, ended)

    def _open_drafter(self, job: Draft) -> StorylineDrafter:
        if self._drafter is None or self._drafter_of != job.choice:
            self._drop_backend()
            self._drop_drafter()
            self._happened(job.job_id, DrafterLoading(job.choice.title))
            began = time.monotonic()
            open_here = named(self._options.drafter) if self._options.drafter else open_drafter
            self._drafter = open_here(job.choice, Config())
            self._drafter_of = job.choice
            log.info("%s loaded in %.1f s", job.choice.title, time.monotonic() - began)
        return self._drafter

    def _drop_drafter(self) -> None:
        if self._drafter is not None:
            drafter, self._drafter, self._drafter_of = self._drafter, None, None
            drafter.close()
            del drafter
            gc.collect()

    def _render(self, job: Render) -> None:
        try:
            self._render_once(job)
        except OutOfMemory as err:
            # The frames of the failed clip are released here, outside the except block that would keep them alive.
            log.warning("out of memory, loading anew for one more try: %s", err.message)
            retry = True
        else:
            retry = False
        if retry:
            self._drop_backend()
            self._render_once(job)

    def _render_once(self, job: Render) -> None:
        from engine import film
        from engine.project.store import Store

        backend = self._open(job.preset)
        clips, complete = 0, False
        self._rendering = job.job_id
        try:
            while not complete and job.job_id not in self._cancelled:
                events = film.render(Store(job.folder), backend, job.preset, reserve_bytes=job.reserve_bytes)
                with contextlib.closing(events), contextlib.suppress(Interrupted):
                    # An interruption may have been meant for the job before: then the clip is begun again.
                    for event in events:
                        if isinstance(event, ClipStarted | TakeCommitted):
                            self._clip_id = event.clip_id if isinstance(event, ClipStarted) else ""
                        clips += isinstance(event, TakeCommitted)
                        self._send_clip_event(job.job_id, event)
                        if job.job_id in self._cancelled:
                            break
                    else:
                        complete = True
        finally:
            self._rendering = ""
        if job.job_id in self._cancelled:
            self._cancelled.discard(job.job_id)
            self._happened(job.job_id, JobCancelled(clips))
        else:
            self._happened(job.job_id, JobDone(clips))

    def _send_clip_event(self, job_id: str, event: Event) -> None:
        preview = None
        if isinstance(event, ClipStep) and event.preview is not None:
            from engine.media.video import webp_preview

            preview = webp_preview(list(event.preview), PREVIEW_BYTES)
            event = replace(event, preview=None)
        self._happened(job_id, event, preview)

    def _export(self, job: Export) -> None:
        from engine import film
        from engine.project.store import Store

        exported = film.export(Store(job.folder), job.preset)
        self._happened(job.job_id, exported)
        self._happened(job.job_id, JobDone(exported.clips))

    def _plan(self, job: Plan) -> None:
        from engine.training.preflight import default_machine, preflight
        from engine.training.recipe import read_recipe

        config = read_recipe(job.recipe)
        plan, notes = preflight(config, default_machine(config))
        groups = tuple(
            (group.title, tuple((item.name, item.num_bytes) for item in group.items), group.available)
            for group in plan.groups
        )
        if plan.bank:
            notes = [plan.bank.sentence, *notes]
        self._happened(job.job_id, Planned(groups, plan.problems, tuple(notes)))
        self._happened(job.job_id, JobDone(0))

    def _train(self, job: Train) -> None:
        """Train until the end or a cancellation, which leaves a checkpoint. What does not fit is not begun."""
        from engine.training.preflight import default_machine, preflight
        from engine.training.recipe import read_recipe
        from engine.training.trainer import train

        self._drop_backend()
        self._drop_drafter()
        config = read_recipe(job.recipe)
        plan, _ = preflight(config, default_machine(config))
        if plan.problems:
            raise TrainingError(plan.problems[0], "Nothing was started.")
        try:
            with contextlib.closing(train(job.recipe)) as records:
                for record in records:
                    self._happened(job.job_id, Trained(record["kind"], record))
                    if job.job_id in self._cancelled:
                        break
        except (MemoryError, RuntimeError) as err:
            if not isinstance(err, MemoryError) and type(err).__name__ != "OutOfMemoryError":
                raise
            raise OutOfMemory(
                "Training needs more memory than this computer has free.", "Close other programs, then resume."
            ) from err
        finally:
            gc.collect()
        ended = JobCancelled(0) if job.job_id in self._cancelled else JobDone(0)
        self._cancelled.discard(job.job_id)
        self._happened(job.job_id, ended)


def named(function: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def machine_of(backend: str) -> Callable[[], Machine] | None:
    """What looks at the machine; the module of a double (`Options.backend`) may have a `machine_here` of its own."""
    if backend:
        return getattr(importlib.import_module(backend.partition(":")[0]), "machine_here", None)
    from engine.models.placement import machine_here

    return machine_here


class Worker:
    """The server's handle on one worker process. Not thread-safe: the queue's thread owns it."""

    def __init__(self, options: Options) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self.process = context.Process(target=main, args=(far_end, options), name="studio-worker", daemon=True)
        self.process.start()
        far_end.close()
        self.last_beat = time.monotonic() + START_S

    def send(self, command: Command) -> None:
        """Send; a worker that has just died is noticed by `alive`, not here."""
        with contextlib.suppress(OSError):
            self.connection.send(command)

    def receive(self) -> list[Answer]:
        """Everything that has arrived."""
        answers: list[Answer] = []
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                answer = self.connection.recv()
                self.last_beat = time.monotonic()
                if not isinstance(answer, Beat):
                    answers.append(answer)
        return answers

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def silent_s(self) -> float:
        """Seconds since it was last heard, or since it should have been heard first."""
        return time.monotonic() - self.last_beat

    def kill(self) -> None:
        self.process.kill()
        self.process.join(5)
        self.connection.close()

    def close(self, timeout_s: float) -> None:
        """Ask it to end; kill it after `timeout_s`."""
        self.send(Close())
        self.process.join(timeout_s)
        self.kill()
