"""Prompt files: one prompt a line with # comments, a JSON list, or upstream's `prompts = ["…"]`.

Nothing is executed: upstream runs its file with `exec`, here the list is read as a literal.
"""

import ast
import json
import re
from pathlib import Path

from engine.domain import check_num_clips, clean_prompt
from engine.errors import InputError

MAX_FILE_BYTES = 2_000_000


def read_prompts(path: Path) -> list[str]:
    """The prompts in `path`, cleaned. Raises `InputError` naming the file and what is wrong."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path.name} is too large for a prompt file (up to {MAX_FILE_BYTES // 1_000_000} MB).")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as err:
        raise InputError(f"There is no prompt file {path.name}.", "Check the path.") from err
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{path.name} could not be read as UTF-8 text.") from err
    prompts = parse_prompts(text, path.name)
    if not prompts:
        raise InputError(f"{path.name} holds no prompts.", "Write one prompt a line.")
    check_num_clips(len(prompts))
    return [clean_prompt(prompt) for prompt in prompts]


def parse_prompts(text: str, name: str) -> list[str]:
    stripped = text.strip()
    try:
        if stripped.startswith("[") and stripped.endswith("]"):
            return _strings(json.loads(stripped), name)
        if re.match(r"prompts\s*=", without_comments(stripped)):
            return _strings(ast.literal_eval(without_comments(stripped).split("=", 1)[1].strip()), name)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as err:
        raise InputError(f"{name} is not a valid list of prompts.", "Use one prompt a line, or a JSON list.") from err
    return [line for line in stripped.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def without_comments(text: str) -> str:
    """`text` without lines that are comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).strip()


def _strings(data: object, name: str) -> list[str]:
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise InputError(f"{name} must hold a list of texts.")
    return data
