"""What a visitor sends, checked: lengths, ranges, lists of words, ids. For the page and the API alike (rule S3).

Each function takes what arrived, of whatever type, and returns what the studio works with, or raises `InputError`.
"""

from collections.abc import Mapping
from typing import Any, get_args

from engine.domain import LANGUAGES, MAX_CLIPS, MAX_NEGATIVE_PROMPT_CHARACTERS, Pace, Telling, Tone, clean_prompt
from engine.errors import InputError, nearest
from engine.story.drafter import MAX_KEYWORDS_CHARACTERS
from engine.storyboard import Scope

MAX_TITLE_CHARACTERS = 200

Body = Mapping[str, Any]


def clip_id_of(body: Body, field: str = "clip_id") -> str:
    clip_id = body.get(field)
    if not isinstance(clip_id, str) or len(clip_id) > 40:
        raise InputError("The action does not say which clip.", "Reload the page and try again.")
    return clip_id


def clip_ids_of(body: Body, field: str = "clip_ids") -> list[str]:
    """The clips that an action is about, each named once."""
    ids = body.get(field)
    if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_CLIPS:
        raise InputError("The action does not say which clips.", "Reload the page and try again.")
    return list(dict.fromkeys(clip_id_of({"clip_id": clip_id}) for clip_id in ids))


def scope_of(body: Body) -> Scope:
    return one_of(body.get("scope", "this_and_after"), ["this_and_after", "only_this"], "scope")


def flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"“{name}” must be true or false, got {str(value)[:40]}.")
    return value


def whole(value: object, name: str) -> int:
    if isinstance(value, float) and value.is_integer():  # JSON from a page does not tell 3.0 from 3
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"“{name}” must be a whole number, got {str(value)[:40]}.")
    return value


def one_of(value: object, known: list[str], name: str) -> Any:
    if value not in known:
        raise InputError(f"There is no {name} “{str(value)[:40]}”.", nearest(str(value)[:40], known))
    return value


def steps_of(qualities: Mapping[str, int], quality: object, steps: object) -> int | None:
    """The number of steps that a quality or a number asks for, or None when neither is given."""
    if steps is not None:
        number = whole(steps, "num_inference_steps")
        if not 1 <= number <= 200:
            raise InputError(f"The number of steps must be from 1 to 200, got {number}.")
        return number
    if not quality or quality == "custom":
        return None
    return qualities[one_of(quality, list(qualities), "quality")]


def plain(value: object, name: str, most: int) -> str:
    """`value` as one line of text without control characters, or "" when it is blank."""
    if not isinstance(value, str):
        raise InputError(f"The {name} must be text.")
    check_text(value)
    if len(value) > most:
        raise InputError(
            f"There are {len(value):,} characters in the {name}; up to {most:,} are allowed.", "Shorten it."
        )
    parts = [value[at : at + 1000] for at in range(0, len(value), 1000)]
    return "".join(clean_prompt(part) if part.strip() else "" for part in parts) if value.strip() else ""


def check_text(text: str) -> None:
    """Refuse half characters (lone surrogates), which JSON lets through and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise InputError("The text holds a broken character.", "Delete it and type it again.") from err


def title_text(value: object) -> str:
    return plain(value, "title", MAX_TITLE_CHARACTERS)


def idea_text(value: object) -> str:
    return plain(value, "keywords", MAX_KEYWORDS_CHARACTERS)


def negative_text(value: object) -> str:
    return plain(value, "negative prompt", MAX_NEGATIVE_PROMPT_CHARACTERS)


def telling_from(body: Body, telling: Telling) -> Telling:
    """`telling` with what `body` asks to change of it."""
    offered = {"tone": list(get_args(Tone)), "pace": list(get_args(Pace)), "language": list(LANGUAGES)}
    changes = {name: one_of(body[name], known, name) for name, known in offered.items() if body.get(name) is not None}
    return telling.model_copy(update=changes)


def title_from(idea: str) -> str:
    """A first title from the keywords: the words before the first comma."""
    words = idea.split(",")[0].split()[:8]
    title = " ".join(words)[:60]
    return title[:1].upper() + title[1:] if title else "Untitled film"


def file_name(value: object) -> str:
    """What a browser calls the file, as text that any file and any answer can hold."""
    return value.encode("utf-8", "replace").decode()[:200] if isinstance(value, str) else ""
