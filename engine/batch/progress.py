"""A batch on the terminal: one line a film, in plain text.

On a terminal the line of the film being made is rewritten in place; elsewhere a line is written once it is settled.
"""

from typing import TextIO

from engine.events import (
    BeatDrafted,
    ClipStarted,
    ClipStep,
    DrafterChosen,
    DrafterLoading,
    Event,
    FilmEnded,
    FilmStarted,
    ItemFailed,
    ModelLoading,
    StorylineDrafted,
    TakeCommitted,
)

CLEAR = "\r\x1b[K"
MAX_NAME = 28
MAX_LINE = 78  # what is rewritten must not wrap


class Progress:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._film = FilmStarted("", 0, 0, 0, 0)
        self._clip = 0

    def __call__(self, event: Event) -> None:
        match event:
            case DrafterChosen():
                self._settle(f"{event.title}: {event.why}")
            case DrafterLoading():
                self._settle(f"Loading {event.title}…")
            case BeatDrafted():
                self._show(f"  {event.index + 1}. {event.prompt}")
            case StorylineDrafted():
                self._settle(f"{event.sample[:MAX_NAME]:<{MAX_NAME}}  {len(event.prompts)} prompts")
            case ModelLoading():
                self._settle(f"Loading the model “{event.preset}”…")
            case FilmStarted():
                self._film, self._clip = event, event.done
                self._show(self._line(f"{event.done} of {event.clips} clips"))
            case ClipStarted():
                self._clip = event.index + 1
                self._show(self._line(f"clip {self._clip} of {self._film.clips}"))
            case ClipStep():
                self._show(self._line(f"clip {self._clip} of {self._film.clips}, step {event.step} of {event.of}"))
            case TakeCommitted():
                self._show(self._line(f"{self._clip} of {self._film.clips} clips"))
            case ItemFailed():
                self._settle(f"{event.item[:MAX_NAME]:<{MAX_NAME}}  {event.message} {event.hint}")
            case FilmEnded():
                made = f"{event.clips_done} of {self._film.clips} clips, {event.seconds:.1f} s of film"
                self._settle(self._line(f"{made}, {event.state}, made in {event.made_in_s:.0f} s"))

    def close(self) -> None:
        """Leave the terminal on a line of its own."""
        self._show("")

    def _line(self, text: str) -> str:
        number = f"{self._film.index + 1} of {self._film.of}"
        return f"{self._film.film[:MAX_NAME]:<{MAX_NAME}}  {number:>11}  {text}"

    def _show(self, text: str) -> None:
        """What is going on: gone with the next line, so that it is cut to one."""
        if self._live:
            self._stream.write(CLEAR + printable(text)[:MAX_LINE])
            self._stream.flush()

    def _settle(self, text: str) -> None:
        self._stream.write((CLEAR if self._live else "") + printable(text).rstrip() + "\n")
        self._stream.flush()


def printable(text: str) -> str:
    """`text` without what would move the cursor: it may come from a model, or from the name of a file."""
    return "".join(letter for letter in text if letter.isprintable())
