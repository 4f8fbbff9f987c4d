"""The embedded drafter that needs no model: prompts from templates.

It knows three things: the keywords, a few statistics of the picture, and the model's vocabulary. It does not see what
is in the picture, writes English only, and says so.
"""

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.domain import Beat, Source, clean_prompt
from engine.errors import InputError
from engine.media import image
from engine.story.drafter import MAX_KEYWORDS_CHARACTERS, Brief, Kind
from engine.story.vocabulary import Action, Vocabulary

MAX_SUBJECT_WORDS = 8
# A day and a year, in the order in which they happen; moves that are not offered are skipped.
CYCLE = ("sunrise", "noon", "autumn", "storm", "sunset", "night", "fog", "winter")


class TemplateDrafter:
    """Writes prompts from templates, within the brief's vocabulary when there is one. Deterministic by seed."""

    source: Source = "template"

    def beats(self, brief: Brief) -> Iterator[Beat]:
        words = parse_keywords(brief.keywords)
        generator = random.Random(f"{brief.seed}/{'|'.join(words)}/{len(brief.so_far)}")
        wanted, subject = split(words, brief.vocabulary)
        if brief.kind != "stream" and brief.so_far:
            prompts = [brief.so_far[0]]
        elif brief.vocabulary and brief.vocabulary.actions:
            prompts = vocabulary_prompts(brief, brief.vocabulary, wanted, subject, generator)
        else:
            prompts = free_prompts(brief, subject, words, generator)
        for index in range(brief.count):
            yield Beat(prompt=prompts[index if brief.kind == "stream" else 0])

    def interrupt(self) -> None:
        """There is nothing to wait for."""

    def close(self) -> None: ...


def split(words: Sequence[str], vocabulary: Vocabulary | None) -> tuple[list[Action], str]:
    """Keywords that name a move of the vocabulary, in their order, and the phrase that names the subject."""
    wanted, subjects = [], []
    for word in words:
        action = vocabulary.action_of(word) if vocabulary else None
        (wanted.append(action) if action else subjects.append(word))
    return wanted, subject_phrase(subjects)


def vocabulary_prompts(
    brief: Brief, vocabulary: Vocabulary, wanted: Sequence[Action], subject: str, generator: random.Random
) -> list[str]:
    moves = [action for action in vocabulary.actions if action.kind != "stay"] or list(vocabulary.actions)
    ordered = in_cycle(moves)
    done = (vocabulary.action_of(prompt) for prompt in reversed(brief.so_far))
    last = next((action for action in done if action and action in ordered), None)
    start = last.name if last else before_picture(brief.picture)
    queue = [] if brief.so_far else list({action.name: action for action in wanted}.values())
    actions: list[Action] = []
    for _ in range(brief.count):
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
STEADY_BEATS: dict[Kind, str] = {
    "steady": "small natural movements, the camera holds still",
    "speaking": "speaks to the camera, with natural lip movement, blinks and small movements of the head",
    "dancing": "dances in place with the whole body in view, smooth and rhythmic, the camera holds still",
}
PACES = {"slow": "Slow, calm motion", "steady": "Natural motion", "lively": "Lively, energetic motion"}


def free_prompts(brief: Brief, subject: str, words: Sequence[str], generator: random.Random) -> list[str]:
    """Prompts for a model that follows free text: the subject named again in each, one beat a clip."""
    tone = brief.telling.tone
    moods = ([] if tone == "as the picture" else [tone]) + list(words[2:5])
    mood = f" Mood: {', '.join(moods)}." if moods else ""
    named = f"{subject[0].upper()}{subject[1:]}"
    tail = f"{PACES[brief.telling.pace]}, consistent light, cinematic detail.{mood}"
    if brief.kind != "stream":
        return [f"{named}: {STEADY_BEATS[brief.kind]}. {tail}"]
    offset, first = generator.randrange(len(FREE_BEATS)), len(brief.so_far)
    beats = (FREE_BEATS[(offset + first + index) % len(FREE_BEATS)] for index in range(brief.count))
    return [f"{named}: {beat}. {tail}" for beat in beats]
