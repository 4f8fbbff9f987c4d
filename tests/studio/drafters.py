"""Drafters the spawned worker opens by name, in the place of a language model: `tests.studio.drafters:scripted`."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from engine.config import Config
from engine.domain import Beat
from engine.errors import OutOfMemory, StorylineError
from engine.story.choose import Choice
from engine.story.drafter import Brief

FOLDER = "SVI_TEST_DRAFTER"  # the folder of the files that steer it


class Scripted:
    """Writes “keywords: beat 1 after N”; waits before beat `hold`, fails before beat `fail`, as files say."""

    source = "qwen"

    def __init__(self) -> None:
        self._stopped = False

    def beats(self, brief: Brief) -> Iterator[Beat]:
        self._stopped = False
        told = Path(os.environ[FOLDER])
        (told / "briefs").open("a").write(f"{brief.count} {len(brief.so_far)} {brief.picture.name}\n")
        for number in range(1, brief.count + 1):
            while (told / "hold").exists() and number >= int((told / "hold").read_text() or 1) and not self._stopped:
                time.sleep(0.01)
            if self._stopped:
                return
            if (told / f"fail-{number}").exists():
                raise StorylineError("The model wrote nothing that can be used.", "Draft again.")
            if (told / f"exhaust-{number}").exists():
                raise OutOfMemory("There is no memory left for the language model.", "Use templates.")
            if (told / f"die-{number}").exists():
                os._exit(9)
            caption = f"Bild {number}" if brief.telling.language == "de" else ""
            yield Beat(prompt=f"{brief.keywords}: beat {number} after {len(brief.so_far)}.", caption=caption)

    def interrupt(self) -> None:
        self._stopped = True

    def close(self) -> None: ...


def scripted(choice: Choice, config: Config) -> Scripted:
    return Scripted()
