"""The seam for whoever writes storylines, and the embedded drafter that needs no model.

The template drafter knows three things: the keywords, a few statistics of the picture, and the model's vocabulary. It
does not see what is in the picture, and says so.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.config import Preset
from engine.domain import Storyline, check_num_clips, clean_prompt
from engine.errors import InputError
from engine.media import image
from engine.story.vocabulary import Action, Vocabulary, vocabulary_of

MAX_KEYWORDS_CHARACTERS = 500
MAX_SUBJECT_WORDS = 8
# A day and a year, in the order in which they happen; moves that are not offered are skipped.
CYCLE = ("sunrise", "noon", "autumn", "storm", "sunset", "night", "fog", "winter")


class StorylineDrafter(Protocol):
    def draft(
        self, picture: Path, keywords: str, count: int, *, seed: int = 0, so_far: Sequence[str] = ()
    ) -> Storyline:
        """`count` prompts that continue `so_far` from `picture`; raises `InputError` on unusable keywords."""
        ...


@dataclass(frozen=True)
class TemplateDrafter:
    """Writes prompts from templates, within `vocabulary` when the model has one. Deterministic by seed."""

    vocabulary: Vocabulary | None
    steady: bool = False  # Shot: one prompt for the whole film

    @classmethod
    def for_preset(cls, preset: Preset, variant: str = "film") -> "TemplateDrafter":
        return cls(vocabulary_of(preset), steady=preset.variant(variant).prompt_policy == "one")

    def draft(
        self, picture: Path, keywords: str, count: int, *, seed: int = 0, so_far: Sequence[str] = ()
    ) -> Storyline:
        check_num_clips(count)
        words = parse_keywords(keywords)
        generator = random.Random(f"{seed}/{'|'.join(words)}/{len(so_far)}")
        wanted, subject = self.split(words)
        if self.vocabulary is None or not self.vocabulary.actions:
            prompts = free_prompts(subject, words, count, generator, first=len(so_far))
        else:
            prompts = self.vocabulary_prompts(picture, wanted, subject, count, generator, so_far)
        if self.steady:
            prompts = [so_far[0] if so_far else prompts[0]] * count
        return Storyline(idea=keywords.strip(), prompts=tuple(prompts), source="template")

    def split(self, words: list[str]) -> tuple[list[Action], str]:
        """Keywords that name a move of the vocabulary, in their order, and the phrase that names the subject."""
        wanted, subjects = [], []
        for word in words:
            action = self.vocabulary.action_of(word) if self.vocabulary else None
            (wanted.append(action) if action else subjects.append(word))
        return wanted, subject_phrase(subjects)

    def vocabulary_prompts(
        self,
        picture: Path,
        wanted: list[Action],
        subject: str,
        count: int,
        generator: random.Random,
        so_far: Sequence[str],
    ) -> list[str]:
        assert self.vocabulary is not None
        moves = [action for action in self.vocabulary.actions if action.kind != "stay"] or list(self.vocabulary.actions)
        ordered = in_cycle(moves)
        last = next((a for p in reversed(so_far) if (a := self.vocabulary.action_of(p)) and a in ordered), None)
        start = last.name if last else before_picture(picture)
        queue = [] if so_far else list({action.name: action for action in wanted}.values())
        actions: list[Action] = []
        for _ in range(count):
            action = queue.pop(0) if queue else following(start, ordered)
            actions.append(action)
            start = action.name
        return [phrase_for(action, subject, generator) for action in actions]


def parse_keywords(text: str) -> list[str]:
    """Keywords as given, split at commas and line ends, without repeats. Too much text raises `InputError`."""
    if len(text) > MAX_KEYWORDS_CHARACTERS:
        raise InputError(
            f"The keywords have {len(text):,} characters; up to {MAX_KEYWORDS_CHARACTERS} are allowed.",
            "A few words are enough: a subject, a place, a mood.",
        )
    parts = [part.strip() for part in re.split(r"[,;\n]", text)]
    return list(dict.fromkeys(clean_prompt(part) for part in parts if part and part.strip()))


def subject_phrase(words: Sequence[str]) -> str:
    """“the dog in the street” from [dog, street]; “the scene” from nothing."""
    named = [" ".join(word.split()[:MAX_SUBJECT_WORDS]) for word in words[:2]]
    if not named:
        return "the scene"
    first, *rest = [word if re.match(r"(?i)(a|an|the|my|our)\b", word) else f"the {word}" for word in named]
    return f"{first} and {rest[0]}" if rest else first


def in_cycle(actions: Sequence[Action]) -> list[Action]:
    """The actions in the order of CYCLE, unknown ones at the end."""
    return sorted(actions, key=lambda a: CYCLE.index(a.name) if a.name in CYCLE else len(CYCLE))


def following(name: str, ordered: Sequence[Action]) -> Action:
    """The next action after `name` in the cycle; never `name` itself unless it is the only one."""
    position = CYCLE.index(name) if name in CYCLE else -1
    later = [a for a in ordered if a.name not in CYCLE or CYCLE.index(a.name) > position]
    pick = next((a for a in later if a.name != name), None)
    return pick or next((a for a in ordered if a.name != name), ordered[0])


def before_picture(picture: Path) -> str:
    """The point of the cycle that a picture looks like, judged by its brightness and warmth alone."""
    look = image.statistics(image.load(picture))
    if look.brightness < 0.25:
        return "night"
    if look.brightness > 0.7 and look.saturation < 0.15:
        return "fog"
    return "storm" if look.warmth <= 0.08 else "noon"


def phrase_for(action: Action, subject: str, generator: random.Random) -> str:
    text = generator.choice(action.phrases).replace("{subject}", subject)
    return text[0].upper() + text[1:] + "."


FREE_BEATS = (
    "the camera slowly moves closer",
    "a light wind moves through the picture",
    "the light changes as clouds pass overhead",
    "the camera glides to the side and reveals more of the place",
    "the subject turns and looks around",
    "evening light settles over everything",
    "the camera pulls back to a wide view",
    "small details in the foreground come to life",
)


def free_prompts(subject: str, words: Sequence[str], count: int, generator: random.Random, *, first: int) -> list[str]:
    """Prompts for a model that follows free text: the subject named again in each, one beat a clip."""
    mood = f" Mood: {', '.join(words[2:5])}." if len(words) > 2 else ""
    offset = generator.randrange(len(FREE_BEATS))
    return [
        f"{subject[0].upper()}{subject[1:]}: {FREE_BEATS[(offset + first + index) % len(FREE_BEATS)]}. "
        f"Natural motion, consistent light, cinematic detail.{mood}"
        for index in range(count)
    ]
