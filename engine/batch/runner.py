"""Makes the films of a plan, in two passes: every storyline is written first, then the drafter is closed and the films
are made, so that two models are never in memory. The model of a preset is loaded once for all of its films.

    OUT/films/NAME/ (a project, with batch.json beside it)   OUT/samples/NAME/{frame.jpg, prompt.txt}   OUT/NAME.mp4

A stopped run goes on by planning again: whatever is on disk is kept. Beats are in the film as they come; as long as it
holds a storyline.part there are more to come, and none of it is made. One film's failure is noted, and the others
go on.
"""

import errno
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from engine import backends, drafting, film, storyboard
from engine.backends.base import Backend
from engine.batch import summary
from engine.batch.plan import FilmTask
from engine.config import Config
from engine.domain import MAX_CLIPS, Beat, Credit, Project, Storyline, Telling
from engine.errors import (
    BackendUnavailable,
    ConfigError,
    DiskFull,
    GenerationError,
    InputError,
    ModelError,
    OutOfMemory,
    StudioError,
    disk_errors_explained,
)
from engine.events import (
    DrafterLoading,
    Event,
    FilmEnded,
    FilmStarted,
    ItemFailed,
    ModelLoading,
    StorylineDrafted,
)
from engine.project.files import write_atomically
from engine.project.locks import locked
from engine.project.store import Store
from engine.story.choose import Choice
from engine.story.drafter import Brief, StorylineDrafter, brief_for
from engine.story.exchange import WrittenStoryline

log = logging.getLogger(__name__)
RECORD = "batch.json"
MAX_RECORD_BYTES = 100_000
HALF_WRITTEN = "storyline.part"  # in the folder of a film whose storyline is being drafted
MAX_PICTURES = 5  # of those that are found for a film, until one can be had


class Batch:
    """The films of `tasks` in the folder `out`. `failures`: what went wrong with which film in this run."""

    def __init__(self, tasks: Sequence[FilmTask], out: Path, config: Config) -> None:
        self.tasks = tasks
        self.out = out
        self.config = config
        self.failures: dict[str, StudioError] = {}
        self._rows: dict[str, summary.FilmRow] = {}
        self._exported: dict[str, str] = {}

    def folder(self, task: FilmTask) -> Path:
        return self.out / "films" / task.name

    def run(self) -> Iterator[Event]:
        """Make what is missing, saying what happens. Close it to stop; raises at the end when a film failed.

        Raises `ProjectLocked` when another run is at work in the folder, `DiskFull`, and `ModelError` before anything
        is drafted when a model's files are not there.
        """
        for task in {(task.preset.name, task.variant, task.draft): task for task in self.tasks}.values():
            backends.fingerprint(task.preset, task.variant, draft=task.draft)
        with disk_errors_explained("the films"):
            (self.out / "films").mkdir(parents=True, exist_ok=True)
        with locked(self.out / ".batch.lock", doing="making its films"):
            self._remove_leftovers()
            self._exported = {name: row.exported for name, row in summary.read(self.out).items()}
            for task in self.tasks:
                self._note(task)
            self._write_summary()
            yield from self._write_storylines()
            yield from self._make_films()
        if self.failures:
            raise GenerationError(
                f"{len(self.failures)} of {len(self.tasks)} films failed: {drafting.listed(list(self.failures))}.",
                "The others are finished; summary.md says why. The same command tries these again.",
            )

    # Storylines

    def _write_storylines(self) -> Iterator[Event]:
        """Begin every film; write the storylines that are missing, one drafter after another."""
        waiting: dict[Choice, list[FilmTask]] = {}
        for task in self.tasks:
            with self._failing(task):
                if self._begin(task):
                    choice = drafting.choose_here(config_for(task, self.config), task.preset)
                    waiting.setdefault(choice, []).append(task)
            yield from self._failure_of(task)
        for choice, tasks in waiting.items():
            yield drafting.announced(choice, next((t.telling for t in tasks if t.telling.language != "en"), Telling()))
            with ExitStack() as stack:
                yield from self._draft_all(choice, tasks, stack)

    def _draft_all(self, choice: Choice, tasks: Sequence[FilmTask], stack: ExitStack) -> Iterator[Event]:
        writer, out_of_reach = None, None
        for task in tasks:
            with self._failing(task):
                if out_of_reach:
                    raise out_of_reach
                try:
                    if writer is None:
                        if choice.source == "qwen":
                            yield DrafterLoading(choice.title)
                        writer = stack.enter_context(drafting.opened(choice, config_for(task, self.config)))
                    yield from self._draft(task, writer)
                except (BackendUnavailable, ModelError, OutOfMemory) as err:  # it would be the same for the others
                    out_of_reach = err
                    raise
            yield from self._failure_of(task)

    def _draft(self, task: FilmTask, writer: StorylineDrafter) -> Iterator[Event]:
        """Write what is missing of the storyline of one film; every beat is in the film as soon as it is there."""
        folder = self.folder(task)
        store, total = Store(folder), task.num_clips(None)
        project = store.load()
        needed = storyboard.beats_needed(project, total - len(project.clips), task.row)
        with disk_errors_explained(f"the film {task.name}"):
            write_atomically(folder / HALF_WRITTEN, b"", point="batch.half_written")

        def keep(beats: Sequence[Beat]) -> None:
            store.edit(
                lambda p: storyboard.continue_with(p, beats, total - len(p.clips), task.row).model_copy(
                    update={"storyline_source": writer.source}
                )
            )

        if needed:
            brief = self._brief(task, project, needed)
            yield from drafting.written(writer, brief, keep, first=len(brief.so_far))
        else:
            keep([])
        (folder / HALF_WRITTEN).unlink(missing_ok=True)
        self._write_sample(task)
        yield StorylineDrafted(storyboard.prompts_so_far(store.load()), source=writer.source, sample=task.name)

    def _begin(self, task: FilmTask) -> bool:
        """Make the project of `task` where there is none. Returns whether its storyline is to be drafted."""
        story, folder = task.storyline(), self.folder(task)
        record = json.loads(json.dumps(task.record(story)))
        self._forget_unbegun(folder, record)
        if (folder / "project.json").exists() or (folder / "project.previous.json").exists():
            self._refuse_changed(task, record)
        else:
            with disk_errors_explained(f"the film {task.name}"):
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / RECORD, json.dumps(record, indent=1).encode(), point="batch.record")
            shutil.rmtree(self.out / "samples" / task.name, ignore_errors=True)  # of a film that was taken away
            self._create(task, folder)
        clips = Store.open(folder).load().clips
        if not clips and story is not None:
            self._accept(task, story)
            return False
        if not clips or ((folder / HALF_WRITTEN).exists() and len(clips) < task.num_clips(story)):
            return True
        (folder / HALF_WRITTEN).unlink(missing_ok=True)
        self._write_sample(task)
        return False

    def _forget_unbegun(self, folder: Path, record: dict) -> None:
        """Delete a film of another plan that has no storyline yet: nothing in it was made."""
        before = read_record(folder)
        if before is not None and before != record and not (folder / "project.previous.json").exists():
            store = Store(folder)
            if not store.project_file.exists() or not (store.load().clips or store.takes()):
                shutil.rmtree(folder)

    def _refuse_changed(self, task: FilmTask, record: dict) -> None:
        before = read_record(self.folder(task))
        left = f"It was left as it is. Give the film another name, or move films/{task.name}/ away."
        if before is None:
            raise InputError(f"films/{task.name}/ was not made by a batch.", left)
        if before != record:
            raise InputError(f"{task.name} was begun by another plan: {drafting.difference(before, record)}.", left)

    def _create(self, task: FilmTask, folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            picture, credit = task.picture, None
            if picture is None:
                picture = Path(temporary) / "found.png"
                credit = find_picture(task, self.config, picture)
            film.create(
                folder,
                picture,
                task.preset,
                variant=task.variant,
                seed=task.seed,
                title=task.name,
                idea=task.keywords,
                num_inference_steps=task.steps,
                draft=task.draft,
                telling=task.telling,
                credit=credit,
            )

    def _brief(self, task: FilmTask, project: Project, count: int) -> Brief:
        brief = brief_for(
            project,
            task.preset,
            Store(self.folder(task)).anchor_file(project),
            count=count,
            so_far=storyboard.prompts_so_far(project),
            seed=drafting.seed_of(task.name, task.seed),
        )
        return replace(brief, kind=task.kind)  # one prompt for a film that is to be consistent

    def _accept(self, task: FilmTask, story: WrittenStoryline) -> None:
        """Give the film its clips, in one edit."""
        clips = storyboard.spread(story.clips, task.num_clips(story), task.row)
        beats = tuple(Beat(prompt=clip.prompt, caption=clip.caption) for clip in clips)
        storyline = Storyline(idea=story.idea, beats=beats, source=story.source)
        negative_prompts = [clip.negative_prompt for clip in clips]
        Store(self.folder(task)).edit(lambda p: storyboard.accept_storyline(p, storyline, negative_prompts))
        self._write_sample(task)

    def _write_sample(self, task: FilmTask) -> None:
        """Upstream's sample of the film: what it begins with and each prompt once."""
        folder = self.out / "samples" / task.name
        store = Store(self.folder(task))
        project = store.load()
        each = task.row.clips_per_prompt if task.task == "creative" else MAX_CLIPS
        prompts = tuple(clip.prompt for clip in project.clips[::each])
        with suppress(InputError):  # what cannot be read is no sample
            if drafting.read_sample(folder) == prompts:
                return
        drafting.write_sample(folder, store.anchor_file(project), prompts)

    # Films

    def _make_films(self) -> Iterator[Event]:
        by_model: dict[tuple[str, Path], list[int]] = {}
        for index, task in enumerate(self.tasks):
            by_model.setdefault((task.preset.name, task.preset.folder), []).append(index)
        for indices in by_model.values():
            with ExitStack() as stack:
                backend: list[Backend] = []
                for index in indices:
                    task = self.tasks[index]
                    if task.name in self.failures:
                        continue
                    with self._failing(task):
                        yield from self._make(task, index, backend, stack)
                    yield from self._failure_of(task)
                    row = self._note(task)
                    self._write_summary()
                    yield FilmEnded(task.name, index, row.state, row.clips_done, row.seconds, row.made_in_s, row.error)

    def _make(self, task: FilmTask, index: int, opened: list[Backend], stack: ExitStack) -> Iterator[Event]:
        """Render what is missing of one film, then export it. opened: the model, once it is loaded."""
        store = Store.open(self.folder(task))
        planned = film.plan(store, task.preset)
        done = [clip.status for clip in planned.clips].count("done")
        yield FilmStarted(task.name, index, len(self.tasks), len(planned.clips), done)
        if any(clip.status == "stale" for clip in planned.clips):
            raise InputError(
                f"{task.name} was made with another model, or edited since.",
                f"It was left as it is: go on with it in the studio, or move films/{task.name}/ away.",
            )
        if planned.next is not None:
            film.refuse_outgrown(store, task.preset)
            if not opened:
                yield ModelLoading(task.preset.name)
                opened.append(stack.enter_context(closing(backends.open_backend(task.preset))))
            with closing(film.render(store, opened[0], task.preset, reserve_bytes=self.config.reserve_bytes)) as events:
                yield from events
            planned = film.plan(store, task.preset)
        target, last = self.out / f"{task.name}.mp4", planned.clips[-1].digest
        if self._exported.get(task.name) != last or not target.is_file():
            yield film.export(store, task.preset, target, planned=planned)
            self._exported[task.name] = last

    # Notes

    @contextmanager
    def _failing(self, task: FilmTask) -> Iterator[None]:
        """Note what goes wrong with one film or its files, and go on; a full disk ends it all."""
        try:
            yield
            return
        except DiskFull:
            raise
        except StudioError as err:
            failure = err
        except (OSError, ValueError) as err:
            if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = (isinstance(err, OSError) and err.strerror) or type(err).__name__
            log.warning("a file of %s cannot be used", task.name, exc_info=True)
            failure = InputError(f"A file of the film {task.name} cannot be used ({reason}).", "Check it and its path.")
        log.warning("film %s failed: %s", task.name, failure)
        self.failures[task.name] = failure

    def _failure_of(self, task: FilmTask) -> Iterator[Event]:
        if err := self.failures.get(task.name):
            self._note(task)
            self._write_summary()
            yield ItemFailed(task.name, err.message, err.hint)

    def _note(self, task: FilmTask) -> summary.FilmRow:
        """Read the film of `task` off the disk for the summary."""
        failure, planned = self.failures.get(task.name), None
        try:
            folder = self.folder(task)
            if (folder / "project.json").exists() and not (folder / HALF_WRITTEN).exists():
                planned = film.plan(Store(folder), task.preset)
        except StudioError as err:  # said again when its turn comes
            log.warning("film %s cannot be read: %s", task.name, err)
        exported = self._exported.get(task.name, "") if (self.out / f"{task.name}.mp4").is_file() else ""
        row = summary.row_of(task, planned, exported=exported, error=str(failure) if failure else "")
        self._rows[task.name] = row
        return row

    def _write_summary(self) -> None:
        summary.write(self.out, [self._rows[task.name] for task in self.tasks])

    def _remove_leftovers(self) -> None:
        """Delete what a killed run left half-written. The lock is held, so nobody is writing it."""
        for pattern in (
            ".summary.*.tmp",
            "*.mp4.part*",
            f"films/*/.{RECORD}.*.tmp",
            f"films/*/.{HALF_WRITTEN}.*.tmp",
            "films/*/.attempts.json.*.tmp",
            "samples/*/*.part",
        ):
            for leftover in self.out.glob(pattern):
                leftover.unlink(missing_ok=True)


def find_picture(task: FilmTask, config: Config, destination: Path) -> Credit:
    """Store the first picture to the film's keywords that can be had; some are damaged, or are there no more."""
    from engine.story.pictures.search import Search
    from engine.story.pictures.sources import sources_of

    search = Search(sources_of(config))
    if not search.sources:
        raise ConfigError(
            f"{task.name} has no picture, and none is looked for.", "Set SVI_PICTURES to a folder or source."
        )
    failure: StudioError = InputError(f"No picture was found for “{task.keywords}”.", "Use other words or a picture.")
    for found in search.find(task.keywords)[:MAX_PICTURES]:
        try:
            return search.take(found.id, destination)
        except (BackendUnavailable, InputError) as err:
            log.warning("a picture for %s cannot be used: %s", task.name, err)
            failure = err
    raise failure


def read_record(folder: Path) -> dict | None:
    """What a batch wrote beside its film, None when there is nothing readable."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes()) if path.stat().st_size < MAX_RECORD_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def config_for(task: FilmTask, config: Config) -> Config:
    """The settings with the film's own drafter."""
    return config.model_copy(update={"drafter": task.drafter}) if task.drafter else config


def described(task: FilmTask, out: Path, config: Config) -> dict[str, object]:
    """What a dry run says of one film; nothing is written and no model is loaded."""
    facts: dict[str, object] = {
        "film": task.name,
        "model": task.preset.name,
        "variant": task.variant,
        "task": task.task,
    }
    try:
        story = task.storyline()
        task.record(story)  # which reads the picture
        clips = task.num_clips(story)
        frames = task.timeline.total(clips)
        choice = None if story else drafting.choose_here(config_for(task, config), task.preset)
        said = len(story.clips) if story else task.num_prompts
        used = -(-clips // task.row.clips_per_prompt) if task.task == "creative" else 1
        facts |= {
            "clips": clips,
            "frames": frames,
            "seconds": round(task.timeline.seconds(frames), 3),
            "storyline": task.prompts.name if task.prompts else choice.title if choice else "",
            "prompts": said,
            "cut": max(0, said - used),
        }
        store = Store(out / "films" / task.name)
        facts["takes"] = len(store.takes()) if store.project_file.exists() else 0
    except StudioError as err:
        facts["error"] = str(err)
    return facts
