"""Storylines without a page: who writes them here, for one picture or for a folder of them.

A folder of samples is laid out as upstream's: OUT/NAME/{frame.jpg, prompt.txt}. prompt.txt is written last and at once,
so a sample that has one is whole. Knows nothing about films.
"""

import re
import tempfile
import unicodedata
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from engine.config import Config, Preset
from engine.domain import MAX_SEED, Beat, fold
from engine.errors import InputError, StorylineError, disk_errors_explained
from engine.events import BeatDrafted, DrafterLoading, Event, ItemFailed, SampleStarted, StorylineDrafted
from engine.media import image
from engine.project.files import write_atomically
from engine.story import exchange
from engine.story.choose import Choice, choose, depends_on_machine, open_drafter
from engine.story.drafter import Brief, StorylineDrafter

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SAFE = "Finished samples are safe."


def choose_here(config: Config, preset: Preset) -> Choice:
    """The drafter for `preset` on this machine, which is looked at only where that can change the choice: the model
    stack is imported for it."""
    machine = None
    if depends_on_machine(config, preset):
        from engine.models.placement import machine_here

        machine = machine_here()
    return choose(config, preset, machine)


@contextmanager
def opened(choice: Choice, config: Config) -> Iterator[StorylineDrafter]:
    """The drafter of `choice`; its memory and connections are given back at the end."""
    drafter = open_drafter(choice, config)
    try:
        yield drafter
    finally:
        drafter.close()


def written(drafter: StorylineDrafter, brief: Brief) -> Generator[Event, None, tuple[Beat, ...]]:
    """Say each beat as it comes; return all of them. Raises `StorylineError` when they are not as many as asked for."""
    beats: list[Beat] = []
    with closing(drafter.beats(brief)) as coming:
        for index, beat in enumerate(coming):
            beats.append(beat)
            yield BeatDrafted(index, beat.prompt, beat.caption)
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
    """A folder name from a picture's file name: letters and digits of English, dashes, at most 60 characters."""
    plain = unicodedata.normalize("NFKD", picture.stem).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-")
    return name or f"picture-{sha256(picture.stem.encode(errors='surrogateescape')).hexdigest()[:8]}"


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


def write_samples(
    pictures: dict[str, Path], out: Path, brief: Brief, choice: Choice, config: Config
) -> Iterator[Event]:
    """A sample for each of `pictures` that has none in `out`, each of them with a `brief` like the given one.

    What is wrong with one picture, or with what was written for it, is said and the others go on; it raises at the end.
    A drafter that cannot be reached ends it at once. Finished samples stay in every case.
    """
    failed: list[str] = []
    with ExitStack() as stack:
        drafter: StorylineDrafter | None = None
        for index, (name, picture) in enumerate(pictures.items()):
            yield SampleStarted(name, index, len(pictures))
            try:
                if prompts := read_sample(out / name):
                    check_kept(name, prompts, brief.count)
                    yield StorylineDrafted(prompts, sample=name, is_kept=True)
                    continue
                with imported(picture) as anchor:
                    if drafter is None:
                        if choice.source == "qwen":
                            yield DrafterLoading(choice.title)
                        drafter = stack.enter_context(opened(choice, config))
                    own = replace(brief, picture=anchor, seed=seed_of(name, brief.seed))
                    beats = yield from written(drafter, own)
                    prompts = tuple(beat.prompt for beat in beats)
                    write_sample(out / name, anchor, prompts)
                yield StorylineDrafted(prompts, source=drafter.source, sample=name)
            except (InputError, StorylineError) as err:
                failed.append(picture.name)
                yield ItemFailed(name, err.message, err.hint)
    if failed:
        raise InputError(f"{len(failed)} of {len(pictures)} pictures failed: {listed(failed)}.", SAFE)


def check_kept(name: str, prompts: Sequence[str], count: int) -> None:
    if len(prompts) != count:
        raise InputError(
            f"{name}/prompt.txt holds {len(prompts)} prompts, not {count}.", "Delete it to have it drafted again."
        )


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
