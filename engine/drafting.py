"""Storylines without a page: who writes them here, for one picture or for a folder of them.

A folder of samples is laid out as upstream's: OUT/NAME/{frame.jpg, prompt.txt}. prompt.txt is written last and at once,
so a sample that has one is whole. OUT/NAME.json beside it says what was asked for and keeps each beat as it comes.
Knows nothing about films.
"""

import hashlib
import json
import re
import tempfile
import unicodedata
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue, ValidationError

from engine.config import Config, Preset
from engine.domain import LANGUAGES, MAX_SEED, Beat, Saved, Telling, fold
from engine.errors import InputError, StorylineError, disk_errors_explained
from engine.events import (
    BeatDrafted,
    DrafterChosen,
    DrafterLoading,
    Event,
    ItemFailed,
    SampleStarted,
    StorylineDrafted,
)
from engine.media import image
from engine.project.files import write_atomically
from engine.story import exchange
from engine.story.choose import Choice, choose, depends_on_machine, open_drafter
from engine.story.drafter import Brief, StorylineDrafter
from engine.storyboard import MAX_STORYBOARD_BYTES

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SAFE = "Finished samples are safe."
Keep = Callable[[Sequence[Beat]], object]


def choose_here(config: Config, preset: Preset) -> Choice:
    """The drafter for `preset` on this machine, which is looked at only where that can change the choice: the model
    stack is imported for it."""
    machine = None
    if depends_on_machine(config, preset):
        from engine.models.placement import machine_here

        machine = machine_here()
    return choose(config, preset, machine)


def announced(choice: Choice, telling: Telling) -> DrafterChosen:
    """Who writes and why, and that templates leave out what they cannot write."""
    why = choice.why
    if choice.source == "template" and telling.language != "en":
        why += f" They write English only, and no captions in {LANGUAGES[telling.language]}."
    return DrafterChosen(choice.source, choice.title, why, choice.hint)


@contextmanager
def opened(choice: Choice, config: Config) -> Iterator[StorylineDrafter]:
    """The drafter of `choice`; its memory and connections are given back at the end."""
    drafter = open_drafter(choice, config)
    try:
        yield drafter
    finally:
        drafter.close()


def written(
    drafter: StorylineDrafter, brief: Brief, keep: Keep = lambda beats: None, *, first: int = 0
) -> Generator[Event, None, tuple[Beat, ...]]:
    """Say each beat as it comes; return all of them. Raises `StorylineError` when they are not as many as asked for.

    keep: is given every beat once: a model's before the next one is asked for; those of templates, which are written
    again in no time, all together. first: what the index of the beats that are said begins with.
    """
    beats: list[Beat] = []
    kept = 0
    try:
        with closing(drafter.beats(brief)) as coming:
            for beat in coming:
                beats.append(beat)
                if drafter.source != "template":
                    kept += 1
                    keep([beat])
                yield BeatDrafted(first + len(beats) - 1, beat.prompt, beat.caption)
    finally:
        if len(beats) > kept:
            keep(beats[kept:])
    if len(beats) != brief.count:
        raise StorylineError(f"{len(beats)} of {brief.count} prompts were written.", "Draft again.")
    return tuple(beats)


def seed_of(name: str, seed: int) -> int:
    """A seed that differs from picture to picture and does not depend on which others there are."""
    return (seed + zlib.crc32(name.encode())) % (MAX_SEED + 1)


# ---- folders of pictures, and of samples


def pictures_in(folder: Path) -> list[Path]:
    """The PNG, JPEG and WebP files in `folder`, by name. Raises `InputError` when there is none."""
    try:
        files = sorted(folder.iterdir())
    except OSError as err:
        raise InputError(f"The folder {folder.name}/ could not be read ({err.strerror}).") from err
    found = [
        file
        for file in files
        if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file() and not file.name.startswith(".")
    ]
    if not found:
        raise InputError(f"The folder {folder.name}/ holds no picture.", "PNG, JPEG and WebP files are read.")
    return found


def name_for(picture: Path) -> str:
    """A folder name from a picture's file name."""
    return name_of(picture.stem, "picture")


def name_of(text: str, kind: str) -> str:
    """A folder name from `text`: letters and digits of English, dashes, at most 60 characters; else a `kind` and its
    hash."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-")
    return name or f"{kind}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def named(pictures: Iterable[Path]) -> dict[str, Path]:
    """Each picture under its folder name; two with the same raise `InputError`."""
    found: dict[str, Path] = {}
    for picture in pictures:
        name = name_for(picture)
        if name in found:
            raise InputError(f"{found[name].name} and {picture.name} would both be called “{name}”.", "Rename one.")
        found[name] = picture
    return found


def read_sample(folder: Path) -> tuple[str, ...] | None:
    """The prompts of the sample in `folder`, or None when it is not there whole."""
    if not (folder / "prompt.txt").exists() or not (folder / "frame.jpg").is_file():
        return None
    return exchange.read_file(folder / "prompt.txt").prompts


def write_sample(folder: Path, anchor: Path, prompts: Sequence[str]) -> None:
    """Write upstream's sample from the studio's own picture `anchor`."""
    with disk_errors_explained("a sample", safe=SAFE):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".prompt.txt.*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        image.save_jpeg(image.load(anchor), folder / "frame.jpg", quality=95)
        write_atomically(folder / "prompt.txt", exchange.write_upstream(prompts).encode(), point="sample")


class KeptDraft(Saved):
    """What is kept beside a sample, finished or not: what was asked for, and the beats with their captions."""

    asked: dict[str, JsonValue]
    beats: tuple[Beat, ...] = ()


def write_samples(
    pictures: dict[str, Path], out: Path, brief: Brief, choice: Choice, config: Config
) -> Iterator[Event]:
    """A sample for each of `pictures` that has none in `out`, each of them with a `brief` like the given one.

    One that was stopped in the middle goes on after the beats that it has. One that was drafted for something else is
    refused by name. What is wrong with one picture, or with what was written for it, is said and the others go on; it
    raises at the end. A drafter that cannot be reached ends it at once. What is written stays in every case.
    """
    failed: list[str] = []
    with ExitStack() as stack:
        drafter: StorylineDrafter | None = None
        for index, (name, picture) in enumerate(pictures.items()):
            yield SampleStarted(name, index, len(pictures))
            try:
                asked = asked_for(brief, picture)
                beats = list(kept_beats(out, name, asked))
                if prompts := read_sample(out / name):
                    yield StorylineDrafted(prompts, sample=name, is_kept=True)
                    continue
                with imported(picture) as anchor:
                    if len(beats) < brief.count:
                        if drafter is None:
                            if choice.source == "qwen":
                                yield DrafterLoading(choice.title)
                            drafter = stack.enter_context(opened(choice, config))
                        own = replace(brief, picture=anchor, seed=seed_of(name, brief.seed))
                        own = replace(own, count=brief.count - len(beats), so_far=tuple(beat.prompt for beat in beats))
                        keep = kept_in(out / f"{name}.json", asked, beats)
                        yield from written(drafter, own, keep, first=len(beats))
                    prompts = tuple(beat.prompt for beat in beats)
                    write_sample(out / name, anchor, prompts)
                yield StorylineDrafted(prompts, source=choice.source, sample=name)
            except (InputError, StorylineError) as err:
                failed.append(picture.name)
                yield ItemFailed(name, err.message, err.hint)
    if failed:
        raise InputError(f"{len(failed)} of {len(pictures)} pictures failed: {listed(failed)}.", SAFE)


def asked_for(brief: Brief, picture: Path) -> dict[str, JsonValue]:
    """Everything that decides a sample beside who writes it: one that was asked for otherwise is not touched."""
    return {
        "picture": sha256_of(picture),
        "clips": brief.count,
        "kind": brief.kind,
        "keywords": brief.keywords,
        "telling": brief.telling.model_dump(),
        "seed": brief.seed,
    }


def kept_beats(out: Path, name: str, asked: dict[str, JsonValue]) -> tuple[Beat, ...]:
    """What is written of the sample `name` already. Raises `InputError` when something else was asked for."""
    path = out / f"{name}.json"
    again = f"It was left as it is. Delete {name}/ and {name}.json to have it drafted again, or name another folder."
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_STORYBOARD_BYTES else b""
        draft = KeptDraft.model_validate_json(data)
    except FileNotFoundError as err:
        if (out / name / "prompt.txt").exists():
            raise InputError(f"{name}/ was not written by “draft”.", again) from err
        return ()
    except OSError as err:
        raise InputError(f"{path.name} could not be read ({err.strerror}).", again) from err
    except (ValidationError, InputError) as err:
        raise InputError(f"{path.name} is damaged.", again) from err
    if draft.asked != asked:
        raise InputError(f"{name} was drafted for something else: {difference(draft.asked, asked)}.", again)
    return draft.beats[: asked["clips"]]


def kept_in(path: Path, asked: dict[str, JsonValue], beats: list[Beat]) -> Keep:
    """Adds beats to `beats`, and writes all of them to `path`."""

    def keep(more: Sequence[Beat]) -> None:
        beats.extend(more)
        draft = KeptDraft(asked=asked, beats=tuple(beats))
        with disk_errors_explained("a sample", safe=SAFE):
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            write_atomically(path, draft.model_dump_json(indent=1).encode(), point="draft")

    return keep


def sha256_of(picture: Path) -> str:
    try:
        with picture.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as err:
        raise InputError(f"The picture {picture.name} could not be read ({err.strerror}).", "Check the path.") from err


def difference(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """The first thing that two records say differently, in words."""
    key = next(key for key in {**after, **before} if before.get(key) != after.get(key))
    old, new = (json.dumps(record.get(key), ensure_ascii=False) for record in (before, after))
    readable = len(old) + len(new) < 120 and key not in ("picture", "prompts")
    return f"“{key}” was {old} and is {new}" if readable else f"“{key}” is another"


@contextmanager
def imported(picture: Path) -> Iterator[Path]:
    """A validated copy of an untrusted picture, gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        anchor = Path(folder) / "anchor.png"
        image.import_image(picture, anchor)
        yield anchor


def listed(names: Sequence[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(fold(name) for name in names[:most]) + (f" and {more} more" if more > 0 else "")
