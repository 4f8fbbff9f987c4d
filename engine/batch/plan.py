"""A plan of many films: what its YAML file may say, and what each film is to be.

The benchmark's two tasks: “consistent” films have one prompt, “creative” ones a stream (paper, §5.1). Paths in a plan
are relative to its file.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from engine.config import Config, Drafter, Preset, Settings, load_preset, read_yaml, validated
from engine.domain import MAX_CLIPS, Pace, Seed, Telling, Tone, check_num_clips
from engine.drafting import listed, name_for, name_of, named, pictures_in, sha256_of
from engine.errors import ConfigError, InputError
from engine.story import exchange
from engine.story.drafter import KINDS, MAX_KEYWORDS_CHARACTERS, Kind
from engine.story.exchange import WrittenStoryline
from engine.timeline import Timeline
from engine.variants import Variant

MAX_FILMS = 2000
MAX_SECONDS = 10_000.0
Task = Literal["consistent", "creative"]
VARIANT_FOR: dict[Task, str] = {"consistent": "shot", "creative": "film"}  # where a plan names none
MAX_NAME_CHARACTERS = 60


def check_path(path: Path) -> Path:
    """`path` if the operating system can be asked for it: no NUL, no half of a character."""
    try:
        if b"\0" not in os.fsencode(path):
            return path
    except UnicodeEncodeError:
        pass
    raise ValueError("a path has letters in it that no file's name can have")


PlanPath = Annotated[Path, AfterValidator(check_path)]


class FilmSettings(Settings):
    """What can be said for all films under `defaults` and again for each of them."""

    preset: Annotated[str, AfterValidator(lambda name: str(check_path(Path(name))))] | None = None
    variant: Literal["film", "shot"] | None = None
    task: Task | None = None
    seconds: float | None = Field(None, gt=0, le=MAX_SECONDS)
    clips: int | None = Field(None, ge=1, le=MAX_CLIPS)
    steps: int | None = Field(None, ge=1, le=200)
    draft: bool | None = None
    seed: Seed | None = None
    drafter: Drafter | None = None
    keywords: str | None = Field(None, max_length=MAX_KEYWORDS_CHARACTERS)
    tone: Tone | None = None
    pace: Pace | None = None
    language: str | None = None

    @model_validator(mode="after")
    def _has_one_length(self) -> "FilmSettings":
        if self.seconds is not None and self.clips is not None:
            raise ValueError("give either seconds or clips")
        return self


class FilmEntry(FilmSettings):
    """One film, or one for each picture of a folder. Without a picture one is looked for by the keywords."""

    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]{0,59}$")
    picture: PlanPath | None = None
    pictures: PlanPath | None = None
    prompts: PlanPath | None = None

    @model_validator(mode="after")
    def _has_one_beginning(self) -> "FilmEntry":
        if self.picture and self.pictures:
            raise ValueError("give either picture or pictures")
        if self.pictures and self.name:
            raise ValueError("films of a folder are named after its pictures: leave name out")
        return self


class BatchPlan(Settings):
    defaults: FilmSettings = FilmSettings()
    films: tuple[FilmEntry, ...] = Field(min_length=1, max_length=MAX_FILMS)


@dataclass(frozen=True)
class FilmTask:
    """What one film is to be. picture: None: to be found by the keywords. clips: None: as many as the prompts say."""

    name: str
    preset: Preset = field(repr=False)
    variant: str
    task: Task
    clips: int | None
    picture: Path | None = None
    prompts: Path | None = None
    keywords: str = ""
    telling: Telling = field(default_factory=Telling)
    steps: int | None = None
    draft: bool = False
    seed: int = 0
    drafter: Drafter | None = None

    @property
    def row(self) -> Variant:
        """The method, with the prompts that the task wants of it: a Shot can have a stream and a Film one prompt."""
        policy = "one" if self.task == "consistent" else "stream"
        return replace(self.preset.variant(self.variant), prompt_policy=policy)

    @property
    def timeline(self) -> Timeline:
        return Timeline(self.preset.num_frames, self.row.num_motion_frames, self.preset.fps)

    @property
    def kind(self) -> Kind:
        own = KINDS[self.variant]
        return "stream" if self.task == "creative" else "steady" if own == "stream" else own

    @property
    def num_prompts(self) -> int:
        """How many prompts are to be drafted."""
        return 1 if self.task == "consistent" else -(-(self.clips or 1) // self.row.clips_per_prompt)

    def storyline(self) -> WrittenStoryline | None:
        """What the file of prompts says, if there is one."""
        if self.prompts is None:
            return None
        story = exchange.read_file(self.prompts)
        if self.task == "consistent" and len(story.clips) > 1:
            raise InputError(
                f"{self.prompts.name} holds {len(story.clips)} prompts; a consistent film has one.",
                "Keep one, or set task: creative.",
            )
        return story

    def num_clips(self, story: WrittenStoryline | None) -> int:
        return check_num_clips(self.clips or (len(story.clips) if story else 1) * self.row.clips_per_prompt)

    def record(self, story: WrittenStoryline | None) -> dict[str, object]:
        """Everything that decides the film beside model files, as JSON: a film that has another one is not touched."""
        return {
            "preset": self.preset.name,
            "variant": self.variant,
            "task": self.task,
            "clips": self.num_clips(story),
            "picture": sha256_of(self.picture) if self.picture else "found by keywords",
            "prompts": hashlib.sha256(exchange.write(story, "json").encode()).hexdigest() if story else None,
            "keywords": self.keywords,
            "telling": self.telling.model_dump(),
            "steps": self.steps,
            "draft": self.draft,
            "seed": self.seed,
            "drafter": self.drafter,
        }


def read_plan(path: Path, config: Config, *, preset: str | None = None, random_weights: bool = False) -> list[FilmTask]:
    """The films that the plan in `path` asks for, in order. preset: takes the place of every one in the plan.

    Raises `ConfigError` for what the file says and `InputError` for names; pictures and prompts are not read yet.
    """
    plan = validated(BatchPlan, read_yaml(path), path.name)
    presets: dict[str, Preset] = {}
    tasks: list[FilmTask] = []
    for number, entry in enumerate(plan.films, 1):
        said = together(plan.defaults, entry)
        wanted = preset or in_folder(path, said.preset) or config.preset
        if wanted not in presets:
            presets[wanted] = load_preset(wanted, random_weights=random_weights)
        tasks += tasks_of(path, number, said, presets[wanted])
    tasks = numbered(tasks)
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"More than one film would be called {listed(twice)}.", "Give each a name of its own.")
    if len(tasks) > MAX_FILMS:
        raise InputError(f"{path.name} asks for {len(tasks):,} films; up to {MAX_FILMS:,} are allowed.", "Split it.")
    return tasks


def numbered(tasks: Sequence[FilmTask]) -> list[FilmTask]:
    """The films with names; those that have none are called by their keywords, and get a number where that is taken."""
    taken = {task.name for task in tasks}
    found = []
    for task in tasks:
        if not task.name:
            name, number = name_of(task.keywords, "film"), 1
            task = replace(task, name=name)
            while task.name in taken:
                number += 1
                task = replace(task, name=f"{name[: MAX_NAME_CHARACTERS - 5].strip('-')}-{number}")
            taken.add(task.name)
        found.append(task)
    return found


def in_folder(plan: Path, preset: str | None) -> str | None:
    """A preset's file relative to the plan; names stay as they are."""
    return str(plan.parent / preset) if preset and preset.endswith((".yaml", ".yml")) else preset


def together(defaults: FilmSettings, entry: FilmEntry) -> FilmEntry:
    """`entry` with the defaults for what it does not say; its own length is the only one, and a file with a stream of
    prompts is a length."""
    given = defaults.model_dump(exclude_none=True)
    is_stream = entry.prompts is not None and (entry.task or defaults.task) != "consistent"
    if entry.seconds is not None or entry.clips is not None or is_stream:
        given.pop("seconds", None)
        given.pop("clips", None)
    return FilmEntry.model_validate(given | entry.model_dump(exclude_none=True))


def tasks_of(path: Path, number: int, said: FilmEntry, preset: Preset) -> list[FilmTask]:
    """The film of entry `number`, or those of its folder."""
    where = f"Film {number} in {path.name}"
    if said.seconds is None and said.clips is None and said.prompts is None:
        raise ConfigError(f"{where} has no length.", "Give seconds, clips, or a file of prompts.")
    if not said.picture and not said.pictures and not (said.keywords or "").strip():
        raise ConfigError(f"{where} has no picture.", "Give picture, pictures (a folder), or keywords to look for one.")
    if said.draft and preset.draft is None:
        raise ConfigError(f"The preset “{preset.name}” has no draft quality.", "Leave draft out.")
    telling = {key: getattr(said, key) for key in ("tone", "pace", "language") if getattr(said, key) is not None}
    task = said.task or "creative"
    common = FilmTask(
        name=said.name or "",
        preset=preset,
        variant=said.variant or VARIANT_FOR[task],
        task=task,
        clips=said.clips,
        prompts=path.parent / said.prompts if said.prompts else None,
        keywords=said.keywords or "",
        telling=validated(Telling, telling, path.name),
        steps=said.steps,
        draft=bool(said.draft),
        seed=said.seed or 0,
        drafter=said.drafter,
    )
    if said.seconds is not None:
        common = replace(common, clips=check_num_clips(common.timeline.clips_for(said.seconds)))
    preset.variant(common.variant)
    if said.pictures:
        found = named(pictures_in(path.parent / said.pictures))
        return [replace(common, name=name, picture=picture) for name, picture in found.items()]
    picture = path.parent / said.picture if said.picture else None
    return [replace(common, name=said.name or (name_for(picture) if picture else ""), picture=picture)]
