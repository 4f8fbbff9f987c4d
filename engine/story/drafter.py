"""The seam for whoever writes storylines: a brief goes in, beats come out one at a time (paper, Appendix A.1).

A drafter is a template, a model on this machine or a model behind an endpoint. It knows nothing about projects, jobs or
screens; what it writes is text for a person to read and edit before it costs a film model's time.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from engine.config import Preset
from engine.domain import Beat, Project, Source, Storyline, Telling, check_num_clips
from engine.story.vocabulary import Vocabulary, vocabulary_of

MAX_KEYWORDS_CHARACTERS = 500
Kind = Literal["stream", "steady", "speaking", "dancing"]
KINDS: dict[str, Kind] = {"film": "stream", "shot": "steady", "talk": "speaking", "dance": "dancing"}  # by variant


@dataclass(frozen=True)
class Brief:
    """What a storyline is to be about. Picklable.

    picture: a PNG that the studio itself wrote: the anchor, or for the next beat the last frame so far. keywords: as
    typed, at most MAX_KEYWORDS_CHARACTERS. count: beats to write after those of `so_far`. kind: "stream" asks for a new
    prompt a clip, the others for one prompt that holds for all of them. is_last_frame: the story has got to where
    `picture` is. other_than: prompts of an idea that was not liked. vocabulary: the moves a small model knows, None
    where any text goes.
    """

    picture: Path
    count: int
    keywords: str = ""
    kind: Kind = "stream"
    telling: Telling = field(default_factory=Telling)
    so_far: tuple[str, ...] = ()
    is_last_frame: bool = False
    other_than: tuple[str, ...] = ()
    seed: int = 0
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        check_num_clips(self.count)


class StorylineDrafter(Protocol):
    """Closing the iterator, or `interrupt` from another thread, ends a draft within one token of a model."""

    source: Source

    def beats(self, brief: Brief) -> Iterator[Beat]:
        """`brief.count` beats in order, each as soon as it is there.

        Raises `InputError` on unusable keywords, `StorylineError` when a model's answers cannot be used,
        `BackendUnavailable` when it cannot be reached, `OutOfMemory`; beats that came before stay valid.
        """
        ...

    def interrupt(self) -> None: ...

    def close(self) -> None:
        """Give memory and connections back."""
        ...


def brief_for(
    project: Project,
    preset: Preset,
    picture: Path,
    *,
    count: int,
    so_far: tuple[str, ...] = (),
    is_last_frame: bool = False,
    other_than: tuple[str, ...] = (),
    seed: int = 0,
) -> Brief:
    """The brief for `count` more clips of `project`, as its variant and its model want them."""
    return Brief(
        picture,
        count,
        keywords=shortened(project.idea),
        kind=KINDS[project.variant],
        telling=project.telling,
        so_far=so_far,
        is_last_frame=is_last_frame,
        other_than=other_than,
        seed=seed,
        vocabulary=vocabulary_of(preset),
    )


def shortened(idea: str) -> str:
    """As much of an idea as keywords may have, up to a comma or the end of a word: imported ones may be longer."""
    if len(idea) <= MAX_KEYWORDS_CHARACTERS:
        return idea
    room = idea[: MAX_KEYWORDS_CHARACTERS + 1]
    comma = max(room.rfind(mark) for mark in ",;\n，、；。")
    if comma > MAX_KEYWORDS_CHARACTERS // 2:
        return room[:comma].rstrip()
    words = room[:-1] if room[-1].isspace() else room.rpartition(" ")[0]
    return words.rstrip() or room[:-1]


def draft(drafter: StorylineDrafter, brief: Brief) -> Storyline:
    """The whole storyline at once, for callers that do not show it as it grows."""
    with closing(drafter.beats(brief)) as beats:
        return Storyline(idea=brief.keywords.strip(), beats=tuple(beats), source=drafter.source)
