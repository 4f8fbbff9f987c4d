"""What a creator can do, for the page and the API alike: create, draft, edit, generate, extend, export, undo, …

Every argument is checked here, whoever sends it. Knows nothing about HTTP or gradio. Raises `StudioError`.
"""

import json
import logging
import secrets
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import film, storyboard
from engine.config import Config, Preset, preset_names
from engine.domain import MAX_CLIPS, MAX_SEED, Credit, Project, check_seed, clean_prompt
from engine.errors import InputError, ProjectCorrupt, ProjectNotFound, StudioError, nearest
from engine.events import FilmExported, JobFailed
from engine.media import video
from engine.project.store import read_project
from engine.remake import remake
from studio import dial, machine, remakes, view
from studio.arguments import (
    MAX_TITLE_CHARACTERS,
    Body,
    check_text,
    clip_id_of,
    clip_ids_of,
    file_name,
    flag,
    idea_text,
    negative_text,
    one_of,
    scope_of,
    telling_from,
    title_from,
    title_text,
    whole,
)
from studio.drafting import Drafting, Then
from studio.feed import Feed, Pace
from studio.history import History, live_clip
from studio.lab import Lab
from studio.library import Example, Library, Snapshot, owner_of
from studio.limits import MAX_PROJECTS, Rates
from studio.pictures import Pictures
from studio.queue import Job, JobQueue, Listener
from studio.storylines import Storylines
from studio.tokens import Tokens

log = logging.getLogger(__name__)
MAX_KEYS = 256
REMEMBERED_PROJECTS = 200
KEPT_EXPORTS = 3
NEW_SIZE_HINT = f"{view.NEW_SIZE}; this one plays and exports as it is."
WORDS_ONLY = {"title", "idea", "telling"}  # settings that no clip is made from


@dataclass(frozen=True)
class Created:
    """A project and the token that lets its maker edit it."""

    project_id: str
    token: str


class Actions:
    """The use cases of the studio, over its library, queue and feed."""

    def __init__(
        self, config: Config, library: Library, queue: JobQueue, feed: Feed, tokens: Tokens, rates: Rates, uploads: Path
    ) -> None:
        self.config = config
        self.library = library
        self.queue = queue
        self.feed = feed
        self.tokens = tokens
        self.rates = rates
        self.uploads = uploads
        self.lab: Lab | None = None
        self.pictures: Pictures | None = None  # only where the operator switched keyword pictures on
        self._locks: dict[str, threading.RLock] = {}
        self._answered: dict[str, OrderedDict[str, dict[str, Any]]] = defaultdict(OrderedDict)
        self.history = History(library)
        self._exports: dict[str, view.ExportFacts] = {}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._recent: OrderedDict[str, None] = OrderedDict()  # projects somebody looked at, the latest last
        self._commands: dict[str, Callable[[str, Body], dict[str, Any] | None]] = {
            "generate": self._generate,
            "resume": self._generate,
            "retry": self._generate,
            "pause": lambda project_id, body: self._end(project_id, "pause"),
            "stop": lambda project_id, body: self._end(project_id, "stop"),
            "extend": self._extend,
            "regenerate": self._regenerate,
            "set_quality": self._set_quality,
            "set_seed": self._set_seed,
            "insert": self._insert,
            "duplicate": self._duplicate,
            "move": self._move,
            "delete": self._delete,
            "undo": self._undo_last,
            "pin": self._pin,
            "set_settings": self._set_settings,
            "export": self._export,
            "share": self._share,
            "restore_previous": self._restore_previous,
        }
        self.drafting = Drafting(config, library, queue, feed, self.history, uploads.with_name("drafts.json"))
        self.drafting.go_on = self._go_on
        self.storylines = Storylines(
            library,
            feed,
            self.history,
            self.drafting,
            rates,
            most=config.max_clips_per_request,
            refuse_while_working=self._refuse_while_working,
            refuse_if_live=self._refuse_if_live,
        )
        self._commands |= self.storylines.commands | {"stop_draft": self._stop_draft}
        queue.listener = Listener(changed=self._changed, film_done=self._grow, exported=self._exported)

    # Making projects

    def create(
        self,
        owner: str,
        upload: str | Path | None,
        *,
        keywords: str = "",
        variant: str = "film",
        preset: str = "",
        seed: int | None = None,
        title: str = "",
        quality: str = "",
        num_inference_steps: int | None = None,
        negative_prompt: str | None = None,
        hd: bool = False,
        original_name: str = "",
        found_id: str = "",
    ) -> Created:
        """A new project of `owner` (a secret kept by the browser) from an uploaded picture, or one that a search found.

        The upload is deleted once the picture is in the project: after a refusal, it can be tried again.
        """
        if not upload and not found_id:
            raise InputError("There is no picture yet.", "Drop one, or open an example.")
        with bugs_explained("making the project"):
            check_text("".join(t for t in (owner, keywords, variant, preset, title, quality) if isinstance(t, str)))
            owner = self._owner_with_room(owner)
            picture, credit = self._found(found_id, owner) if found_id else (self._uploaded(Path(upload or "")), None)
            chosen = self._preset_called(preset, owner)
            sampling = dial.changes(chosen, quality, num_inference_steps)
            idea = idea_text(keywords)
            title = title_text(title) or title_from(idea)
            seed = secrets.randbelow(1_000_000) if seed is None else check_seed(whole(seed, "seed"))
            variant = one_of(variant, list(chosen.variants), "variant")
            large = flag(hd, "hd")
            negative = None if negative_prompt is None else negative_text(negative_prompt)

            def make(folder: Path) -> None:
                store = film.create(
                    folder,
                    picture,
                    chosen,
                    variant=variant,
                    seed=seed,
                    title=title,
                    idea=idea,
                    num_inference_steps=sampling.get("num_inference_steps"),
                    draft=sampling.get("draft", False),
                    hd=large,
                    original_name=file_name(original_name),
                    credit=credit,
                )
                if negative is not None:
                    store.edit(lambda p: p.model_copy(update={"negative_prompt": negative}))

            project_id = self.library.create(owner, make)
        with suppress(OSError):
            picture.unlink(missing_ok=True)
            picture.parent.rmdir()  # Gradio makes one folder an upload
        log.info("project %s made", project_id[:6])
        return Created(project_id, self.tokens.give(project_id, "edit"))

    def open_example(self, owner: str, name: str) -> Created:
        """An example project, copied to `owner`; instant, without a model."""
        with bugs_explained("opening the example"):
            example = next((example for example in self.examples() if example.name == name), None)
            if example is None:
                raise InputError(
                    "There is no such example.", nearest(str(name)[:40], [e.name for e in self.examples()])
                )
            project_id = self.library.copy(
                self._owner_with_room(owner), example.folder, reserve_bytes=self.config.reserve_bytes
            )
        return Created(project_id, self.tokens.give(project_id, "edit"))

    def copy(self, owner: str, project_id: str) -> Created:
        """A copy for `owner` of a project they may see."""
        owner = self._owner_with_room(owner)
        self.rates.count("copy", owner)
        title = f"{self.library.project(project_id).title[: MAX_TITLE_CHARACTERS - 7]} (copy)"
        folder = self.library.folder(project_id)  # takes never change, so nothing needs to wait for the copy
        copied = self.library.copy(owner, folder, title=title, reserve_bytes=self.config.reserve_bytes)
        return Created(copied, self.tokens.give(copied, "edit"))

    def remakes(self, project_id: str) -> list[dict[str, str]]:
        """What this film can be rendered with again. A public studio stays with the preset that it runs."""
        project = self.library.project(project_id)
        names = [project.preset, self.library.default.name, *(() if self.config.public else preset_names())]
        return remakes.offers(self.library, project.variant, list(dict.fromkeys(names)), self.queue.machine)

    def remake(self, owner: str, project_id: str, name: str = "") -> Created:
        """A copy for `owner` of their film, to be rendered with the preset called `name` ("": its own)."""
        owner = self._owner_with_room(owner)
        self.rates.count("copy", owner)
        project = self.library.project(project_id)
        offers = {offer["name"]: offer["missing"] for offer in self.remakes(project_id)}
        name = name or project.preset
        if name not in offers:
            raise InputError(f"This studio has no preset “{str(name)[:64]}”.", nearest(str(name)[:64], [*offers]))
        if offers[name]:
            raise InputError(offers[name])
        store, preset = self.library.store(project_id), self.library.preset_called(name)
        was_large = (project.resolution.width, project.resolution.height) in self.library.preset(project).hd_resolutions
        large = was_large and bool(preset.hd_resolutions)
        made = self.library.create(owner, lambda folder: remake(store, preset, folder, hd=large))
        return Created(made, self.tokens.give(made, "edit"))

    def examples(self) -> tuple[Example, ...]:
        return self.library.examples()

    def _uploaded(self, path: Path) -> Path:
        """`path`, when Gradio stored it as an upload; nothing else may be read."""
        resolved = path.resolve()
        if not resolved.is_relative_to(self.uploads.resolve()) or not resolved.is_file():
            raise InputError("The picture is not there any more.", "Upload it again.")
        return resolved

    def _found(self, found_id: str, owner: str) -> tuple[Path, Credit]:
        """The picture that a search found, in a folder of its own among the uploads, and who made it."""
        if self.pictures is None:
            raise InputError("This studio does not look for pictures.", "Upload one.")
        return self.pictures.take(found_id, owner, self.uploads)

    def _owner_with_room(self, secret: str) -> str:
        if not isinstance(secret, str) or not 8 <= len(secret) <= 200:
            raise InputError("The browser did not say whose film this is.", "Reload the page and try again.")
        owner = owner_of(secret)
        if self.library.count(owner) >= MAX_PROJECTS:
            raise InputError(f"You have {MAX_PROJECTS} films here, the limit.", "Delete one first.")
        return owner

    def _preset_called(self, name: str, owner: str) -> Preset:
        """The preset this studio runs ("" means that one too), or one that `owner` trained in the Lab."""
        running = self.library.default
        if name and name != running.name:
            if trained := self.lab and self.lab.preset_of(owner, name):
                return trained
            raise InputError(f"This studio runs the preset “{running.name}”, not “{str(name)[:64]}”.")
        return running

    def _lock(self, name: str) -> threading.RLock:
        return self._locks.setdefault(name, threading.RLock())

    # Looking

    def exists(self, project_id: str) -> bool:
        return self.library.exists(project_id)

    def health(self) -> dict[str, Any]:
        return self.queue.health()

    def machine(self) -> dict[str, Any]:
        """What runs here and what it takes, for the page. The operator's own file is named to the operator only."""
        file = "" if self.config.public else self.config.preset
        return machine.panel(self.library.default, self.queue.machine, self.queue.paces, preset_file=file)

    def rev(self, project_id: str) -> int:
        """The project's revision; it also grows when somebody else, such as the command line, changed the folder."""
        current = self.library.signature(project_id)
        before = self._seen.get(project_id)
        self._seen[project_id] = current
        if before is not None and before != current:
            return self.feed.bump(project_id)
        return self.feed.rev(project_id)

    def state(
        self, project_id: str, *, view_only: bool = False, media_base: str = "", token: str = ""
    ) -> dict[str, Any]:
        """The page's view of the project. Raises `ProjectCorrupt` and its kin."""
        self._remember(project_id)
        rev = self.rev(project_id)  # read first: what changes meanwhile is fetched by the next poll
        snapshot = self.library.snapshot(project_id)
        job = self.queue.job_of(project_id)
        live = self.feed.live(project_id)
        unavailable = self.queue.unavailable if snapshot.preset.name == self.library.default.name else None
        undo = self.history.last(project_id)
        return view.state(
            view.Facts(
                plan=snapshot.plan,
                preset=snapshot.preset,
                takes=snapshot.takes,
                rev=rev,
                generation=self.feed.generation(project_id, tuple(p.take.digest for p in snapshot.plan.film if p.take)),
                job=self._job_facts(job) if job else None,
                outcome=self.queue.outcome(project_id),
                live=live,
                live_s=time.monotonic() - live.step_began if live else 0.0,
                pace=self.queue.paces.of(snapshot.plan.project),
                draft_pace=self._draft_pace(snapshot),
                loading=snapshot.preset.title if self.queue.loading_for(project_id) else "",
                loading_s=self.queue.paces.load_s(snapshot.preset.name),
                announced=self.feed.announced(project_id),
                notices=self.feed.notices(project_id),
                undo=undo.label if undo else "",
                undo_id=undo.id if undo else "",
                vocabulary=snapshot.vocabulary,
                export=self._export_facts(project_id, snapshot),
                story=self.drafting.facts(project_id, snapshot.preset),
                remarks={} if view_only else self.storylines.remarks(snapshot.plan.project, snapshot.preset),
                exports=self.storylines.exports(snapshot.plan.project),
                view_only=view_only,
                blocked=snapshot.blocked or (str(unavailable) if unavailable else ""),
                media_base=media_base,
                token=token,
                codec=snapshot.codec,
                origin=None if view_only else self._origin(snapshot.plan.project),
            )
        )

    def _origin(self, project: Project) -> dict[str, str] | None:
        """The film that this one is a remake of, where it is still here and of the same owner."""
        origin, owner = project.remake_of, self.library.owner(project.id)
        if origin is None or not owner or not self.exists(origin) or self.library.owner(origin) != owner:
            return None
        with suppress(StudioError):
            model = self.library.preset(self.library.project(origin)).title
            return {"id": origin, "model": model, "token": self.tokens.give(origin, "view")}
        return None

    def _job_facts(self, job: Job) -> view.JobFacts:
        ahead = self.queue.ahead(job)
        ending = self.queue.ending_of(job.project_id)
        return view.JobFacts(
            id=job.id,
            state="stopping" if ending else job.state,
            place=len(ahead),
            ahead_s=self._time_of(ahead),
            forever=job.forever,
            ending="pause" if ending == "pause" else "stop" if ending else "",
            behind_training=any(other.kind == "train" for other in ahead),
        )

    def _time_of(self, jobs: Sequence[Job]) -> float | None:
        """Seconds that `jobs` will take, or None when one of them cannot be estimated."""
        total = 0.0
        for job in jobs:
            if job.kind in ("train", "draft"):
                return None
            if job.kind != "generate":
                continue
            try:
                snapshot = self.library.snapshot(job.project_id)
            except StudioError:
                continue
            full = self.queue.paces.of(snapshot.plan.project)
            seconds = dial.seconds_missing(snapshot.plan, snapshot.preset, full, self._draft_pace(snapshot))
            if seconds is None:
                return None
            total += seconds
        return total

    def _draft_pace(self, snapshot: Snapshot) -> Pace:
        project = snapshot.plan.project
        return self.queue.paces.of(project, draft_steps=dial.num_steps(project, snapshot.preset, draft=True))

    def status(self, project_id: str, *, view_only: bool = False) -> dict[str, Any]:
        """The short form for the API."""
        state = self.state(project_id, view_only=view_only)
        kept = ("phase", "message", "error", "job", "export")
        clips = [{key: clip[key] for key in ("number", "id", "prompt", "status")} for clip in state["clips"]]
        return {key: state[key] for key in kept} | {
            "clips": clips,
            "duration_s": state["film"]["duration_s"],
            "story_problem": state["story"]["problem"],
        }

    # Media, by digest and id only

    def init_segment(self, project_id: str, digest: str) -> bytes:
        return video.init_segment(self._take_file(project_id, digest, "segment.mp4"))

    def media_segment(self, project_id: str, digest: str, start_frame: int) -> bytes:
        return video.media_segment(self._take_file(project_id, digest, "segment.mp4"), start_frame)

    def poster_file(self, project_id: str, digest: str) -> Path:
        return self._take_file(project_id, digest, "poster.jpg")

    def anchor_file(self, project_id: str) -> Path:
        store = self.library.store(project_id)
        return existing(store.anchor_file(self.library.project(project_id)))

    def export_file(self, project_id: str, name: str) -> Path:
        exports = self.library.folder(project_id) / "exports"
        found = [file for file in exports.glob("film-*.mp4") if file.name == name]
        if not found:
            raise ProjectNotFound("There is no such file here.")
        return found[0]

    def _take_file(self, project_id: str, digest: str, name: str) -> Path:
        return existing(self.library.folder(project_id) / "takes" / digest / name)

    # Acting

    def act(self, project_id: str, body: Body, *, client: str = "") -> dict[str, Any]:
        """Do what `body["action"]` names; the answer holds `rev`, and `undo_id` after an edit.

        A repeated `key` gives the first answer again.
        """
        if not self.exists(project_id):
            raise ProjectNotFound("There is no such project here.", "Check the link.")
        check_text(json.dumps(dict(body), ensure_ascii=False, default=str))
        action, key = body.get("action"), body.get("key", "")
        if not isinstance(key, str) or len(key) > 100:
            raise InputError("The key of an action must be a text of up to 100 characters.")
        copies = action in ("copy", "remake")
        lane = f"copy:{project_id}" if copies else project_id  # copying takes long and changes nothing here
        with self._lock(lane):
            known = self._answered[lane]
            if key and key in known:
                return known[key]
            if not self.exists(project_id):  # deleted while this waited
                raise ProjectNotFound("There is no such project here.", "Check the link.")
            if copies:
                owner = body.get("owner") or f"address:{client}"
                is_copy = action == "copy"
                created = self.copy(owner, project_id) if is_copy else self.remake(owner, project_id, preset_of(body))
                answer = {"project_id": created.project_id, "token": created.token}
            elif action == "delete_project":
                self._delete_project(project_id)
                return {"rev": 0, "deleted": True}
            else:
                answer = self._commanded(action, project_id, body)
            self.feed.bump(project_id)
            answer = {**answer, "rev": self.rev(project_id)}
            if key:
                known[key] = answer
                while len(known) > MAX_KEYS:
                    known.popitem(last=False)
            return answer

    def _commanded(self, action: object, project_id: str, body: Body) -> dict[str, Any]:
        command = self._commands.get(action) if isinstance(action, str) else None
        if command is None:
            name = str(action)[:40]
            raise InputError(f"There is no action “{name}”.", nearest(name, [*self._commands]))
        before = self.history.last(project_id)
        answer = command(project_id, body) or {}
        edit = self.history.last(project_id)
        if edit and edit != before and action != "undo":
            answer = {**answer, "undo_id": edit.id}
        return answer

    def _delete_project(self, project_id: str) -> None:
        """The project and everything made for it go, for good."""
        if self.queue.busy(project_id) or self.drafting.under_way(project_id):
            raise InputError("Something is being made for this film.", "Stop it first, then delete the film.")
        self.library.delete(project_id)
        self.queue.forget(project_id)
        self._forget(project_id)

    def _forget(self, project_id: str) -> None:
        """Drop what is only remembered in memory."""
        self.feed.forget(project_id)
        for name in (project_id, f"copy:{project_id}"):
            self._answered.pop(name, None)
        self.history.forget(project_id)
        self.drafting.forget(project_id)
        for table in (self._exports, self._seen, self._recent):
            table.pop(project_id, None)

    def _remember(self, project_id: str) -> None:
        """Somebody looks at this project; the one nobody has looked at for longest is forgotten, undo and all."""
        with self._lock("recent"):
            self._recent[project_id] = None
            self._recent.move_to_end(project_id)
            if len(self._recent) <= REMEMBERED_PROJECTS:
                return
            idle = next((other for other in self._recent if not self._busy(other)), project_id)
        lock = self._lock(idle)
        if idle != project_id and lock.acquire(blocking=False):
            try:
                self.library.forget(idle)
                self._forget(idle)
            finally:
                lock.release()

    def _busy(self, project_id: str) -> bool:
        return self.queue.busy(project_id) or self.drafting.under_way(project_id)

    # Storyline

    def _extend(self, project_id: str, body: Body) -> dict[str, Any]:
        count = body.get("count", 1)
        forever = count == "forever"
        self._refuse_outgrown(project_id)
        count = 1 if forever else self.storylines.count(count)
        starts = forever or bool(body.get("generate", count == 1))
        self.drafting.refuse_while_writing(project_id)
        if starts:
            self._check_can_start(project_id)
        if forever and self.library.snapshot(project_id).plan.next:
            return self._generate(project_id, {**body, "forever": True})
        self.rates.count("draft", self.library.owner(project_id))
        then = "forever" if forever else "generate" if starts else ""
        self.storylines.continue_with(project_id, count, self.storylines.chosen(project_id), then=then)
        job = self.queue.job_of(project_id)
        return {"job_id": job.id} if job else {}

    def _go_on(self, project_id: str, then: Then) -> None:
        """A storyline is complete, and a film was asked for."""
        self._generate(project_id, {"forever": then == "forever"})

    def _grow(self, job: Job) -> bool:
        """Whether a clip is missing; a film that goes on until somebody stops it gets its next one here.

        Called by the queue's thread.
        """
        with self._lock(job.project_id):
            current = self.queue.job_of(job.project_id)
            if current is None:
                return False
            if not current.forever or self.library.snapshot(job.project_id).plan.next:
                return self.library.snapshot(job.project_id).plan.next is not None
            project = self.library.project(job.project_id)
            if len(project.clips) >= MAX_CLIPS:
                raise InputError(f"The film has {MAX_CLIPS:,} clips, the most one project holds.", "Export it.")
            choice = self.storylines.chosen(job.project_id)
            if choice.source == "template":
                prompt = self.storylines.prompt_for(job.project_id, project, len(project.clips))
                self.library.store(job.project_id).edit(lambda before: storyboard.append(before, [prompt]))
                self._changed(job.project_id)
                return True
            if not self.drafting.follow(job.project_id, "forever"):
                if self.config.public:  # what an endless film asks of the operator's model counts like any draft
                    self.rates.count("draft", self.library.owner(job.project_id))
                self.storylines.continue_with(job.project_id, 1, choice, then="forever")
            return False

    # Clips

    def _set_seed(self, project_id: str, body: Body) -> None:
        clip_id, seed = clip_id_of(body), body.get("seed")
        seed = None if seed is None else whole(seed, "seed")
        self._refuse_if_live(project_id, clip_id)
        self.history.edit(project_id, "Change seed", lambda before: storyboard.set_seed(before, clip_id, seed))

    def _insert(self, project_id: str, body: Body) -> dict[str, Any]:
        after = clip_id_of(body, "after") if body.get("after") else None
        project = self.library.project(project_id)
        position = project.clip_index(after) + 1 if after else 0
        prompt = body.get("prompt")
        text = clean_prompt(prompt) if prompt else self.storylines.prompt_for(project_id, project, position)
        edited = self.history.edit(project_id, "Insert clip", lambda before: storyboard.insert(before, text, after))
        return {"clip_id": edited.clips[position].id}

    def _duplicate(self, project_id: str, body: Body) -> dict[str, Any]:
        clip_id = clip_id_of(body)
        edited = self.history.edit(project_id, "Duplicate clip", lambda before: storyboard.duplicate(before, clip_id))
        return {"clip_id": edited.clips[edited.clip_index(clip_id) + 1].id}

    def _move(self, project_id: str, body: Body) -> None:
        clip_id, to = clip_id_of(body), whole(body.get("to"), "to")
        self._refuse_if_live(project_id, clip_id)
        self.history.edit(project_id, "Move clip", lambda before: storyboard.move(before, clip_id, to))

    def _delete(self, project_id: str, body: Body) -> None:
        clip_id = clip_id_of(body)
        self._refuse_if_live(project_id, clip_id)
        number = self.library.project(project_id).clip_index(clip_id) + 1
        self.history.edit(project_id, f"Remove clip {number}", lambda before: storyboard.delete(before, clip_id))

    def _pin(self, project_id: str, body: Body) -> None:
        clip_id, digest = clip_id_of(body), body.get("digest")
        self._refuse_if_live(project_id, clip_id)
        own = {take.digest for take in self.library.snapshot(project_id).takes.get(clip_id, ())}
        if digest is not None and not (isinstance(digest, str) and digest in own):
            raise InputError("That clip has no such take.", "Reload the page to see its takes.")
        self.history.edit(project_id, "Choose take", lambda before: storyboard.pin(before, clip_id, digest))

    def _regenerate(self, project_id: str, body: Body) -> None:
        clip_id = clip_id_of(body)
        scope = scope_of(body)
        self._refuse_if_live(project_id, clip_id)
        self._check_can_start(project_id)
        seed = body.get("seed")
        seed = secrets.randbelow(MAX_SEED) if seed is None else check_seed(whole(seed, "seed"))
        shown = shown_takes(self.library.snapshot(project_id))
        number = self.library.project(project_id).clip_index(clip_id) + 1
        self.history.edit(
            project_id,
            f"Regenerate clip {number}",
            lambda before: storyboard.regenerate(
                before, clip_id, seed=seed, shown=shown, scope=scope, prompt=body.get("prompt")
            ),
        )
        self._generate(project_id, body)

    def _set_quality(self, project_id: str, body: Body) -> None:
        """Ask for clips as drafts or in full quality; starts unless `generate` is false. `scope`: as in regenerate."""
        clip_ids, draft = clip_ids_of(body), flag(body.get("draft"), "draft")
        scope = scope_of(body)
        starts = flag(body.get("generate", True), "generate")
        snapshot = self.library.snapshot(project_id)
        project = snapshot.plan.project
        label = dial.edit_label(project, clip_ids, draft=draft)
        if draft and snapshot.preset.draft is None:
            raise InputError(f"{snapshot.preset.title} makes no drafts.", "Fewer steps are quicker as well.")
        for clip_id in clip_ids:
            self._refuse_if_live(project_id, clip_id)
        if starts:
            self._check_can_start(project_id)
        shown = shown_takes(snapshot)
        self.history.edit(
            project_id,
            label,
            lambda before: storyboard.set_quality(before, clip_ids, draft=draft, shown=shown, scope=scope),
        )
        if starts and self.library.snapshot(project_id).plan.next:
            self._generate(project_id, body)

    def _set_settings(self, project_id: str, body: Body) -> None:
        project = self.library.project(project_id)
        preset = self.library.preset(project)
        changes: dict[str, Any] = {}
        if "title" in body:
            changes["title"] = title_text(body["title"]) or "Untitled film"
        if "idea" in body:
            changes["idea"] = idea_text(body["idea"])
        if "variant" in body:
            changes["variant"] = one_of(body["variant"], list(preset.variants), "variant")
            changes["lora_strength"] = preset.variants[changes["variant"]].lora_strength
        telling = telling_from(body, project.telling)
        changes |= {"telling": telling} if telling != project.telling else {}
        changes |= dial.changes(preset, body.get("quality"), body.get("num_inference_steps"))
        if body.get("seed") is not None:
            changes["seed"] = check_seed(whole(body["seed"], "seed"))
        if "negative_prompt" in body:
            changes["negative_prompt"] = negative_text(body["negative_prompt"])
        changes = {name: value for name, value in changes.items() if getattr(project, name) != value}
        if set(changes) - WORDS_ONLY:
            self._refuse_while_working(project_id)
        if changes:
            label = "Change settings" if set(changes) - WORDS_ONLY else ""
            self.history.edit(project_id, label, lambda before: before.model_copy(update=changes), idle=True)

    def _undo_last(self, project_id: str, body: Body) -> None:
        edit = self.history.to_undo(project_id, body.get("id"))
        if edit.idle:
            self._refuse_while_working(project_id)
        self.drafting.refuse_while_writing(project_id)
        live = self.feed.live(project_id)

        def check(before: Project, after: Project) -> None:
            if live and live_clip(before, live.clip_id) != live_clip(after, live.clip_id):
                raise InputError("The clip this would change is being made.", "Pause first.")

        self.history.undo(project_id, edit, check)
        self.drafting.dismiss(project_id)
        self.feed.announce(project_id, f"Undone: {edit.label.lower()}.")

    def _refuse_if_live(self, project_id: str, clip_id: str) -> None:
        live = self.feed.live(project_id)
        if live and live.clip_id == clip_id:
            raise InputError("This clip is being made right now.", "Pause first, or edit it afterwards.")

    def _refuse_while_working(self, project_id: str) -> None:
        if self.queue.job_of(project_id):
            raise InputError("The film is being made.", "Pause first; finished clips are kept.")
        self.drafting.refuse_while_writing(project_id)

    # Jobs

    def _check_can_start(self, project_id: str) -> Snapshot:
        """Raise what starting a job now would, so that a refused action has changed nothing."""
        self._refuse_outgrown(project_id)
        self.drafting.refuse_while_writing(project_id)
        self.queue.check_room("generate", project_id, self.library.owner(project_id))
        snapshot = self.library.snapshot(project_id)
        if snapshot.blocked:
            raise InputError(snapshot.blocked)
        film.check_space(self.library.store(project_id), self.config.reserve_bytes)
        return snapshot

    def _refuse_outgrown(self, project_id: str) -> None:
        if reason := self.library.snapshot(project_id).plan.outgrown:
            raise InputError(reason, NEW_SIZE_HINT)

    def _generate(self, project_id: str, body: Body) -> dict[str, Any]:
        snapshot = self._check_can_start(project_id)
        if prompts := self._prompts_of(body):
            self.history.edit(project_id, "Add clips", lambda before: storyboard.append(before, prompts))
            snapshot = self.library.snapshot(project_id)
        if not snapshot.plan.clips:
            raise InputError("There is no clip to generate yet.", "Draft a storyline first.")
        wanted = snapshot.plan.next
        if wanted is None and not self.queue.job_of(project_id):
            raise InputError("Every clip is done.", "Extend the film, or regenerate a clip.")
        after_restart = one_of(body.get("after_restart", "continue"), ["continue", "wait"], "after_restart")
        job = self.queue.enqueue(
            "generate",
            project_id,
            self.library.owner(project_id),
            forever=body.get("forever") is True,
            after_restart=after_restart,
        )
        return {"job_id": job.id}

    def _prompts_of(self, body: Body) -> list[str]:
        """The prompts of the clips to append before generating, checked."""
        prompts = body.get("prompts") or []
        if not isinstance(prompts, list):
            raise InputError("The prompts must be a list of texts.", "Give one text for each clip.")
        if prompts:
            self.storylines.count(len(prompts))
        return [clean_prompt(prompt) for prompt in prompts]

    def _stop_draft(self, project_id: str, body: Body) -> None:
        """End the draft; the page may still show its button when a film without end has gone on to its next clip."""
        job = self.queue.job_of(project_id)
        if self.drafting.of(project_id) is None and job and job.forever:
            self._end(project_id, "pause")
        else:
            self.drafting.stop(project_id)

    def _end(self, project_id: str, how: str) -> None:
        current = self.drafting.of(project_id)
        if current and current.then:  # the next clips of this film are being thought of
            self.drafting.stop(project_id)
        kept = sum(planned.take is not None for planned in self.library.snapshot(project_id).plan.clips)
        self.queue.end(project_id, "pause" if how == "pause" else "stop", kept=kept)

    def _export(self, project_id: str, body: Body) -> dict[str, Any]:
        snapshot = self.library.snapshot(project_id)
        if not snapshot.plan.film:
            raise InputError("There is no finished clip to export yet.", "Generate at least one clip first.")
        name = film.export_name(snapshot.plan)
        if (self.library.folder(project_id) / "exports" / name).is_file():
            self._exports[project_id] = view.ExportFacts("done", name, frames_of(snapshot), len(snapshot.plan.film))
            return {"name": name}
        job = self.queue.enqueue("export", project_id, self.library.owner(project_id))
        return {"job_id": job.id}

    def _exported(self, job: Job, event: FilmExported | JobFailed) -> None:
        """Called by the queue's thread when an export ended. It may have found a take damaged and set it aside."""
        self._changed(job.project_id)
        if isinstance(event, JobFailed):
            message = f"{event.message} {event.hint}".strip()
            self._exports[job.project_id] = view.ExportFacts("failed", message=message)
            self.feed.announce(job.project_id, message)
        else:
            self._exports[job.project_id] = view.ExportFacts("done", Path(event.path).name, event.frames, event.clips)
            self.feed.announce(job.project_id, "The film is exported.")
            for file in exports_in(Path(event.path).parent)[:-KEPT_EXPORTS]:
                with suppress(OSError):  # an old file that stays is no reason to call the export failed
                    file.unlink(missing_ok=True)

    def _export_facts(self, project_id: str, snapshot: Snapshot) -> view.ExportFacts | None:
        if job := self.queue.job_of(project_id, "export"):
            return view.ExportFacts(job.state)
        last = self._exports.get(project_id)
        if last is None and (files := exports_in(self.library.folder(project_id) / "exports")):
            name = files[-1].name  # of an earlier run of the studio
            frames = frames_of(snapshot) if name == film.export_name(snapshot.plan) else 0
            last = self._exports[project_id] = view.ExportFacts("done", name, frames, film.clips_of(name))
        return last

    def can_restore(self, project_id: str) -> bool:
        """Whether a damaged project has an earlier version that is whole."""
        try:
            read_project(self.library.store(project_id).previous_file)
        except StudioError:
            return False
        return True

    def _restore_previous(self, project_id: str, body: Body) -> None:
        """Put the last good version in the place of a damaged project, which is kept beside it."""
        store = self.library.store(project_id)
        try:
            store.load()
        except ProjectCorrupt:
            store.restore_previous()
            self._changed(project_id)
            self.feed.announce(project_id, "The last good version is back. Nothing that was made is lost.")
        else:
            raise InputError("This project is not damaged.", "Nothing was changed.")

    def _share(self, project_id: str, body: Body) -> dict[str, Any]:
        token = self.tokens.give(project_id, "view")
        return {"token": token, "url": f"/?project={project_id}&token={token}"}

    def _changed(self, project_id: str) -> None:
        self.library.changed(project_id)


@contextmanager
def bugs_explained(doing: str) -> Iterator[None]:
    """Anything but a `StudioError` becomes one with an id; the log has the rest."""
    try:
        yield
    except StudioError:
        raise
    except Exception as err:
        error_id = secrets.token_hex(4)
        log.exception("error %s", error_id)
        raise StudioError(
            f"Something went wrong while {doing} (error {error_id}).", "Nothing is lost. Try again."
        ) from err


def preset_of(body: Body) -> str:
    name = body.get("preset", "")
    if not isinstance(name, str):
        raise InputError("A preset is named by a text.", "For example: pocket.")
    return name


def existing(path: Path) -> Path:
    if not path.is_file():
        raise ProjectNotFound("There is no such file here.")
    return path


def exports_in(folder: Path) -> list[Path]:
    """The exported films in `folder`, oldest first."""
    return sorted(folder.glob("film-*.mp4"), key=lambda file: file.stat().st_mtime)


def shown_takes(snapshot: Snapshot) -> dict[str, str]:
    """Digest of the take that each clip shows."""
    return {planned.clip.id: planned.take.digest for planned in snapshot.plan.clips if planned.take}


def frames_of(snapshot: Snapshot) -> int:
    return sum(p.take.num_frames - p.take.overlap for p in snapshot.plan.film if p.take)
