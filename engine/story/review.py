"""What a person should look at again in a storyboard before it costs a film model's time. Pure, and quick: the page
asks at every edit. It goes by words and makes remarks; it forbids nothing.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import median
from typing import Literal

from engine.story.drafter import Kind
from engine.story.vocabulary import Vocabulary

RemarkKind = Literal["repeat", "similar", "time", "place", "length", "move", "steady"]
SIMILAR = 0.8  # shared words of two prompts, as a share of all their words
MAX_SUBJECT_WORDS = 15
MAX_COMPARED = 20  # earlier prompts that one is compared with: those that share its rarest words

TIME_OF = {
    **dict.fromkeys(
        ("daylight", "midday", "noon", "sunlight", "sunlit", "sunny", "morning", "afternoon", "day"), "day"
    ),
    **dict.fromkeys(("night", "midnight", "moonlight", "moonlit", "moon", "stars", "starry"), "night"),
}
LIGHT_CHANGES = re.compile(
    r"\b(sunrise|dawns?|daybreak|sunset|dusk|twilight|evening|nightfall|darken\w*|brighten\w*|later"
    r"|(?:night|darkness|day|morning|sun|moon)(?: \w+ly)?"
    r" (?:falls?|comes?|rises?|sets?|sinks?|breaks|begins?|ends?|passes)"
    r"|light(?: \w+ly)? (?:fades?|dims?|goes|returns?)|fades? (?:in)?to"
    r"|(?:becomes?|turns?(?: in)?to|grows?|gets?|gives? way to)"
    r" (?:\w+ ){0,2}(?:night|day|dark|light|bright|morning))\b",
    re.IGNORECASE,
)
PLACES = {
    "indoors": "indoors room bedroom kitchen bathroom hallway corridor office livingroom attic cellar",
    "at sea": "sea ocean seabed underwater waves",
    "in a desert": "desert dune dunes",
    "in a forest": "forest woods jungle rainforest",
    "in a town": "street alley pavement sidewalk crosswalk downtown",
    "in space": "orbit spaceship spacecraft asteroid",
}
PLACE_OF = {word: place for place, words in PLACES.items() for word in words.split()}
TRAVEL = re.compile(
    r"\b(walks?|walking|runs?|running|trots?|strides?|steps?|stepping|enters?|entering|leaves?|leaving|arriv\w+|reach\w*"
    r"|driv\w+|rid\w+|fl(?:y|ies|ying)|sail\w*|climb\w*|cross\w*|follow\w*|emerg\w+|journey\w*|travel\w*|carr\w+|swim\w*"
    r"|div\w+|jump\w*|leap\w*|crawl\w*|into|onto|through|towards?|out of|away|back|past|door\w*|window\w*|path|road"
    r"|becomes?|turns? (?:in)?to|dissolv\w+|transform\w*|reveal\w*|pans?|distance|distant|horizon|beyond|background"
    r"|behind|far|dreams?|memory|remember\w*|painting|picture|screen)\b",
    re.IGNORECASE,
)
TIME_NAMES = {"day": "in daylight", "night": "at night"}


@dataclass(frozen=True)
class Remark:
    """One thing about the prompt at `index` (from 0), in a short sentence that says what to do."""

    index: int
    kind: RemarkKind
    text: str


def review(
    prompts: Sequence[str],
    *,
    kind: Kind = "stream",
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int = 512,
    vocabulary: Vocabulary | None = None,
    clips_per_prompt: int = 1,
) -> tuple[Remark, ...]:
    """Remarks on `prompts`, by clip.

    count_tokens: of the film model's text encoder, None where it is not here; max_tokens: how many it reads.
    vocabulary: with one, the moves are judged, and a move may return later. clips_per_prompt: clips in a row that
    share a prompt on purpose.
    """
    remarks: list[Remark] = list(too_long(prompts, count_tokens, max_tokens)) if count_tokens else []
    if vocabulary and vocabulary.actions:
        remarks += unknown_moves(prompts, vocabulary)
    if kind != "stream":
        return in_order([*remarks, *not_steady(prompts)])
    fresh = [i for i in range(len(prompts)) if not i % clips_per_prompt or prompts[i] != prompts[i - 1]]
    texts = [prompts[index] for index in fresh]
    if vocabulary and vocabulary.actions:
        found = repeats_in_a_row(texts)
    else:
        words = [tuple(re.findall(r"[^\W_]+", text.lower())) for text in texts]
        found = [*repeats(words), *time_jumps(texts, words), *place_jumps(texts, words)]
    numbers = [index + 1 for index in fresh]
    return in_order([*remarks, *(Remark(fresh[i], about, say(numbers)) for i, about, say in found)])


Finding = tuple[int, RemarkKind, Callable[[list[int]], str]]  # at which prompt, what, and how to say it


def in_order(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    return tuple(sorted(remarks, key=lambda remark: remark.index))


def too_long(prompts: Sequence[str], count_tokens: Callable[[str], int], max_tokens: int) -> Iterable[Remark]:
    for index, prompt in enumerate(prompts):
        if prompt.isascii() and len(prompt) + 2 <= max_tokens:  # a token is a character at least: no need to count
            continue
        tokens = count_tokens(prompt)
        if tokens > max_tokens:
            yield Remark(
                index, "length", f"This prompt has {tokens} tokens; the film model reads the first {max_tokens}."
            )


def unknown_moves(prompts: Sequence[str], vocabulary: Vocabulary) -> Iterable[Remark]:
    for index, prompt in enumerate(prompts):
        if vocabulary.action_of(prompt) is None:
            text = f"The film model here knows no move in this prompt. It knows {vocabulary.listed()}."
            yield Remark(index, "move", text)


def not_steady(prompts: Sequence[str]) -> Iterable[Remark]:
    """One remark, at the first prompt that differs: it is one decision, not one a clip."""
    other = next((index for index, prompt in enumerate(prompts) if prompt != prompts[0]), None)
    if other is not None:
        text = f"This film holds one scene and has {len(set(prompts))} different prompts. Give every clip the same."
        yield Remark(other, "steady", text)


def repeats_in_a_row(texts: Sequence[str]) -> Iterable[Finding]:
    for index in range(1, len(texts)):
        if texts[index] == texts[index - 1]:
            yield index, "repeat", lambda numbers, i=index: f"This is the prompt of clip {numbers[i - 1]} again."


def repeats(words: Sequence[tuple[str, ...]]) -> Iterable[Finding]:
    """Prompts that say what an earlier one says, word for word or nearly so."""
    first: dict[tuple[str, ...], int] = {}
    frequency = Counter(chain.from_iterable(words))
    rank = {word: place for place, word in enumerate(sorted(frequency, key=lambda word: (frequency[word], word)))}
    opening = opening_of(words)
    kept: dict[int, int] = {}  # the words of a prompt, as bits
    holders: dict[int, list[int]] = {}  # prompts by one of their rarest words
    for index, text in enumerate(words):
        earlier = first.setdefault(text, index)
        if earlier != index:
            yield index, "repeat", lambda numbers, e=earlier: f"This is the prompt of clip {numbers[e]} again."
            continue
        own = sorted({rank[word] for word in text[min(opening, len(text) // 2) :]})
        # Two sets that share four fifths of their words share one of the rarest fifth: only those need comparing.
        rarest = own[: len(own) - math.ceil(SIMILAR * len(own)) + 1]
        bits = 0
        for place in own:
            bits |= 1 << place
        compared = {i for place in rarest for i in holders.get(place, ())[-MAX_COMPARED:]}
        alike = min((i for i in compared if are_alike(bits, kept[i])), default=None)
        if alike is not None:
            yield index, "similar", lambda numbers, a=alike: f"This says nearly the same as clip {numbers[a]}. Vary it."
        kept[index] = bits
        for place in rarest:
            holders.setdefault(place, []).append(index)


def opening_of(words: Sequence[tuple[str, ...]]) -> int:
    """How many words the prompts have in common at their start: the subject, which makes no two of them alike."""
    shared = (
        next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
        for first, second in pairwise(words)
    )
    return min(int(median(shared)), MAX_SUBJECT_WORDS) if len(words) > 1 else 0


def are_alike(first: int, second: int) -> bool:
    """Whether two sets of words, as bits, share at least SIMILAR of all their words."""
    return (first & second).bit_count() >= SIMILAR * (first | second).bit_count()


def time_jumps(texts: Sequence[str], words: Sequence[tuple[str, ...]]) -> Iterable[Finding]:
    """Day where it was night, or the other way round, when no prompt on the way shows the light change."""
    last, since = "", 0
    for index, found in enumerate(words):
        times = [TIME_OF[word] for word in found if word in TIME_OF]
        if not times:
            continue
        if last and last not in times and not any(map(LIGHT_CHANGES.search, texts[since + 1 : index + 1])):
            yield index, "time", time_text(times[0], last, since)
        last, since = times[-1], index


def time_text(now: str, before: str, since: int) -> Callable[[list[int]], str]:
    change = "let night fall in between" if now == "night" else "let the sun rise in between"
    return lambda numbers: f"This is {TIME_NAMES[now]} and clip {numbers[since]} is {TIME_NAMES[before]}: {change}."


def place_jumps(texts: Sequence[str], words: Sequence[tuple[str, ...]]) -> Iterable[Finding]:
    """Another kind of place than before, when no prompt on the way shows how to get there."""
    last: frozenset[str] = frozenset()
    since = 0
    for index, found in enumerate(words):
        places = frozenset(PLACE_OF[word] for word in found if word in PLACE_OF)
        if not places:
            continue
        if last and not places & last and not any(map(TRAVEL.search, texts[since + 1 : index + 1])):
            yield index, "place", place_text(places, last, since)
        last, since = places, index


def place_text(now: frozenset[str], before: frozenset[str], since: int) -> Callable[[list[int]], str]:
    return lambda numbers: f"This is {min(now)} and clip {numbers[since]} is {min(before)}: show the way there."
