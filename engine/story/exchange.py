"""Storylines as files: plain text, JSON, upstream's `prompts = ["…"]` and a Markdown list, read and written.

Files come from anywhere, so nothing is executed (upstream runs its own with `exec`) and everything is bounded. What a
format can hold comes back exactly: prompts in all of them, captions and the idea in Markdown too, everything in JSON.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from engine.domain import (
    MAX_CLIPS,
    Beat,
    NegativePrompt,
    Project,
    Saved,
    Source,
    Storyline,
    check_num_clips,
    fold,
    without_controls,
)
from engine.errors import InputError
from engine.storyboard import MAX_STORYBOARD_BYTES

Format = Literal["txt", "json", "upstream", "markdown"]
FORMATS: dict[str, Format] = {
    ".txt": "txt", ".json": "json", ".py": "upstream", ".md": "markdown", ".markdown": "markdown"
}  # fmt: skip
ASSIGNMENT = re.compile(r"\A(?:\s*#[^\n]*\n)*\s*prompts\s*=")
ITEM = re.compile(r"(?:\d{1,6}[.)]|[-*+])(?:\s+(.*))?$")
HEADING = re.compile(r"#{1,6}\s+(.*)$")


class WrittenClip(Beat):
    negative_prompt: NegativePrompt | None = None  # None: as the project says


class WrittenStoryline(Saved):
    """What a storyline's file can say."""

    idea: str = Field(default="", max_length=2000)
    source: Source = "user"
    clips: tuple[WrittenClip, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(clip.prompt for clip in self.clips)

    @property
    def negative_prompts(self) -> tuple[str | None, ...]:
        return tuple(clip.negative_prompt for clip in self.clips)

    @property
    def storyline(self) -> Storyline:
        """The same without negative prompts, as `storyboard.accept_storyline` takes it."""
        beats = tuple(Beat(prompt=clip.prompt, caption=clip.caption) for clip in self.clips)
        return Storyline(idea=self.idea, beats=beats, source=self.source)


def written(story: Project | Storyline) -> WrittenStoryline:
    """What a file says of `story`."""
    if isinstance(story, Project):
        clips = [
            WrittenClip(prompt=clip.prompt, caption=clip.caption, negative_prompt=clip.negative_prompt)
            for clip in story.clips
        ]
        return WrittenStoryline(idea=story.idea, source=story.storyline_source, clips=tuple(clips))
    clips = [WrittenClip(**beat.model_dump()) for beat in story.beats]
    return WrittenStoryline(idea=story.idea, source=story.source, clips=tuple(clips))


# ---- reading


def read_file(path: Path) -> WrittenStoryline:
    """The storyline in the file `path`. Raises `InputError` naming the file and what is wrong."""
    try:
        if path.stat().st_size > MAX_STORYBOARD_BYTES:
            raise too_large(path.name)
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as err:
        raise InputError(f"There is no prompt file {path.name}.", "Check the path.") from err
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{path.name} could not be read as UTF-8 text.") from err
    return read(text, path.name)


def read(text: str, name: str) -> WrittenStoryline:
    """The storyline in `text`, in the format that the suffix of `name` says, else in the one that it looks like.

    Control characters are removed and spaces folded. Everything else that is wrong raises `InputError`.
    """
    if len(text) > MAX_STORYBOARD_BYTES:
        raise too_large(name)
    text = text.removeprefix("\ufeff")
    readers = {"txt": read_lines, "json": read_json, "upstream": read_upstream, "markdown": read_markdown}
    found = readers[format_of(text, name)](text, name)
    clips = found.get("clips")
    if not isinstance(clips, list):
        raise InputError(f"{name} holds no list of clips.", "JSON is a list of texts, or an object with “clips”.")
    if not clips:
        raise InputError(f"{name} holds no prompts.", "Write one prompt a line.")
    if len(clips) > MAX_CLIPS:
        raise InputError(f"{name} holds {len(clips):,} prompts; up to {MAX_CLIPS:,} are allowed.", "Split it.")
    return validated(found, name)


def too_large(name: str) -> InputError:
    return InputError(f"{name} is too large for a prompt file (up to {MAX_STORYBOARD_BYTES // 1_000_000} MB).")


def format_of(text: str, name: str) -> Format:
    """A list in brackets and `prompts = …` are what they look like in a .txt too: such files were always read so."""
    stripped, suffix = text.strip(), FORMATS.get(Path(name).suffix.lower())
    if suffix in ("json", "markdown", "upstream"):
        return suffix
    if ASSIGNMENT.match(stripped):
        return "upstream"
    if stripped[:1] + stripped[-1:] == "[]" or (suffix is None and stripped[:1] + stripped[-1:] == "{}"):
        return "json"
    first = next((line.strip() for line in stripped.splitlines() if not HEADING.match(line)), "")
    return "markdown" if suffix is None and re.match(r"1[.)]\s", first) else "txt"


def read_lines(text: str, name: str) -> dict:
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return {"clips": [{"prompt": line} for line in lines]}


def read_json(text: str, name: str) -> dict:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise InputError(f"{name} is not valid JSON.", "Save it again, or use one prompt a line.") from err
    if isinstance(data, list):
        if not all(isinstance(item, str) for item in data):
            raise InputError(f"{name} must hold a list of texts, or an object with “clips”.")
        return {"clips": [{"prompt": item} for item in data]}
    if not isinstance(data, dict):
        raise InputError(f"{name} must hold a list of texts, or an object with “clips”.")
    return data


def read_upstream(text: str, name: str) -> dict:
    """The list is read off its tokens: texts and commas in one pair of brackets, and nothing else."""
    strings = upstream_strings(text.replace("\r\n", "\n"))
    try:
        return {"clips": [{"prompt": prompt} for prompt in islice(strings, MAX_CLIPS + 1)]}
    except (ValueError, SyntaxError, tokenize.TokenError) as err:
        raise InputError(f"{name} is not a valid list of prompts.", 'It should read prompts = ["…", "…"].') from err


def upstream_strings(text: str) -> Iterator[str]:
    """The texts of `prompts = ["…", …]`; anything else raises ValueError. Neighbours without a comma are one text."""
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    tokens = (token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in blank)
    if [token.string for token in islice(tokens, 3)] != ["prompts", "=", "["]:
        raise ValueError("no list")
    parts: list[str] = []
    for token in tokens:
        if token.type == tokenize.STRING:
            value = ast.literal_eval(token.string)
            if not isinstance(value, str):
                raise ValueError("bytes")
            parts.append(value)
        elif token.string in (",", "]"):
            if parts:
                yield "".join(parts)
            elif token.string == ",":
                raise ValueError("two commas")
            parts = []
            if token.string == "]":
                break
        else:
            raise ValueError("no text")
    if next(tokens, None) is not None:
        raise ValueError("more than the list")


def read_markdown(text: str, name: str) -> dict:
    """A list, numbered or with dashes; lines quoted under an item are its caption, a heading above it is the idea."""
    idea, clips, after_blank = "", [], False
    for number, line in enumerate(text.splitlines(), 1):
        stripped, indented = line.strip(), line[:1] in (" ", "\t")
        if not stripped:
            after_blank = True
            continue
        item = None if indented and clips else ITEM.match(stripped)
        heading = HEADING.match(stripped)
        if item:
            clips.append({"prompt": item.group(1) or "", "caption": ""})
        elif heading or not clips:
            idea = idea or (heading.group(1) if heading else "")
        elif stripped.startswith(">"):
            clips[-1]["caption"] = f"{clips[-1]['caption']} {stripped[1:].removeprefix(' ')}".strip()
        elif after_blank and not indented:
            raise InputError(f"Line {number} of {name} is neither an item of the list nor a caption of one.")
        else:
            clips[-1]["prompt"] += f" {stripped}"
        after_blank = False
    if not clips:
        raise InputError(f"{name} holds no list.", "Write “1. What happens”, one number a clip.")
    return {"idea": idea, "clips": clips}


def validated(found: dict, name: str) -> WrittenStoryline:
    """`found` checked clip by clip, so that what is wrong can be named."""
    clips = []
    for number, clip in enumerate(found["clips"], 1):
        try:
            clips.append(WrittenClip.model_validate(readable(clip, "negative_prompt")))
        except ValidationError as err:
            raise InputError(f"Clip {number} in {name} is wrong: {described(err)}.") from err
        except InputError as err:
            raise InputError(f"Clip {number} in {name}: {err.message}", err.hint) from err
    try:
        return WrittenStoryline.model_validate(readable(found, "idea") | {"clips": clips})
    except ValidationError as err:
        raise InputError(f"{name} is wrong: {described(err)}.") from err


def readable(found: dict, key: str) -> dict:
    """`found` with its text under `key` freed of control characters."""
    if isinstance(found, dict) and isinstance(found.get(key), str):
        return found | {key: without_controls(found[key])}
    return found


def described(err: ValidationError) -> str:
    """The first problem, with the name of what it was found in; keys of a stranger's file are shortened."""
    first = err.errors()[0]
    place = fold(".".join(str(part) for part in first["loc"]))[:60]
    reason = first["msg"].removeprefix("Value error, ").lower()
    return f"“{place}”: {reason}" if place else reason


# ---- writing


def write(story: Project | Storyline | WrittenStoryline, format: Format) -> str:
    """The text of a file that says `story`. Prompts that the format would read as something else raise `InputError`."""
    story = story if isinstance(story, WrittenStoryline) else written(story)
    check_num_clips(len(story.clips))
    writers: dict[Format, Callable[[WrittenStoryline], str]] = {
        "txt": lambda story: "\n".join(story.prompts) + "\n",
        "json": lambda story: story.model_dump_json(indent=1) + "\n",
        "upstream": lambda story: write_upstream(story.prompts),
        "markdown": write_markdown,
    }
    text = writers[format](story)
    if format == "txt" and not holds(text, story.prompts):
        raise InputError(
            "A prompt of this storyline would be read as a comment or a list in a text file.", "Choose JSON instead."
        )
    return text


def holds(text: str, prompts: Sequence[str]) -> bool:
    try:
        return read(text, "storyline.txt").prompts == tuple(prompts)
    except InputError:
        return False


def write_upstream(prompts: Sequence[str]) -> str:
    """Upstream's `prompt.txt`."""
    lines = "".join(f"    {json.dumps(prompt, ensure_ascii=False)},\n" for prompt in prompts)
    return f"prompts = [\n{lines}]\n"


def write_markdown(story: WrittenStoryline) -> str:
    idea = fold(story.idea)
    lines = [f"# {idea}", ""] if idea else []
    for number, clip in enumerate(story.clips, 1):
        lines.append(f"{number}. {clip.prompt}")
        if clip.caption:
            lines.append(f"   > {clip.caption}")
    return "\n".join(lines) + "\n"


def format_for(path: Path) -> Format:
    """The format that a file is to be written in, by its suffix."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise InputError(f"{path.name} has no known suffix.", f"Known: {', '.join(FORMATS)}.")
    return found
