"""The Lab: a creator's own videos and captions become a LoRA, and the LoRA a model that films can be made with.

A run is a folder, `<data>/lab/<id>/`: run.json, videos/, the trainer's out/ and models/. It is the only state, so a run
that was cut off is paused and goes on from its checkpoint. Knows nothing about HTTP, gradio or the model stack.
"""

import csv
import io
import json
import logging
import os
import re
import secrets
import shutil
import statistics
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.config import ASSETS, MODELS_PREFIX, PRESETS, Config, Preset, load_preset, read_yaml
from engine.domain import ID_PATTERN, Id, new_id
from engine.errors import DiskFull, InputError, ProjectNotFound, StudioError, disk_errors_explained, nearest
from engine.media.footage import import_video
from engine.media.footage_importer import MAX_SECONDS
from engine.project.files import write_atomically
from studio.library import NEW, OWNER_FILE, TRASH, owner_of, read_owner
from studio.limits import MAX_RUNS, Rates
from studio.queue import Job, JobQueue, TrainingListener
from studio.tokens import Tokens
from studio.view import Outcome, eta_text
from studio.worker import Planned, Trained

log = logging.getLogger(__name__)
MAX_VIDEOS = 24
MAX_CAPTION_CHARACTERS = 1000
MAX_CAPTION_FILE_CHARACTERS = 500_000
MIN_STEPS, MAX_STEPS = 4, 20_000
DEFAULT_STEPS = {"pocket": 300, "wan": 3000}
SMALL_SIDES = 2  # the embedded model's fields are fitted to frames of half the size: the fit looks at no more pixels
CURVE_POINTS = 240
PACE_STEPS = 20  # the last so many steps tell how long the rest takes
MODEL_NAME = re.compile(r"lab-([a-z0-9]{26})-(\d{1,6})")
VIDEO_NAME = re.compile(r"video-\d{4}")
DRIFT_FILE = ASSETS / "bench" / "drift.json"
RESUME = "Resume goes on from the last checkpoint."
NOT_HERE = ("There is no such training run here.", "Check the link.")

Body = Mapping[str, Any]
Status = Literal["draft", "started", "failed", "done"]


class Video(BaseModel):
    """A stored video. `original` is what it was called, as text only."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(pattern=VIDEO_NAME.pattern)
    original: str = ""
    caption: str = ""
    width: int
    height: int
    num_frames: int
    seconds: float


class Check(BaseModel):
    """What the last preflight said, of the run as `key` tells."""

    model_config = ConfigDict(extra="ignore")

    key: str
    groups: tuple[tuple[str, tuple[tuple[str, int], ...], int], ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Run(BaseModel):
    """What should be trained, and how the last attempt ended."""

    model_config = ConfigDict(extra="ignore")

    schema_version: Literal[1] = 1
    id: Id
    title: str = "Untitled LoRA"
    variant: Literal["film", "shot"] = "film"
    steps: int
    seed: int = 0
    videos: tuple[Video, ...] = ()
    next_video: int = 1
    status: Status = "draft"
    message: str = ""
    hint: str = ""
    error_id: str = ""
    check: Check | None = None
    created: float

    @property
    def key(self) -> str:
        """Changes with everything that a preflight depends on."""
        facts = [self.variant, self.steps, [(v.name, v.width, v.height, v.num_frames) for v in self.videos]]
        return json.dumps(facts)

    @property
    def missing(self) -> str:
        """Why training cannot start yet, or ""."""
        if not self.videos:
            return "Add a video first."
        without = sum(not video.caption for video in self.videos)
        if without:
            videos = "1 video has" if without == 1 else f"{without} videos have"
            return f"Write a caption for every video: {videos} none."
        return ""


@dataclass
class Journal:
    """What a run's log.jsonl says, read on from where the last reading ended.

    A run that was killed goes back to its checkpoint: the steps it makes again replace those it had made.
    """

    path: Path
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    samples: dict[int, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)  # what was said of the videos; ordered, each once
    best: int = 0  # the step of the newest LoRA
    _offset: int = 0

    def read(self) -> "Journal":
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written
                self._offset += len(line)
                with suppress(ValueError, KeyError, TypeError):  # torn by a crash
                    self._take(json.loads(line))
        return self

    def _take(self, record: dict[str, Any]) -> None:
        match record["kind"]:
            case "step":
                step = int(record["step"])
                if step <= self.step:
                    self.steps = {known: kept for known, kept in self.steps.items() if known < step}
                self.steps[step] = record
            case "sample":
                self.samples[int(record["step"])] = Path(record["file"]).name
            case "latents":
                told = [*record.get("skipped", []), *record.get("noted", [])]
                self.notes |= dict.fromkeys(f"{note['name']} {note['reason']}" for note in told)
            case "best":
                self.best = int(record["step"])

    @property
    def step(self) -> int:
        return next(reversed(self.steps), 0)  # they come in order

    def step_s(self) -> float | None:
        """Seconds a step takes, from the last ones."""
        recent = [self.steps[step].get("clips_per_s") for step in sorted(self.steps)[-PACE_STEPS:]]
        known = [1 / rate for rate in recent if rate]
        return statistics.median(known) if known else None

    def curve(self) -> dict[str, list[float | None]]:
        """At most `CURVE_POINTS` points: step, mean loss around it, fill of the error bank (0 to 1)."""
        steps = sorted(self.steps)
        width = max(1, -(-len(steps) // CURVE_POINTS))
        groups = [[self.steps[step] for step in steps[at : at + width]] for at in range(0, len(steps), width)]
        return {
            "steps": [group[-1]["step"] for group in groups],
            "loss": [round(statistics.fmean(record["loss"] for record in group), 6) for group in groups],
            "fill": [group[-1].get("bank_fill") for group in groups],
        }


class Lab:
    """Training runs: made, filled, checked, started, paused, and used in films. Safe to call from any thread.

    `preset`: what `Config.preset` says. Nothing here calls the queue while holding the lock: the queue calls back.
    """

    def __init__(
        self, folder: Path, config: Config, base: Preset, queue: JobQueue, tokens: Tokens, rates: Rates, uploads: Path
    ) -> None:
        self.folder = folder
        self.config = config
        self.base = base
        self.queue = queue
        self.tokens = tokens
        self.rates = rates
        self.uploads = uploads
        self.films_with: Callable[[str], int] = lambda start: 0  # films whose preset's name starts so
        self._lock = threading.RLock()
        self._journals: dict[str, Journal] = {}
        self._encoding: dict[str, dict[str, Any]] = {}
        self._commands: dict[str, Callable[[Run, Body], dict[str, Any] | None]] = {
            "add": self._add,
            "remove": self._remove,
            "caption": self._caption,
            "captions": self._captions,
            "set": self._set,
            "check": self._check,
            "start": self._start,
            "resume": self._start,
            "pause": self._pause,
            "use": self._use,
            "delete": self._delete,
        }
        with disk_errors_explained("the Lab's folder"):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in (*folder.glob(f"{NEW}*"), *folder.glob(f"{TRASH}*")):
            shutil.rmtree(leftover, ignore_errors=True)
        queue.training = TrainingListener(self._recipe, self._planned, self._trained, self._ended)

    # Looking

    def exists(self, run_id: str) -> bool:
        return bool(ID_PATTERN.fullmatch(run_id)) and (self.folder / run_id / "run.json").is_file()

    def runs(self, secret: str) -> list[dict[str, Any]]:
        """The runs of the owner who holds `secret`, newest first, each with the token that opens it."""
        owner = owner_of(secret)
        mine = [folder for folder in self.folder.iterdir() if self.exists(folder.name) and read_owner(folder) == owner]
        found = []
        for folder in mine:
            with suppress(StudioError):
                run = self._load(folder.name)
                found.append((run.created, self._summary(run) | {"token": self.tokens.give(run.id, "edit")}))
        return [summary for _, summary in sorted(found, key=lambda pair: -pair[0])]

    def models(self, secret: str) -> list[dict[str, str]]:
        """What a film of this owner can be made with, besides the studio's own model."""
        return [
            {"name": preset.name, "title": preset.title, "variant": run["variant"]}
            for run in self.runs(secret)
            for preset in self._models_of(run["id"])
        ]

    def rev(self, run_id: str) -> int:
        return self.queue.feed.rev(run_id)

    def state(self, run_id: str, *, media_base: str = "", token: str = "") -> dict[str, Any]:
        """The page's view of the run."""
        rev = self.rev(run_id)  # read first: what changes meanwhile is fetched by the next poll
        run, journal = self._load(run_id), self._journal(run_id)
        phase = self._phase(run, journal)
        return {
            "rev": rev,
            **self._summary(run),
            "editable": run.status == "draft" and phase == "draft",
            "message": self._message(run, journal, phase),
            "error": self._error(run, phase),
            "primary": self._primary(run, phase),
            "missing": run.missing,
            "videos": [
                video.model_dump() | {"poster_url": f"{media_base}/poster/{video.name}?token={token}"}
                for video in run.videos
            ],
            "plan": self._plan(run),
            "curve": journal.curve(),
            "samples": [
                {"step": step, "url": f"{media_base}/sheet/{step}?token={token}"} for step in sorted(journal.samples)
            ],
            "notes": list(journal.notes),
            "model": self._model_facts(run, journal, phase),
        }

    def poster_file(self, run_id: str, name: str) -> Path:
        return self._file(run_id, f"posters/{name}.jpg" if VIDEO_NAME.fullmatch(name) else "")

    def sheet_file(self, run_id: str, step: str) -> Path:
        if not re.fullmatch(r"\d{1,6}", step, re.ASCII):
            raise ProjectNotFound(*NOT_HERE)
        return self._file(run_id, f"out/samples/step-{int(step):06d}.png")

    def _file(self, run_id: str, name: str) -> Path:
        path = self._folder(run_id) / name
        if not name or not path.is_file():
            raise ProjectNotFound("There is no such file here.")
        return path

    def _summary(self, run: Run) -> dict[str, Any]:
        journal = self._journal(run.id)
        return {
            "id": run.id,
            "title": run.title,
            "variant": run.variant,
            "status": self._phase(run, journal),
            "step": journal.step,
            "steps": run.steps,
        }

    def _phase(self, run: Run, journal: Journal) -> str:
        """draft, queued, training, pausing, paused, failed or done."""
        job = self.queue.job_of(run.id, "train")
        if job:
            if self.queue.ending_of(run.id, "train"):
                return "pausing"
            return "training" if job.state == "running" else "queued"
        if run.status == "started":
            return "paused"
        return run.status

    def _message(self, run: Run, journal: Journal, phase: str) -> str:
        """One sentence: what, how far, how long."""
        at = f"step {journal.step} of {run.steps}"
        match phase:
            case "draft":
                return run.missing or f"{videos_text(len(run.videos))}, ready to train."
            case "queued":
                job = self.queue.job_of(run.id, "train")
                place = self.queue.place(job) if job else 0
                return f"{place} {'job' if place == 1 else 'jobs'} before this one." if place else "Starting…"
            case "pausing":
                return "Pausing after the current step. Nothing is lost."
            case "training":
                encoding = self._encoding.get(run.id)
                if encoding and encoding["done"] < encoding["of"]:
                    return f"Reading the videos: {encoding['done']} of {encoding['of']} windows."
                if not encoding and not journal.steps:
                    return "Loading the model and reading the videos…"
                if not journal.steps:
                    return "The first step is being made…"
                step_s = journal.step_s()
                left = None if step_s is None else (run.steps - journal.step) * step_s
                return f"{at[0].upper()}{at[1:]} · {eta_text(left)} left"
            case "paused":
                reason = run.message or "Paused"
                return f"{reason} at {at}. {RESUME}" if journal.steps else f"{reason}. No step was made yet."
            case "done":
                return f"Done: {run.steps} steps on {videos_text(len(run.videos))}."
        return ""

    def _error(self, run: Run, phase: str) -> dict[str, str] | None:
        if phase != "failed":
            return None
        return {"message": run.message, "hint": run.hint, "id": run.error_id}

    def _primary(self, run: Run, phase: str) -> dict[str, Any]:
        """The one button whose label follows the state."""
        problems = run.check.problems if run.check and run.check.key == run.key else ()
        reason = run.missing or (problems[0] if problems else "")
        match phase:
            case "draft":
                return {"label": "Start training", "action": "start", "enabled": not reason, "reason": reason}
            case "paused" | "failed":
                return {"label": "Resume", "action": "resume", "enabled": not reason, "reason": reason}
            case "queued" | "training":
                return {"label": "Pause", "action": "pause", "enabled": True, "reason": ""}
            case "pausing":
                return {"label": "Pausing…", "action": "", "enabled": False, "reason": "after the current step"}
        return {"label": "Use in a film", "action": "use", "enabled": True, "reason": ""}

    def _plan(self, run: Run) -> dict[str, Any]:
        current = run.check is not None and run.check.key == run.key
        return {
            "wanted": not current and bool(run.videos) and run.status == "draft",
            "checking": self.queue.job_of(run.id, "plan") is not None,
            "groups": run.check.groups if run.check and current else (),
            "problems": run.check.problems if run.check and current else (),
            "notes": run.check.notes if run.check and current else (),
        }

    def _model_facts(self, run: Run, journal: Journal, phase: str) -> dict[str, Any]:
        """Whether the LoRA can be used in a film, and if not, when."""
        if journal.best and phase in ("paused", "failed", "done"):
            return {"ready": True, "step": journal.best, "reason": ""}
        every = evaluate_every(run.steps)
        reason = "Pause first, then use it." if journal.best else f"The first LoRA is written at step {every}."
        return {"ready": False, "step": journal.best, "reason": reason}

    # Making

    def create(self, secret: str) -> tuple[str, str]:
        """(id, token) of a new, empty run of the owner who holds `secret`."""
        if not isinstance(secret, str) or not 8 <= len(secret) <= 200:
            raise InputError("The browser did not say whose run this is.", "Reload the page and try again.")
        owner = owner_of(secret)
        if len(self.runs(secret)) >= MAX_RUNS:
            raise InputError(f"You have {MAX_RUNS} training runs here, the limit.", "Delete one first.")
        run = Run(id=new_id(), steps=DEFAULT_STEPS[self.base.family], created=time.time())
        part = self.folder / f"{NEW}{secrets.token_hex(8)}"
        try:
            with disk_errors_explained("a new training run"):
                for name in ("videos", "posters", "models"):
                    (part / name).mkdir(parents=True)
                write_atomically(part / OWNER_FILE, json.dumps({"owner": owner}).encode(), point="owner")
                write_atomically(part / "run.json", run.model_dump_json(indent=1).encode(), point="lab")
                os.rename(part, self.folder / run.id)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        log.info("training run %s made", run.id[:6])
        return run.id, self.tokens.give(run.id, "edit")

    def act(self, run_id: str, body: Body) -> dict[str, Any]:
        """Do what `body["action"]` names."""
        action = body.get("action")
        command = self._commands.get(action) if isinstance(action, str) else None
        if command is None:
            name = str(action)[:40]
            raise InputError(f"There is no action “{name}”.", nearest(name, [*self._commands]))
        answer = command(self._load(run_id), body) or {}
        return {**answer, "rev": self.queue.feed.bump(run_id)}

    def _add(self, run: Run, body: Body) -> dict[str, Any]:
        """A video that was uploaded: checked and re-made in a child process, its name made here."""
        upload = self._uploaded(body.get("upload"))
        original = text_of(body.get("name", ""), "name of the video", 200)
        self._refuse_unless_draft(run)
        if len(run.videos) >= MAX_VIDEOS:
            raise InputError(f"A run takes up to {MAX_VIDEOS} videos.", "Remove one first.")
        free = shutil.disk_usage(self.folder).free
        if free < self.config.reserve_bytes + 2 * upload.stat().st_size:
            raise DiskFull(f"No room for more videos ({free / 1e9:.1f} GB left).", "Free space, then add it again.")
        folder = self._folder(run.id)
        with self._lock:
            number = self._load(run.id).next_video
            self._change(run.id, lambda before: before.model_copy(update={"next_video": number + 1}))
        name = f"video-{number:04d}"
        try:
            with disk_errors_explained("the Lab's folder"):
                info = import_video(upload, folder / "videos" / f"{name}.mp4", folder / "posters" / f"{name}.jpg")
        finally:
            with suppress(OSError):
                upload.unlink(missing_ok=True)
                upload.parent.rmdir()  # Gradio makes one folder an upload
        video = Video(name=name, original=original, **vars(info))

        def added(before: Run) -> Run:
            refuse_unless_draft(before)
            if len(before.videos) >= MAX_VIDEOS:
                raise InputError(f"A run takes up to {MAX_VIDEOS} videos.", "Remove one first.")
            return before.model_copy(update={"videos": (*before.videos, video)})

        self._change(run.id, added)
        return {"video": name}

    def _uploaded(self, path: object) -> Path:
        """`path`, when Gradio stored it as an upload; nothing else may be read."""
        if not isinstance(path, str) or len(path) > 4000 or "\0" in path:
            raise InputError("The action does not say which upload.", "Upload the video again.")
        resolved = Path(path).resolve()
        if not resolved.is_relative_to(self.uploads.resolve()) or not resolved.is_file():
            raise InputError("The video is not there any more.", "Upload it again.")
        return resolved

    def _remove(self, run: Run, body: Body) -> None:
        name = self._video_name(run, body)

        self._refuse_unless_draft(run)

        def removed(before: Run) -> Run:
            refuse_unless_draft(before)
            return before.model_copy(update={"videos": tuple(v for v in before.videos if v.name != name)})

        self._change(run.id, removed)
        for file in (f"videos/{name}.mp4", f"posters/{name}.jpg"):
            with suppress(OSError):
                (self._folder(run.id) / file).unlink(missing_ok=True)

    def _caption(self, run: Run, body: Body) -> None:
        name = self._video_name(run, body)
        caption = text_of(body.get("caption", ""), "caption", MAX_CAPTION_CHARACTERS)
        self._change(run.id, lambda before: captioned(before, {name: caption}))

    def _captions(self, run: Run, body: Body) -> dict[str, Any]:
        """The captions of a CSV or JSON lines file, found by the videos' own names."""
        found = read_captions(body.get("text"), str(body.get("name", "")))
        by_name = {fold_name(video.original): video.name for video in run.videos}
        matched = {by_name[name]: caption for name, caption in found.items() if name in by_name}
        if not matched:
            raise InputError(
                "No row of the captions names a video of this run.", "Add the videos first, under the same file names."
            )
        self._change(run.id, lambda before: captioned(before, matched))
        return {"matched": len(matched), "unmatched": len(found) - len(matched)}

    def _set(self, run: Run, body: Body) -> None:
        changes: dict[str, Any] = {}
        if "title" in body:
            changes["title"] = text_of(body["title"], "title", 80) or "Untitled LoRA"
        if "variant" in body:
            self._refuse_unless_draft(run)
            offered = list(self.base.variants)
            if body["variant"] not in offered:
                raise InputError("There is no such kind of film here.", nearest(str(body["variant"])[:40], offered))
            changes["variant"] = body["variant"]
        if "steps" in body:
            changes["steps"] = self._steps(run, body["steps"])
            if run.status == "done" and changes["steps"] > run.steps:
                changes |= {"status": "started", "message": ""}
        self._change(run.id, lambda before: before.model_copy(update=changes))

    def _steps(self, run: Run, value: object) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not MIN_STEPS <= value <= MAX_STEPS:
            raise InputError(f"The number of steps must be a whole number from {MIN_STEPS} to {MAX_STEPS:,}.")
        if self.queue.job_of(run.id, "train"):
            raise InputError("The run is being trained.", "Pause it first.")
        done = self._journal(run.id).step
        if value < done:
            raise InputError(f"{done} steps are done already.", "Ask for more.")
        return value

    def _video_name(self, run: Run, body: Body) -> str:
        name = body.get("video")
        if name not in {video.name for video in run.videos}:
            raise InputError("That video is not in this run any more.", "Reload the page.")
        return str(name)

    def _refuse_unless_draft(self, run: Run) -> None:
        if self.queue.job_of(run.id, "train"):
            raise InputError("This run is waiting to be trained.", "Pause it first.")
        refuse_unless_draft(run)

    def _delete(self, run: Run, body: Body) -> None:
        if self.queue.busy(run.id):
            raise InputError("This run is being worked on.", "Pause it first, then delete it.")
        if count := self.films_with(f"lab-{run.id}-"):
            films = "A film was" if count == 1 else f"{count} films were"
            raise InputError(f"{films} made with this LoRA and would lose it.", "Delete the film first.")
        trash = self.folder / f"{TRASH}{run.id}"
        with disk_errors_explained("the Lab's folder"):
            os.rename(self._folder(run.id), trash)
        self._journals.pop(run.id, None)
        threading.Thread(target=shutil.rmtree, args=(trash, True), name="delete", daemon=True).start()

    # Training

    def _check(self, run: Run, body: Body) -> None:
        """Ask what training would need; the answer comes with the state."""
        if not run.videos:
            raise InputError(run.missing)
        self.queue.enqueue("plan", run.id, read_owner(self._folder(run.id)))

    def _start(self, run: Run, body: Body) -> None:
        if run.missing:
            raise InputError(run.missing)
        if run.status == "done":
            raise InputError("This run is done.", "Ask for more steps, or use it in a film.")
        check = self.queue.job_of(run.id, "plan")
        if check and check.state == "waiting":
            self.queue.end(run.id, "stop", kind="plan")  # training looks for itself
        self.queue.enqueue("train", run.id, read_owner(self._folder(run.id)), after_restart="wait")

    def _pause(self, run: Run, body: Body) -> None:
        self.queue.end(run.id, "pause", kind="train")

    def _recipe(self, job: Job) -> Path:
        """The recipe of the run, written with the paths of this moment: the data folder may have moved."""
        run, folder = self._load(job.project_id), self._folder(job.project_id)
        table = io.StringIO(newline="")
        rows = [("file_name", "caption"), *((f"{video.name}.mp4", video.caption) for video in run.videos)]
        csv.writer(table).writerows(rows)
        path = folder / "recipe.yaml"
        with disk_errors_explained("the Lab's folder"):
            write_atomically(folder / "videos" / "captions.csv", table.getvalue().encode(), point="captions")
            text = yaml.safe_dump(recipe(run, folder, self.base, self.config.preset), sort_keys=False)
            write_atomically(path, text.encode(), point="recipe")
        if job.kind == "train":
            self._encoding.pop(run.id, None)
            cleared = {"status": "started", "message": "", "hint": "", "error_id": ""}
            self._change(run.id, lambda before: before.model_copy(update=cleared))
        return path

    def _planned(self, job: Job, event: Planned) -> None:
        def checked(run: Run) -> Run:
            check = Check(key=run.key, groups=event.groups, problems=event.problems, notes=event.notes)
            return run.model_copy(update={"check": check})

        self._change(job.project_id, checked)

    def _trained(self, job: Job, event: Trained) -> None:
        if event.kind == "latents":
            self._encoding[job.project_id] = event.values
        elif event.kind == "sample":
            self.queue.feed.announce(job.project_id, f"A sample of step {event.values['step']} is here.")

    def _ended(self, job: Job, outcome: Outcome | None) -> None:
        """Called by the queue's thread when a job of a run is over; None: it came to its end."""
        self._encoding.pop(job.project_id, None)
        if not self.exists(job.project_id):
            return
        if job.kind == "plan":
            if outcome and outcome.kind in ("failed", "full"):
                problem = f"{outcome.message} {outcome.hint}".strip()
                self._planned(job, Planned((), (problem,), ()))
            return
        run, complete = self._load(job.project_id), outcome is None
        if outcome and outcome.kind == "paused":
            complete = self._journal(run.id).step >= run.steps
        changes: dict[str, Any] = {"message": "", "hint": "", "error_id": ""}
        if complete:
            changes["status"] = "done"
        elif outcome and outcome.kind in ("failed", "full"):
            changes = {"message": outcome.message, "hint": outcome.hint, "error_id": outcome.error_id}
            changes["status"] = "failed"
        elif outcome and outcome.kind == "interrupted":
            changes["message"] = "The training was interrupted"
        self._change(run.id, lambda before: before.model_copy(update=changes))

    # Models for films

    def _use(self, run: Run, body: Body) -> dict[str, Any]:
        """Keep the LoRA as it is now under a name of its own, so that training on changes no film."""
        journal = self._journal(run.id)
        if self.queue.job_of(run.id, "train"):
            raise InputError("The run is being trained.", "Pause it first.")
        lora = self._folder(run.id) / "out" / "lora.safetensors"
        if not journal.best or not lora.is_file():
            raise InputError("There is no LoRA yet.", f"It is written at step {evaluate_every(run.steps)}.")
        name = f"lab-{run.id}-{journal.best}"
        models = self._folder(run.id) / "models"
        if not (models / f"{name}.yaml").is_file():
            with disk_errors_explained("the Lab's folder"):
                models.mkdir(exist_ok=True)
                write_atomically(models / f"{name}.safetensors", lora.read_bytes(), point="model")
                data = preset_data(self.base, name, run, journal.best, Path(f"{name}.safetensors"))
                text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
                write_atomically(models / f"{name}.yaml", text.encode(), point="model")
        preset = load_preset(str(models / f"{name}.yaml"))
        return {"model": {"name": preset.name, "title": preset.title, "variant": run.variant}}

    def preset_file(self, name: str) -> Path | None:
        """The preset file of a LoRA that was trained here, or None."""
        match = MODEL_NAME.fullmatch(name)
        path = self.folder / match[1] / "models" / f"{name}.yaml" if match else None
        return path if path and path.is_file() else None

    def preset_of(self, owner: str, name: str) -> Preset | None:
        """The preset called `name` when it is one of `owner`'s (a hash), else None."""
        path = self.preset_file(name)
        return load_preset(str(path)) if path and read_owner(path.parent.parent) == owner else None

    def _models_of(self, run_id: str) -> list[Preset]:
        found = []
        files = (self.folder / run_id / "models").glob("lab-*.yaml")
        for path in sorted(files, key=lambda file: -file.stat().st_mtime):
            with suppress(StudioError):
                found.append(load_preset(str(path)))
        return found

    # The folder

    def _folder(self, run_id: str) -> Path:
        if not self.exists(run_id):
            raise ProjectNotFound(*NOT_HERE)
        return self.folder / run_id

    def _load(self, run_id: str) -> Run:
        try:
            return Run.model_validate_json((self._folder(run_id) / "run.json").read_bytes())
        except (OSError, ValidationError) as err:
            raise StudioError("This training run's settings are damaged.", "Its videos and LoRA are safe.") from err

    def _change(self, run_id: str, change: Callable[[Run], Run]) -> Run:
        with self._lock:
            after = change(self._load(run_id))
            with disk_errors_explained("the Lab's folder"):
                write_atomically(
                    self._folder(run_id) / "run.json", after.model_dump_json(indent=1).encode(), point="lab"
                )
        return after

    def _journal(self, run_id: str) -> Journal:
        with self._lock:
            known = self._journals.get(run_id)
            if known is None:
                known = self._journals[run_id] = Journal(self.folder / run_id / "out" / "log.jsonl")
            return known.read()


def evaluate_every(steps: int) -> int:
    """A LoRA and a sample after each quarter."""
    return max(1, -(-steps // 4))


def recipe(run: Run, folder: Path, base: Preset, preset: str) -> dict[str, Any]:
    """The trainer's recipe of a run: the shipped one for large models, ours for the embedded one."""
    every = evaluate_every(run.steps)
    name = preset if Path(preset).suffix not in (".yaml", ".yml") else str(Path(preset).resolve())
    folder = folder.resolve()
    common = {
        "output": str(folder / "out"),
        "seed": run.seed,
        "variant": run.variant,
        "log_every": 1,
        "evaluate_every": every,
        "samples": {"every": every, "clips": 2},
    }
    videos = {
        "folder": str(folder / "videos"),
        "size": list(training_size(base, run.videos)),
        "num_frames": base.num_frames,
        "cache": str(folder / "latents"),
        "fps": float(base.fps),
        "windows_per_video": 2,
    }
    if base.family == "pocket":
        handed_over = 2 if base.variant(run.variant).num_motion_frames > 1 else 1  # latent frames
        return common | {
            "lora": {"preset": name, "rank": 16},
            "videos": videos,
            "recycling": {
                "clean": 0.5,
                "image_from": "noise",
                "image_frames": handed_over,
                "image_window": "last",
                "bank": {"capacity": 100, "replacement": "oldest"},
            },
            "ema": 0.98,
            "pure_noise": 0.5,
            "last_frame_weight": 2.0,
            "betas": [0.9, 0.98],
            "warmup_steps": min(20, max(1, run.steps // 10)),
            "phases": [{"steps": run.steps, "learning_rate": [6.0e-4, 1.0e-5]}],
            "checkpoint_every_s": 60,
        }
    shipped = read_yaml(PRESETS / f"train-wan21-{run.variant}-paper.yaml")
    rate = shipped["phases"][0]["learning_rate"]
    shipped["lora"]["preset"] = name
    return shipped | common | {"videos": videos, "phases": [{"steps": run.steps, "learning_rate": rate}]}


def training_size(base: Preset, videos: Iterable[Video]) -> tuple[int, int]:
    """(height, width), multiples of 16: the preset's shape nearest to the videos', halved for the embedded model."""
    shape = statistics.median(video.width / video.height for video in videos)
    chosen = base.resolution_for(round(1000 * shape), 1000)
    scale = SMALL_SIDES if base.family == "pocket" else 1
    return (chosen.height // scale // 16 * 16, chosen.width // scale // 16 * 16)


def preset_data(base: Preset, name: str, run: Run, step: int, lora: Path) -> dict[str, Any]:
    """The studio's own preset with the LoRA of one variant replaced, as the content of a file beside the LoRA."""
    data = resolved(json.loads(base.model_dump_json(exclude={"random_weights"}, exclude_none=True)), base)
    variants = data["variants"]
    variants[run.variant] = {"method": base.variant(run.variant).method, "lora": lora.as_posix()}
    title = f"{run.title} (step {step})"
    described = f"{base.title} with a LoRA for {base.variant(run.variant).title}, trained in this studio."
    return data | {
        "name": name,
        "title": title,
        "description": described,
        "variants": variants,
    }


def resolved(value: Any, base: Preset, key: str = "") -> Any:
    """`value` of a preset with its relative paths made absolute, so that a file in another folder may hold it."""
    if isinstance(value, dict):
        return {name: resolved(inner, base, key if key == "components" else name) for name, inner in value.items()}
    if isinstance(value, list):
        return [resolved(inner, base, key) for inner in value]
    is_path = key in ("components", "model", "lora", "low_noise_lora") and isinstance(value, str)
    return str(base.path(value)) if is_path and not value.startswith(MODELS_PREFIX) else value


def refuse_unless_draft(run: Run) -> None:
    if run.status != "draft":
        raise InputError("This run has started: its videos and kind are fixed.", "Make a new run for others.")


def captioned(run: Run, captions: Mapping[str, str]) -> Run:
    """`run` with the captions of the videos that `captions` names. Once training has begun they are fixed."""
    if run.status != "draft":
        raise InputError("This run has started: its captions are fixed.", "Make a new run for others.")
    videos = (v.model_copy(update={"caption": captions.get(v.name, v.caption)}) for v in run.videos)
    return run.model_copy(update={"videos": tuple(videos)})


def read_captions(text: object, name: str) -> dict[str, str]:
    """Captions by folded file name, in the layouts that the trainer reads: CSV with a header, or JSON lines."""
    from engine.training import dataset

    if not isinstance(text, str) or not text.strip():
        raise InputError("This captions file is empty.", "Use a CSV with the columns file_name and caption.")
    if len(text) > MAX_CAPTION_FILE_CHARACTERS:
        raise InputError("This captions file is too large.", "Leave only the rows of these videos.")
    rows = dataset.json_rows(text) if name.lower().endswith((".jsonl", ".json")) else dataset.csv_rows(text, "The file")
    found: dict[str, str] = {}
    for row in rows:
        file, caption = row.first(dataset.FILE_KEYS), row.first(dataset.CAPTION_KEYS)
        if isinstance(file, str) and isinstance(caption, str):
            found[fold_name(file)] = text_of(caption, "caption", MAX_CAPTION_CHARACTERS)
    if not found:
        raise InputError(
            "No row of this file has a name and a caption.", "Use a CSV with the columns file_name and caption."
        )
    return found


def fold_name(name: str) -> str:
    """A file name without folders, so that the same file is found whatever the case or the accents' form."""
    return unicodedata.normalize("NFC", re.split(r"[\\/]", name)[-1]).casefold().strip()


def text_of(value: object, name: str, most: int) -> str:
    """`value` on one line, without control characters."""
    if not isinstance(value, str):
        raise InputError(f"The {name} must be text.")
    if len(value) > most:
        raise InputError(f"The {name} has {len(value):,} characters; up to {most:,} are allowed.", "Shorten it.")
    shown = "".join(c if unicodedata.category(c) not in ("Cc", "Cs", "Co", "Cn") else " " for c in value)
    return " ".join(shown.split())


def videos_text(count: int) -> str:
    return "1 video" if count == 1 else f"{count} videos"


def drift_curves(path: Path = DRIFT_FILE) -> dict[str, Any] | None:
    """The drift benchmark's curves as it wrote them, or None when none were measured."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        log.warning("%s is unreadable", path.name)
        return None
    return data if isinstance(data, dict) and isinstance(data.get("arms"), dict) else None


def limits(base: Preset) -> dict[str, Any]:
    """What the page says before anything is uploaded."""
    return {
        "max_videos": MAX_VIDEOS,
        "max_seconds": MAX_SECONDS,
        "max_steps": MAX_STEPS,
        "min_steps": MIN_STEPS,
        "max_caption": MAX_CAPTION_CHARACTERS,
        "variants": [
            {"name": name, "title": base.variant(name).title, "promise": base.variant(name).promise}
            for name in ("film", "shot")
            if name in base.variants
        ],
    }
