"""What a vision-language model is asked when it writes a storyline: first for the story, then for its beats.

The fixed texts lie in assets/prompts/. Whatever comes from people, pictures or earlier answers goes into the question
as JSON between <data> and </data>, with its angle brackets escaped: it cannot end the block it stands in.
"""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from engine.config import ASSETS
from engine.domain import MAX_SEED, Pace, Tone
from engine.story.drafter import Brief
from engine.story.schemas import Shape, any_script, english, list_of, object_of, one_of, phrase
from engine.story.template import parse_keywords
from engine.story.vocabulary import Action
from engine.story.writer import Ask

TIMES = ("dawn", "morning", "midday", "afternoon", "dusk", "night", "not visible")
MAX_ANSWER_TOKENS = 16_000  # half of the 32,768 that Qwen2.5-VL was trained on, pictures and questions included
MAX_PARTS = 8
LEAST_WORDS = 40  # characters that a prompt says about its subject
EARLIER_ACTIONS = 16
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
            actions=(*self.actions, notes["action"]),
            place=notes["place"].strip() or self.place,
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
    names = ["system", brief.kind, *(["vocabulary"] if moves(brief) else [])]
    return "\n\n".join(text_of(name) for name in names)


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
    about = english(8, min(60, room), opening=subject, ending="[.]") if known else None
    return object_of(
        {
            "action": english(5, 90),
            "view": english(5, 90),
            "place": english(3, 60),
            "time_of_day": one_of(TIMES),
            **({"move": one_of([action.name for action in known])} if known else {}),
            "prompt": about or english(LEAST_WORDS, room, opening=subject, ending="[.!]"),
            **({"caption": any_script(1, max_caption(brief))} if brief.telling.language != "en" else {}),
        }
    )


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
        "keywords": ", ".join(parse_keywords(brief.keywords)),
        "film_so_far": shortened(brief.so_far, 2, 8),
        "not_like_these": shortened(brief.other_than, 4, 4),
        "moves": moves_data(brief),
    }
    lines = [
        f"Look at the picture and plan a film of {clips(brief.count)}.{origin(brief)}",
        as_data(data) if any(data.values()) else "",
        keyword_line(brief),
        other_line(brief),
        telling_lines(brief),
        story_keys(brief, parts),
    ]
    return Ask(
        system_text(brief), paragraphs(lines), brief.picture, shape.schema, shape.longest, seed_of(brief, number)
    )


def origin(brief: Brief) -> str:
    if brief.is_last_frame and brief.so_far:
        return (
            " The film has begun already: “film_so_far” holds the prompts of its clips, some left out when there are"
            " many, and the picture is its last frame. The film goes on from exactly what is to be seen there."
        )
    if brief.so_far:
        return (
            " The film has begun already with the clips in “film_so_far”, some left out when there are many; the"
            " picture is how it started. The new clips go on from where the last of those prompts ends."
        )
    if brief.is_last_frame:
        return " The picture is the last frame of the film so far; the film goes on from what is to be seen there."
    return " The picture is its first frame."


def keyword_line(brief: Brief) -> str:
    if not brief.keywords.strip():
        return ""
    return "“keywords” is what the film should be about: find it in the picture, or bring it into the scene."


def other_line(brief: Brief) -> str:
    if not brief.other_than:
        return ""
    return "The prompts in “not_like_these” were not wanted: tell another story, with other events than theirs."


def telling_lines(brief: Brief) -> str:
    tone = TONES.get(brief.telling.tone, "as the picture suggests it")
    return f"Tone: {tone}.\nPace: {PACES[brief.telling.pace]}."


def story_keys(brief: Brief, parts: int) -> str:
    again = ", in the same words as in “film_so_far”" if brief.so_far else ""
    length = " in at most 6 words, without light, weather or time" if moves(brief) else " in 5 to 15 words"
    end = "at the end of “film_so_far”" if brief.so_far and not brief.is_last_frame else "in the picture"
    keys = [
        "Write plain English with these keys:",
        "“scene”: what the picture shows: who or what is there, doing what, in front of what. When there is hardly"
        " anything to see, say what colours and shapes there are.",
        f"“subject”: a noun phrase{length} for who or what the film is about, beginning with A, An, The or a number"
        f" and naming what can be seen and recognised again (kind, colours, clothes){again}. It will stand at the"
        " beginning of every prompt. When nothing stands out, take the place itself.",
        f"“place”: where the subject is {end}, in a few words.",
        f"“time_of_day”: {end}, one of {', '.join(TIMES)}.",
        "“style”: what kind of picture it is: photograph, painting or animation, colours, light.",
    ]
    if parts:
        keys.append(
            f"“parts”: the story in {parts} parts, one sentence each about what happens: a beginning that grows out of"
            " the picture, a middle in which something changes and is met, and an end. Each part brings something"
            " that was not there before, and can be reached from the part before it without a cut."
        )
    return "\n".join(["- " + key if index else key for index, key in enumerate(keys)])


# ---- its beats


def beats_ask(brief: Brief, limits: Limits, story: Story, count: int, number: int) -> Ask:
    """The question for the next `count` beats of `story`."""
    shape = object_of({"beats": list_of(beat_shape(brief, story.subject, limits), count)})
    done, before = len(story.prompts), len(brief.so_far)
    written = (*brief.so_far, *story.prompts)
    data = {
        "keywords": ", ".join(parse_keywords(brief.keywords)),
        "scene": story.scene if not done else "",
        "subject": story.subject,
        "style": story.style,
        "now": {"place": story.place, "time_of_day": story.time_of_day},
        **part_data(brief, story, count),
        "happened_already": list(story.actions[: -limits.overlap][-EARLIER_ACTIONS:]),
        "latest_prompts": list(written[-limits.overlap :]) if limits.overlap else [],
        "not_like_these": shortened(brief.other_than, 4, 4) if not done else [],
        "moves": moves_data(brief),
    }
    first, total = before + done + 1, before + brief.count
    lines = [
        as_data(data),
        task_line(brief, first, count, total),
        arc_line(brief, story, count),
        other_line(brief) if not done else "",
        telling_lines(brief),
        beat_keys(brief, story, count, limits),
    ]
    picture = brief.picture if not done else None
    return Ask(system_text(brief), paragraphs(lines), picture, shape.schema, shape.longest, seed_of(brief, number))


def part_data(brief: Brief, story: Story, count: int) -> dict[str, str]:
    """The part of the story that the next beats tell, judged by their middle, and the part after it."""
    if not story.parts:
        return {}
    middle = len(story.prompts) + count / 2
    index = min(int(middle * len(story.parts) / brief.count), len(story.parts) - 1)
    return {"this_part": story.parts[index], "next_part": "".join(story.parts[index + 1 : index + 2])}


def moves_data(brief: Brief) -> dict[str, str]:
    return {action.name: ", ".join(action.keywords) for action in moves(brief)}


def task_line(brief: Brief, first: int, count: int, total: int) -> str:
    if brief.kind != "stream":
        return "Write the one prompt that holds for every clip of this film. It starts from what the picture shows."
    last = first + count - 1
    numbers = f"beat {first}" if count == 1 else f"beats {first} to {last}"
    after = "the last of “latest_prompts”" if first > 1 else "the picture"
    return f"Write {numbers} of {total}, in their order. The first of them goes on from {after}."


def arc_line(brief: Brief, story: Story, count: int) -> str:
    """How the story moves in the next beats. Fewer than four more clips of a running film do not end it."""
    if brief.kind != "stream":
        return ""
    done = len(story.prompts)
    ends = done + count >= brief.count and not (brief.so_far and brief.count < 4)
    begins = not done and not brief.so_far
    if begins and ends and count < 3:
        return "Begin with a small movement of what the picture shows."
    if begins and ends:
        return (
            "Begin with a small movement of what the picture shows, let something new happen in the middle that the"
            " subject answers, and come to a quiet end in the last beat."
        )
    told = "Tell what “this_part” says and no more; " if story.parts else ""
    if begins:
        return f"This is the beginning. {told}start with a small movement of what the picture shows, and end nothing."
    if ends:
        return f"This is the end. {told}bring what has happened to a quiet close in the last beat."
    return f"This is the middle. {told}every beat changes something, nothing is told twice, and the story does not end."


def beat_keys(brief: Brief, story: Story, count: int, limits: Limits) -> str:
    things = "1 object" if count == 1 else f"{count} objects"
    keys = [
        f"Answer with “beats”, a list of exactly {things}, each with these keys in this order:",
        "“action”: the one thing that happens, in a few words; nothing from “happened_already”."
        if story.actions
        else "“action”: the one thing that happens, in a few words.",
        "“view”: the one fact about camera or scene, in a few words.",
        "“place” and “time_of_day”: as they are at the end of this beat; a change is shown in the prompt itself."
        f" “time_of_day” is one of {', '.join(TIMES)}.",
    ]
    if moves(brief):
        keys.append("“move”: the name of the one move of “moves” that this beat shows.")
    keys.append(prompt_line(brief, story, limits))
    if brief.telling.language != "en":
        name = LANGUAGE_NAMES[brief.telling.language]
        keys.append(
            f"“caption”: what the prompt says, in {name}, in one or two natural sentences, {max_caption(brief)}"
            f" characters at most. Only the caption is in {name}; everything else is in English."
        )
    return "\n".join(["- " + key if index else key for index, key in enumerate(keys)])


def prompt_line(brief: Brief, story: Story, limits: Limits) -> str:
    opening = f"“prompt”: English, beginning with exactly: {story.subject}"
    if moves(brief):
        return f"{opening}\n  One short sentence with a word of its move."
    least, most = limits.prompt // 15, limits.prompt // 8  # English takes about six characters a word, blanks included
    return f"{opening}\n  Then the action and the view: one to three full sentences, {least} to {most} words in all."


def clips(count: int) -> str:
    return "1 clip" if count == 1 else f"{count} clips"


def paragraphs(lines: list[str]) -> str:
    return "\n\n".join(line for line in lines if line)
