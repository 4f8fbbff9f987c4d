"""The embedded drafter that needs no model: prompts from templates.

It knows the keywords, the model's vocabulary, and of the picture a few statistics and whether there is sky, water,
foliage or lamps. It does not see what is in it otherwise, writes English only, and says so.
"""

import random
import re
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from engine.domain import Beat, Source, clean_prompt, fold
from engine.errors import InputError
from engine.pocket.reading import Reading
from engine.story import arc
from engine.story.drafter import MAX_KEYWORDS_CHARACTERS, Brief, Kind
from engine.story.vocabulary import Action, Vocabulary

MAX_SUBJECT_WORDS = 8
NUMBERS = "two|three|four|five|six|seven|eight|nine|ten|some|many|several"
DETERMINER = re.compile(rf"(?i)(a|an|the|this|that|my|our|your|his|her|their|{NUMBERS})\b")
LINKING = {"a", "an", "and", "at", "by", "during", "in", "of", "on", "the", "under", "with"}  # left over around a move
SINGULAR_VERB = re.compile(r"\{subject\} (?:is|\w+s)\b")  # “{subject} disappears” is wrong of two things
SLOT = "{subject}"
JOINTS = ("while", "as")
LEAST_STORY = 4  # prompts that are asked for at once and make a whole story


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

    “street at night” is both: the move is taken out of the subject, which every prompt names.
    """
    wanted, subjects = [], []
    for word in words:
        if vocabulary and (titled := vocabulary.of(word.lower().replace(" ", "_"))):  # as the page's chips say it
            wanted.append(titled)
            continue
        reading = vocabulary.reading(word) if vocabulary else Reading()
        named = [action for name in reading.names if vocabulary and (action := vocabulary.of(name))]
        if named and (named[0].kind != "stay" or " " not in word):  # “still life” is a subject
            wanted += named
            word = without(word, reading.heard)
        if word:
            subjects.append(word)
    return wanted, subject_phrase(subjects)


def without(text: str, heard: Sequence[str]) -> str:
    """`text` without the words that ask for a move, and without what linked them."""
    kept = [word for word in text.split() if not set(re.findall(r"[^\W_]+", word.lower())) & set(heard)]
    while kept and kept[-1].lower() in LINKING:
        kept.pop()
    while kept and kept[0].lower() in LINKING - {"a", "an", "the"}:
        kept.pop(0)
    return " ".join(kept)


def vocabulary_prompts(
    brief: Brief, vocabulary: Vocabulary, wanted: Sequence[Action], subject: str, generator: random.Random
) -> list[str]:
    """A story of moves (see `arc`), those that the keywords name first, each told in another of its phrases."""
    queue = [] if brief.so_far else list({action.name: action for action in wanted}.values())
    alive = arc.lives(vocabulary.actions, brief.picture)
    if brief.kind != "stream":
        steady = queue[0] if queue else lasting(vocabulary, alive, generator)
        return [phrase_for(steady, vocabulary, subject, generator)]
    before = [move_names(vocabulary, prompt) for prompt in brief.so_far]
    story = arc.Arc(
        vocabulary.actions,
        start=arc.before_picture(brief.picture),
        alive=alive,
        pace=brief.telling.pace,
        generator=generator,
    )
    for names in before:
        story.told(names)
    decks: dict[tuple[str, bool], list[str]] = {}
    prompts = []
    for left in range(brief.count, 0, -1):
        rests_first = brief.telling.pace == "slow" and story.prompts and story.prompts[-1] and has_rest(vocabulary)
        if queue and not rests_first:
            names: tuple[str, ...] = (queue.pop(0).name,)
        else:
            names = story.next(left, closes=brief.count >= LEAST_STORY)
        actions = [action for name in names if (action := vocabulary.of(name))] or [resting(vocabulary)]
        text = sentence(decks, actions, vocabulary, subject, generator)
        story.told(move_names(vocabulary, text))
        prompts.append(text)
    return prompts


def move_names(vocabulary: Vocabulary, prompt: str) -> tuple[str, ...]:
    """The moves that a prompt names, none for a rest."""
    return tuple(name for name in vocabulary.reading(prompt).names if name != "stay")


def has_rest(vocabulary: Vocabulary) -> bool:
    return any(action.kind == "stay" for action in vocabulary.actions)


def resting(vocabulary: Vocabulary) -> Action:
    """The action that changes nothing, or whatever there is."""
    return next((action for action in vocabulary.actions if action.kind == "stay"), vocabulary.actions[0])


def lasting(vocabulary: Vocabulary, alive: Sequence[str], generator: random.Random) -> Action:
    """A move that can go on for minutes: something that lives, a hand's shake, or a light that comes and stays."""
    if alive and (action := vocabulary.of(generator.choice(alive))):
        return action
    lights = [action for action in vocabulary.actions if action.kind == "light"]
    return vocabulary.of("handheld") or (generator.choice(lights) if lights else resting(vocabulary))


def sentence(
    decks: dict[tuple[str, bool], list[str]],
    actions: Sequence[Action],
    vocabulary: Vocabulary,
    subject: str,
    generator: random.Random,
) -> str:
    """One prompt for one or two moves; the second is told without naming the subject again, or left out."""
    first = from_deck(decks, actions[0], vocabulary, subject, generator)
    if len(actions) == 1 or all(SLOT in phrase for phrase in actions[1].phrases):
        return first
    second = from_deck(decks, actions[1], vocabulary, "", generator)
    both = f"{first[:-1]} {generator.choice(JOINTS)} {second[0].lower()}{second[1:]}"
    return both if set(vocabulary.reading(both).names) == {action.name for action in actions} else first


def from_deck(
    decks: dict[tuple[str, bool], list[str]],
    action: Action,
    vocabulary: Vocabulary,
    subject: str,
    generator: random.Random,
) -> str:
    """A phrase for `action`, without a subject for none, that was not used since all of them were."""
    key = (action.name, bool(subject))
    if not decks.get(key):
        decks[key] = readable(action, vocabulary, subject)
        generator.shuffle(decks[key])
    return decks[key].pop()


def readable(action: Action, vocabulary: Vocabulary, subject: str) -> list[str]:
    """The sentences for `action` that name no other move, and whose verb goes with the subject."""
    phrases = [phrase for phrase in action.phrases if (SLOT in phrase) == bool(subject)] or list(action.phrases)
    fitting = [phrase for phrase in phrases if is_one(subject) or not SINGULAR_VERB.search(phrase)]
    understood = [text for text in told(fitting, subject) if vocabulary.reading(text).names == (action.name,)]
    return understood or told(phrases, subject)


def phrase_for(action: Action, vocabulary: Vocabulary, subject: str, generator: random.Random) -> str:
    return generator.choice(readable(action, vocabulary, subject))


def told(phrases: Sequence[str], subject: str) -> list[str]:
    return [as_sentence(phrase.replace(SLOT, subject)) for phrase in phrases]


def is_one(subject: str) -> bool:
    """Whether a subject is a single thing, judged by “and”, numbers, and the plural's s."""
    last = subject.split()[-1].lower() if subject else ""
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
