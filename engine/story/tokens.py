"""How many tokens of a prompt the film model's text encoder sees, counted by the encoder's own tokenizer.

Reads tokenizer.json alone: no model stack. Agrees with what engine.models does to a prompt before it is encoded.
"""

import html
import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import ftfy
from tokenizers import Tokenizer

from engine.config import Preset
from engine.pocket.reading import wish_of

ORIGINAL_FOLDER = "google/umt5-xxl"  # in a folder as Wan-AI publishes it
CACHED_PROMPTS = 4096


def token_counter(preset: Preset) -> Callable[[str], int] | None:
    """Tokens of a prompt, the closing one included; None where the tokenizer's file is not there or not readable.

    The embedded model has a token for each move that a prompt asks for, and for how much and how fast.
    """
    if preset.family == "pocket":
        return num_heard
    path = tokenizer_file(preset)
    return _counter(path, path.stat().st_mtime_ns) if path else None


def num_heard(prompt: str) -> int:
    """How many tokens of a prompt reach the embedded model's text encoder."""
    return len(wish_of(prompt).tokens)


def token_limit(preset: Preset) -> int:
    """How many tokens of a prompt are encoded; the rest is cut off."""
    if preset.family == "wan":
        return preset.max_sequence_length
    path = preset.component("tokenizer") / "tokenizer_config.json"  # PocketText goes by its tokenizer's own length
    try:
        length = json.loads(path.read_text(encoding="utf-8"))["model_max_length"]
    except (OSError, ValueError, KeyError, TypeError):
        return preset.max_sequence_length
    return length if isinstance(length, int) and length > 0 else preset.max_sequence_length


def tokenizer_file(preset: Preset) -> Path | None:
    """The tokenizer.json of diffusers' layout or of Wan-AI's own."""
    folders = (preset.component("tokenizer"), preset.path(preset.model) / ORIGINAL_FOLDER)
    return next((folder / "tokenizer.json" for folder in folders if (folder / "tokenizer.json").is_file()), None)


@lru_cache(maxsize=4)
def _counter(path: Path, mtime_ns: int) -> Callable[[str], int] | None:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # tokenizers raises nothing narrower
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    @lru_cache(maxsize=CACHED_PROMPTS)
    def count(prompt: str) -> int:
        return len(tokenizer.encode(cleaned(prompt)).ids)

    return count


def cleaned(prompt: str) -> str:
    """As `engine.models.wan.clean`, which a module without the model stack cannot import."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()).strip()
