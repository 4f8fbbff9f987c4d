"""The embedded drafter that needs no model: prompts from templates.

It knows three things: the keywords, a few statistics of the picture, and the model's vocabulary. It does not see what
is in the picture, writes English only, and says so.
"""

import random
import re
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

from engine.domain import Beat, Source, clean_prompt, fold
from engine.errors import InputError
from engine.media import image
from engine.story.drafter import MAX_KEYWORDS_CHARACTERS, Brief, Kind
from engine.story.vocabulary import Action, Vocabulary

MAX_SUBJECT_WORDS = 8
NUMBERS = "two|three|four|five|six|seven|eight|nine|ten|some|many|several"
DETERMINER = re.compile(rf"(?i)(a|an|the|this|that|my|our|your|his|her|their|{NUMBERS})\b")
LINKING = {"a", "an", "and", "at", "by", "during", "in", "of", "on", "the", "under", "with"}  # left over around a move
COLOUR = re.compile(r"(?i)\bgolden (?!hour|light|morning|sky|sun)(?=\w)")  # a golden retriever asks for no sunrise
SINGULAR_VERB = re.compile(r"\{subject\} (?:is|\w+s)\b")  # “{subject} disappears” is wrong of two things
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
    """Keywords that name a move of the vocabulary, in their order, and the phrase that names the subject.

    “street at night” is both: the move is taken out, since a prompt that names two moves gets neither.
    """
    wanted, subjects = [], []
    for word in words:
        word = COLOUR.sub("", word) if vocabulary else word  # the small model would make a sunrise of it all the same
        action = vocabulary.action_of(word) if vocabulary else None
        if vocabulary and action and (action.kind != "stay" or " " not in word):  # “still life” is a subject
            wanted.append(action)
            word = without_moves(word, vocabulary)
        if word:
            subjects.append(word)
    return wanted, subject_phrase(subjects)


def without_moves(text: str, vocabulary: Vocabulary) -> str:
    """`text` without the words that ask for a move, and without what linked them."""
    kept = [word for word in text.split() if vocabulary.action_of(word) is None]
    while kept and kept[-1].lower() in LINKING:
        kept.pop()
    while kept and kept[0].lower() in LINKING - {"a", "an", "the"}:
        kept.pop(0)
    return " ".join(kept)


def vocabulary_prompts(
    brief: Brief, vocabulary: Vocabulary, wanted: Sequence[Action], subject: str, generator: random.Random
) -> list[str]:
    """Moves in the order of a day and a year, each told in another of its phrases; the slow pace rests after each."""
    moves = [action for action in vocabulary.actions if action.kind != "stay"] or list(vocabulary.actions)
    rest = next((action for action in vocabulary.actions if action.kind == "stay"), None)
    rests = rest if brief.telling.pace == "slow" and brief.kind == "stream" else None
    ordered = in_cycle(moves)
    said = [action for prompt in reversed(brief.so_far) if (action := vocabulary.action_of(prompt))]
    last = next((action for action in said if action in ordered), None)
    start = last.name if last else before_picture(brief.picture)
    queue = [] if brief.so_far else list({action.name: action for action in wanted}.values())
    actions: list[Action] = []
    for _ in range(brief.count):
        before = actions[-1] if actions else said[0] if said else None
        if rests and before and before.kind != "stay":
            actions.append(rests)
            continue
        action = queue.pop(0) if queue else following(start, ordered)
        actions.append(action)
        start = action.name
    decks: dict[str, list[str]] = {}
    return [from_deck(decks, action, vocabulary, subject, generator) for action in actions]


def from_deck(
    decks: dict[str, list[str]], action: Action, vocabulary: Vocabulary, subject: str, generator: random.Random
) -> str:
    """A phrase for `action` that was not used since all of them were."""
    if not decks.get(action.name):
        decks[action.name] = readable(action, vocabulary, subject)
        generator.shuffle(decks[action.name])
    return decks[action.name].pop()


def readable(action: Action, vocabulary: Vocabulary, subject: str) -> list[str]:
    """The sentences for `action` that name no other move, and whose verb goes with the subject."""
    fitting = [phrase for phrase in action.phrases if is_one(subject) or not SINGULAR_VERB.search(phrase)]
    understood = [text for text in told(fitting, subject) if vocabulary.action_of(text) == action]
    return understood or told(action.phrases, subject)


def phrase_for(action: Action, vocabulary: Vocabulary, subject: str, generator: random.Random) -> str:
    return generator.choice(readable(action, vocabulary, subject))


def told(phrases: Sequence[str], subject: str) -> list[str]:
    return [as_sentence(phrase.replace("{subject}", subject)) for phrase in phrases]


def is_one(subject: str) -> bool:
    """Whether a subject is a single thing, judged by “and”, numbers, and the plural's s."""
    last = subject.split()[-1].lower()
    many = " and " in subject or re.match(rf"(?i)({NUMBERS})\b", subject)
    return not many and not (last.endswith("s") and not last.endswith(("ss", "us", "is")))


def parse_keywords(text: str) -> list[str]:
    """Keywords as given, split at commas and line ends, without repeats. Too much text raises `InputError`."""
    if len(text) > MAX_KEYWORDS_CHARACTERS:
        raise InputError(
            f"The keywords have {len(text):,} characters; up to {MAX_KEYWORDS_CHARACTERS} are allowed.",
            "A few words are enough: a subject, a place, a mood.",
        )
    parts = [part.strip() for part in re.split(r"[,;\n]", text)]
    return list(dict.fromkeys(clean_prompt(part) for part in parts if fold(part)))


def subject_phrase(words: Sequence[str]) -> str:
    """“the dog and the street” from [dog, street]; “the scene” from nothing."""
    named = [" ".join(word.split()[:MAX_SUBJECT_WORDS]) for word in words[:2]]
    if not named:
        return "the scene"
    return " and ".join(f"{word[0].lower()}{word[1:]}" if DETERMINER.match(word) else f"the {word}" for word in named)


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


def as_sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


# A free prompt is one of each: what happens, what the camera does, what the light does. Their numbers have no common
# divisor, so that they meet in 13 · 11 · 7 = 1,001 ways, no two alike; no time of day, which could only jump.
EVENTS = (
    "Small natural movements bring {subject} to life",
    "A light wind moves through the picture around {subject}",
    "Soft haze drifts past {subject} in the distance",
    "Details in the foreground come to life in front of {subject}",
    "Shadows wander across {subject}",
    "Fine dust floats in the air around {subject}",
    "The background shifts gently behind {subject}",
    "Everything near {subject} sways a little",
    "Something stirs at the edge of the picture beside {subject}",
    "Light and shade pass over {subject}",
    "A stillness spreads around {subject}, then movement returns",
    "Reflections play over {subject}",
    "A breath of air touches {subject}",
)
CAMERAS = (
    "the camera moves closer",
    "the camera glides to the side and reveals more of the place",
    "the camera holds still",
    "the camera pulls back to a wide view",
    "the camera rises and looks down",
    "the camera circles to the left",
    "the camera sinks to a low view",
    "the camera follows with a small turn to the right",
    "the focus wanders from the front to the back",
    "the camera tilts up",
    "the camera drifts freely, as if held by hand",
)
LIGHTS = (
    "The light stays soft and even.",
    "The light grows a little warmer.",
    "The shadows soften.",
    "The light turns slightly cooler.",
    "Bright spots shimmer here and there.",
    "The contrast grows stronger.",
    "The colours become deeper.",
)
STEADY_BEATS: dict[Kind, str] = {
    "steady": "A steady view of {subject}: small natural movements, the camera holds still, the light stays the same",
    "speaking": "{subject}, speaking to the camera with natural lip movement, blinks and small movements of the head",
    "dancing": "{subject}, dancing in place with the whole body in view, smooth and rhythmic; the camera holds still",
}
PACES = {"slow": "Slow, calm motion", "steady": "Natural motion", "lively": "Lively, energetic motion"}


def free_prompts(brief: Brief, subject: str, words: Sequence[str], generator: random.Random) -> list[str]:
    """Prompts for a model that follows free text: the subject named again in each, one beat a clip."""
    tone = brief.telling.tone
    moods = ([] if tone == "as the picture" else [tone]) + list(words[2:5])
    mood = f" Mood: {', '.join(moods)}." if moods else ""
    tail = f"{PACES[brief.telling.pace]}, cinematic detail.{mood}"
    if brief.kind != "stream":
        return [f"{told([STEADY_BEATS[brief.kind]], subject)[0]} {tail}"]
    ways = free_cycle(subject, tail)
    goes_on = bool(brief.so_far) and brief.so_far[-1] in ways
    start = ways.index(brief.so_far[-1]) + 1 if goes_on else generator.randrange(len(ways))
    told_before = {*brief.so_far, *brief.other_than}
    fresh = [prompt for prompt in ways[start:] + ways[:start] if prompt not in told_before] or ways
    return [fresh[index % len(fresh)] for index in range(brief.count)]


def free_cycle(subject: str, tail: str) -> list[str]:
    """Every meeting of an event, a camera and a light, in an order in which each of them takes turns."""
    count = len(EVENTS) * len(CAMERAS) * len(LIGHTS)
    meetings = islice(zip(cycle(EVENTS), cycle(CAMERAS), cycle(LIGHTS), strict=False), count)
    return [f"{told([f'{event}, and {camera}'], subject)[0]} {light} {tail}" for event, camera, light in meetings]
