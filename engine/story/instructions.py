"""What a vision-language model is asked when it writes a storyline: first for the story, then for its beats.

The fixed texts lie in assets/prompts/. Whatever comes from people, pictures or earlier answers goes into the question
as JSON between <data> and </data>, with its angle brackets escaped: it cannot end the block it stands in.
"""

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile

from engine.config import ASSETS
from engine.domain import MAX_SEED, Pace, Tone
from engine.story.drafter import Brief, Kind
from engine.story.schemas import Shape, any_script, english, list_of, object_of, one_of, phrase
from engine.story.template import parse_keywords
from engine.story.vocabulary import Action
from engine.story.writer import Ask

TIMES = ("dawn", "morning", "midday", "afternoon", "dusk", "night", "not visible")
MAX_ANSWER_TOKENS = 16_000  # half of the 32,768 that Qwen2.5-VL was trained on, pictures and questions included
MAX_PARTS = 8
LEAST_SAID = 40  # characters that a prompt says about its subject
EARLIER_ACTIONS = 16
ALIKE = 3  # latest prompts that are asked for how they begin
SHORTENED = 300  # characters of an earlier prompt that is shown for the story, not for its wording
LANGUAGE_NAMES = {
    "ar": "Arabic", "cs": "Czech", "de": "German", "el": "Greek", "es": "Spanish", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch",
    "pl": "Polish", "pt": "Portuguese", "ru": "Russian", "sv": "Swedish", "th": "Thai", "tr": "Turkish",
    "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
TONES: dict[Tone, str] = {
    "drama": "a drama: something is at stake, and gestures and light show it",
    "comedy": "a comedy: small mishaps and surprises that make one smile, with a light touch",
    "adventure": "an adventure: setting out, obstacles, discoveries, wide views",
    "documentary": "a documentary: true to life, unhurried observation, natural behaviour, nothing invented",
    "suspense": "suspense: something is about to happen; shadows, pauses, slow approach",
    "romance": "a romance: tenderness, closeness, warm light",
    "dream": "a dream: gentle, floating, slightly unreal changes that flow into each other",
    "science fiction": "science fiction: plausible wonders of a future world, fitted into the picture",
}
PACES: dict[Pace, str] = {
    "slow": "slow: small, calm movements, long looks",
    "steady": "steady: natural movement at an everyday speed",
    "lively": "lively: quick, energetic movement of subject and camera, without haste in the story",
}


WHO: dict[Kind, str] = {
    "stream": "who or what the film is about",
    "steady": "who or what the film shows",
    "speaking": "who speaks in the film",
    "dancing": "who dances in the film",
}


@dataclass(frozen=True)
class Story:
    """What is known of a story: its header, which the model wrote once, and how far it has got."""

    scene: str
    subject: str
    place: str
    time_of_day: str
    style: str
    parts: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()

    def after(self, prompt: str, notes: Mapping[str, str]) -> "Story":
        """The story one beat later. notes: the model's own, each taken over only when it says something."""
        return replace(
            self,
            prompts=(*self.prompts, prompt),
            actions=(*self.actions, notes.get("action", "")),
            place=notes.get("place") or self.place,
            time_of_day=notes["time_of_day"] if notes["time_of_day"] in TIMES else self.time_of_day,
        )


@dataclass(frozen=True)
class Limits:
    """How long what a model writes may be, and how many beats it is asked for at once. Lengths in characters."""

    prompt: int
    window: int
    overlap: int


@lru_cache(maxsize=16)
def text_of(name: str) -> str:
    return (ASSETS / "prompts" / f"{name}.txt").read_text(encoding="utf-8").strip()


def system_text(brief: Brief) -> str:
    rules = ["vocabulary"] if moves(brief) else ["rules", brief.kind]
    return "\n\n".join(text_of(name) for name in ("opening", *rules, "material"))


def moves(brief: Brief) -> tuple[Action, ...]:
    """The moves to choose from, those that change something when there are any; none where any text goes."""
    actions = brief.vocabulary.actions if brief.vocabulary else ()
    return tuple(action for action in actions if action.kind != "stay") or actions


def max_subject(brief: Brief) -> int:
    return 40 if moves(brief) else 110


def story_shape(brief: Brief, num_parts: int) -> Shape:
    parts = {"parts": list_of(english(10, 140), num_parts)} if num_parts else {}
    return object_of(
        {
            "scene": english(10, 400),
            "subject": phrase(5, max_subject(brief)),
            "place": english(3, 60),
            "time_of_day": one_of(TIMES),
            "style": english(5, 100),
            **parts,
        }
    )


def beat_shape(brief: Brief, subject: str, limits: Limits) -> Shape:
    """One beat: the model's notes come first, so that it has decided what happens when it writes the prompt."""
    known = moves(brief)
    room = limits.prompt - len(subject) - 2
    if known:
        notes = {"time_of_day": one_of(TIMES), "move": one_of([action.name for action in known])}
        prompt = english(8, min(60, room), opening=subject, ending="[.]")
    else:
        notes = {
            "action": english(5, 90),
            "view": english(5, 90),
            "place": english(3, 60),
            "time_of_day": one_of(TIMES),
        }
        prompt = english(LEAST_SAID, room, opening=subject, ending="[.!]")
    caption = {"caption": any_script(1, max_caption(brief))} if brief.telling.language != "en" else {}
    return object_of({**notes, "prompt": prompt, **caption})


def max_caption(brief: Brief) -> int:
    """Characters of a caption, which says the prompt in short; a sentence takes fewer where a character is a word."""
    return 120 if brief.telling.language in ("zh", "ja", "ko") else 240


def beats_at_once(brief: Brief, limits: Limits) -> int:
    """How many beats fit into one answer, by the longest subject there can be."""
    shape = beat_shape(brief, "A" * max_subject(brief), limits)
    fitting = MAX_ANSWER_TOKENS // list_of(shape, 1).longest
    return min(limits.window, max(1, fitting))


def num_parts(brief: Brief, limits: Limits) -> int:
    """Parts that a story is planned in: one for each answer it takes, none when that is one."""
    windows = math.ceil(brief.count / beats_at_once(brief, limits)) if brief.kind == "stream" else 1
    return min(MAX_PARTS, windows) if windows > 1 else 0


def seed_of(brief: Brief, number: int) -> int:
    """A seed of its own for every question of a draft; the first question is number 0."""
    return random.Random(f"{brief.seed}/{len(brief.so_far)}/{number}").randrange(MAX_SEED + 1)


def as_data(values: Mapping[str, object]) -> str:
    """A JSON block without what is empty."""
    text = json.dumps({key: value for key, value in values.items() if value}, ensure_ascii=False, indent=1)
    escaped = text.replace("<", r"\u003c").replace(">", r"\u003e")
    return f"<data>\n{escaped}\n</data>"


def shortened(prompts: tuple[str, ...], first: int, last: int) -> list[str]:
    """The first and the last few prompts, cut to what happens in them."""
    chosen = prompts if len(prompts) <= first + last else (*prompts[:first], *prompts[-last:])
    return [prompt if len(prompt) <= SHORTENED else prompt[:SHORTENED] + "…" for prompt in chosen]


# ---- the story


def story_ask(brief: Brief, limits: Limits, number: int) -> Ask:
    """The question about the picture: who and what is in it, and where the story goes."""
    parts = num_parts(brief, limits)
    shape = story_shape(brief, parts)
    data = {
        "keywords": keywords(brief),
        "film_so_far": shortened(brief.so_far, 2, 8),
        "they_begin": "" if moves(brief) else common_opening(brief.so_far),
        "not_like_these": shortened(brief.other_than, 4, 4),
        "moves": moves_data(brief),
    }
    lines = [
        origin_line(brief),
        as_data(data) if any(data.values()) else "",
        keyword_line(brief),
        other_line(brief),
        telling_lines(brief),
        story_keys(brief, parts),
    ]
    return asked(brief, lines, shape, number, picture=True)


def common_opening(prompts: Sequence[str]) -> str:
    """The words that the latest of several prompts begin with: their subject, or more, or less."""
    words = zip(*(prompt.split() for prompt in prompts[-ALIKE:]), strict=False)
    shared = [found[0] for found in takewhile(lambda found: len(set(found)) == 1, words)]
    return " ".join(shared)[:SHORTENED] if len(prompts) > 1 and len(shared) > 1 else ""


def origin_line(brief: Brief) -> str:
    count = "1 clip" if brief.count == 1 else f"{brief.count} clips"
    if not brief.so_far:
        place = "the last frame of the film so far" if brief.is_last_frame else "its first frame"
        return f"Look at the picture and plan a film of {count}. The picture is {place}."
    some = "“film_so_far” holds the prompts of its clips, in order, some left out where there are many."
    if brief.is_last_frame:
        where = "The picture is its last frame: the film goes on from exactly what is to be seen there."
    else:
        where = "The picture is how it started; the film goes on from where the last of those prompts ends."
    return straight(
        f"Look at the picture and plan the next {count.removeprefix('1 ')} of a film that has begun. {some} {where}"
    )


def keyword_line(brief: Brief) -> str:
    if not keywords(brief):
        return ""
    return '"keywords" says what the film should be about: find it in the picture, or bring it into the scene.'


def other_line(brief: Brief) -> str:
    if not brief.other_than:
        return ""
    return 'The prompts in "not_like_these" were not wanted: tell another story, with other events than theirs.'


def telling_lines(brief: Brief) -> str:
    tone = f"Tone: {TONES.get(brief.telling.tone, 'as the picture suggests it')}."
    return tone if moves(brief) else f"{tone}\nPace: {PACES[brief.telling.pace]}."


def story_keys(brief: Brief, parts: int) -> str:
    again = "in the very words of “film_so_far”, " if brief.so_far else ""
    if common_opening(brief.so_far) and not moves(brief):
        again = "in the words of “they_begin” as far as those name it and not what it does, "
    length = "at most 6 words and none about light, weather or time" if moves(brief) else "5 to 15 words"
    when = "at the end of “film_so_far”" if brief.so_far and not brief.is_last_frame else "in the picture"
    keys = [
        "“scene”: what the picture shows: who or what is there, doing what, in front of what. When there is hardly"
        " anything to see, say what colours and shapes there are.",
        f"“subject”: {WHO[brief.kind]}: a noun phrase of {length}, {again}beginning with A, An, The or a number and"
        " saying what it can be recognised by: kind, colours, clothes. It will stand at the beginning of every prompt."
        " When nothing in the picture stands out, take it from the keywords, else take the place itself.",
        f"“place”: where the subject is {when}, in a few words.",
        f"“time_of_day”: the time {when}, one of: {', '.join(TIMES)}.",
        "“style”: what kind of picture it is: photograph, painting or animation, its colours and its light.",
    ]
    if parts:
        begins = "what has happened" if brief.so_far else "the picture"
        keys.append(
            f"“parts”: the story in {parts} parts, a list of one sentence each about what happens: a beginning that"
            f" grows out of {begins}, then something changes and is met, and an end. Each part brings something"
            " that was not there before and follows from the part before it without a cut."
        )
    return listed("Answer in plain English with these keys, in this order:", keys)


# ---- its beats


def beats_ask(brief: Brief, limits: Limits, story: Story, count: int, number: int) -> Ask:
    """The question for the next `count` beats of `story`; the first one sees the picture, when the story is there."""
    shape = object_of({"beats": list_of(beat_shape(brief, story.subject, limits), count)})
    is_first = not story.prompts
    sees = is_first and (brief.is_last_frame or not brief.so_far)
    latest = (*brief.so_far, *story.prompts)[-limits.overlap :] if limits.overlap else ()
    data = {
        "keywords": keywords(brief),
        "picture": story.scene if sees else "",
        "subject": story.subject,
        "style": story.style,
        "now": {"place": story.place, "time_of_day": story.time_of_day},
        **part_data(brief, story, count),
        "happened_already": happened(brief, story, limits),
        "latest_prompts": list(latest),
        "not_like_these": shortened(brief.other_than, 4, 4) if is_first else [],
        "moves": moves_data(brief),
    }
    lines = [
        as_data(data),
        f"{task_line(brief, story, count, sees)} {arc_line(brief, story, count)}".strip(),
        other_line(brief) if is_first else "",
        telling_lines(brief),
        beat_keys(brief, story, count, limits, has_past=bool(data["happened_already"])),
    ]
    return asked(brief, lines, shape, number, picture=sees)


def happened(brief: Brief, story: Story, limits: Limits) -> list[str]:
    """What the latest prompts do not tell any more: actions of this draft, and how earlier prompts begin."""
    if moves(brief) or brief.kind != "stream":
        return []
    earlier = [re.split(r"(?<=[.!?])\s", prompt)[0][:SHORTENED] for prompt in brief.so_far[-EARLIER_ACTIONS:]]
    everything = [*earlier, *story.actions]
    return everything[: len(everything) - limits.overlap][-EARLIER_ACTIONS:] if len(everything) > limits.overlap else []


def part_data(brief: Brief, story: Story, count: int) -> dict[str, str]:
    """The part of the story that the next beats tell, judged by their middle, and the part after it."""
    if not story.parts:
        return {}
    middle = len(story.prompts) + count / 2
    index = min(int(middle * len(story.parts) / brief.count), len(story.parts) - 1)
    return {"this_part": story.parts[index], "next_part": "".join(story.parts[index + 1 : index + 2])}


def moves_data(brief: Brief) -> dict[str, str]:
    return {action.name: ", ".join(action.keywords) for action in moves(brief)}


def task_line(brief: Brief, story: Story, count: int, sees: bool) -> str:
    if brief.kind != "stream":
        return "Write the one prompt that holds for every clip of this film. It starts from what the picture shows."
    first = len(brief.so_far) + len(story.prompts) + 1
    total = len(brief.so_far) + brief.count
    after = "what the picture shows" if sees else 'the last of "latest_prompts"'
    if count == 1:
        return f"Write beat {first} of {total}. It goes on from {after}."
    return f"Write beats {first} to {first + count - 1} of {total}, in order. The first of them goes on from {after}."


def arc_line(brief: Brief, story: Story, count: int) -> str:
    """How the story moves in the next beats. Fewer than four more clips of a running film do not end it."""
    if brief.kind != "stream" or moves(brief):
        return ""
    begins = not story.prompts and not brief.so_far
    ends = len(story.prompts) + count >= brief.count and not (brief.so_far and brief.count < 4)
    told = 'Tell what "this_part" says and no more of the story. ' if story.parts else ""
    if begins and ends:
        turn = " Let something happen in the middle that the subject answers, and come to a quiet end in the last beat."
        return "Begin with a small movement of what the picture shows." + (turn if count > 2 else "")
    if begins:
        return f"This is the beginning. {told}Start with a small movement of what the picture shows, and end nothing."
    if ends:
        more = "Let something more happen first. " if count > 3 and not story.parts else ""
        return f"This is the end. {told}{more}Bring what has happened to a quiet close in the last beat."
    return f"The story is under way. {told}Every beat changes something, nothing is told twice, and nothing ends."


def beat_keys(brief: Brief, story: Story, count: int, limits: Limits, *, has_past: bool) -> str:
    objects = "1 object" if count == 1 else f"{count} objects"
    times = f"one of: {', '.join(TIMES)}"
    if moves(brief):
        keys = [
            f"“time_of_day”: the time at the end of this beat, {times}.",
            "“move”: the name of the one move of “moves” that this beat shows.",
            f"“prompt”: English, beginning with exactly: {story.subject}\n  One short sentence with its move.",
        ]
    else:
        what = "the one thing that happens" if brief.kind == "stream" else "the movement that goes on"
        least, most = limits.prompt // 15, limits.prompt // 8  # English takes about six characters a word, with blanks
        keys = [
            f"“action”: {what}, in a few words{'; nothing from “happened_already”' if has_past else ''}.",
            "“view”: the one fact about camera or scene, in a few words.",
            f"“place”: where the subject is {'at the end of this beat' if brief.kind == 'stream' else 'all the time'}.",
            f"“time_of_day”: the time then, {times}.",
            f"“prompt”: English, beginning with exactly: {story.subject}\n  Then the action and the view, shown in"
            f" one to three full sentences with {least} to {most} words in all.",
        ]
    if brief.telling.language != "en":
        name = LANGUAGE_NAMES[brief.telling.language]
        keys.append(
            f"“caption”: for the person who makes the film: what the prompt says, in {name}, in one or two natural"
            f" sentences, {max_caption(brief)} characters at most. Only the caption is in {name}, the rest in English."
        )
    return listed(
        f"Answer with the key “beats”: a list of exactly {objects}, each with these keys in this order:", keys
    )


# ---- how a question is put together


def asked(brief: Brief, lines: list[str], shape: Shape, number: int, *, picture: bool) -> Ask:
    text = "\n\n".join(line for line in lines if line)
    return Ask(
        system=system_text(brief),
        text=text,
        picture=brief.picture if picture else None,
        schema=shape.schema,
        max_tokens=shape.longest,
        seed=seed_of(brief, number),
    )


def keywords(brief: Brief) -> str:
    return ", ".join(parse_keywords(brief.keywords))


def listed(head: str, keys: list[str]) -> str:
    return straight("\n".join([head, *(f"- {key}" for key in keys)]))


def straight(text: str) -> str:
    """Keys in the quotes that JSON has."""
    return text.replace("“", '"').replace("”", '"')
