"""The seam below the model drafters: one question to a vision-language model, one JSON answer that grows.

`ModelDrafter` asks; Qwen2.5-VL on this machine and an endpoint elsewhere answer. A writer knows nothing about stories.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Ask:
    """One question. schema: the JSON schema that the answer must follow, with bounded lengths and counts; picture: a
    PNG that the studio wrote, or None; max_tokens: enough for the longest answer the schema allows."""

    system: str
    text: str
    picture: Path | None
    schema: Mapping[str, object]
    max_tokens: int
    seed: int = 0


class Writer(Protocol):
    title: str  # of the model, for people

    def write(self, ask: Ask) -> Iterator[str]:
        """The answer's text in pieces, as they come. Closing the iterator stops the model within one token; an
        interruption counts from the return of this call on, be a piece asked for or not.

        Raises `BackendUnavailable`, `StorylineError` or `OutOfMemory`. A local writer guarantees the schema; an
        endpoint may lie, so the reader checks.
        """
        ...

    def interrupt(self) -> None:
        """End the answer being written, from another thread: `write` stops early without an error."""
        ...

    def close(self) -> None: ...
