"""Searching the configured sources, small pictures of what was found, and taking one of them.

What was found is known by an id that cannot be guessed, and forgotten after a while; addresses stay inside. Every file
goes through the picture import in a child process before anything else sees it. Knows nothing about owners or pages.
"""

import io
import logging
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from engine.domain import ID_PATTERN, Credit
from engine.errors import BackendUnavailable, InputError, StudioError
from engine.media import image
from engine.media.importer import MAX_BYTES
from engine.story.pictures.sources import Found, PictureSource, in_turn, words_of

log = logging.getLogger(__name__)
COUNT = 12  # pictures asked of each source
RESULTS_S = 300.0  # the same keywords are not asked again so soon
FOUND_S = 3600.0  # how long somebody may think about which picture to take
MAX_RESULTS, MAX_FOUND, MAX_THUMBNAILS = 200, 4000, 500
MAX_THUMBNAIL_BYTES = 4_000_000
THUMBNAIL_SIDE = 320
LONGEST_SIDE = 2560  # of a taken picture: twice the largest film, and a PNG of it is always below the import's limit

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """The last `most` values, each for `seconds`. Safe to use from any thread."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._lock = threading.Lock()
        self._values: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        with self._lock:
            expiry, value = self._values.get(key, (0.0, None))
            return value if self._clock() < expiry else None

    def put(self, key: Key, value: Value) -> None:
        with self._lock:
            self._values.pop(key, None)
            self._values[key] = (self._clock() + self._seconds, value)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


class Search:
    """All sources as one. Safe to call from any thread."""

    def __init__(self, sources: Sequence[PictureSource], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.sources = {source.name: source for source in sources}
        self._results: Remembered[tuple[str, str], tuple[Found, ...]] = Remembered(MAX_RESULTS, RESULTS_S, clock)
        self._found: Remembered[str, Found] = Remembered(MAX_FOUND, FOUND_S, clock)
        self._thumbnails: Remembered[str, bytes | StudioError] = Remembered(MAX_THUMBNAILS, FOUND_S, clock)

    def find(self, keywords: str) -> tuple[Found, ...]:
        """Pictures to `keywords` from every source, in turn. One source that fails is logged and left out.

        Raises `InputError` on keywords without a word, `BackendUnavailable` when no source answers.
        """
        words = words_of(keywords)
        with ThreadPoolExecutor(len(self.sources) or 1, thread_name_prefix="pictures") as pool:
            answers = list(pool.map(lambda source: self._ask(source, words), self.sources.values()))
        failures = [answer for answer in answers if isinstance(answer, BackendUnavailable)]
        if failures and len(failures) == len(answers):
            raise failures[0]
        return in_turn(answer for answer in answers if not isinstance(answer, BackendUnavailable))

    def thumbnail(self, found_id: str) -> bytes:
        """A JPEG of at most 320 pixels a side. A picture that could not be had is not fetched a second time."""
        known = self._thumbnails.get(found_id)
        if known is None:
            found = self._known(found_id)
            try:
                known = self._shrunk(found)
            except (BackendUnavailable, InputError) as err:
                known = err
            self._thumbnails.put(found_id, known)
        if isinstance(known, StudioError):
            raise known
        return known

    def take(self, found_id: str, destination: Path) -> Credit:
        """Store the full picture at `destination` as a clean PNG of at most 2560 pixels a side."""
        found = self._known(found_id)
        pixels = self._imported(found, found.full, MAX_BYTES, LONGEST_SIDE)
        image.save_png(pixels, destination)
        return found.credit

    def _ask(self, source: PictureSource, words: str) -> tuple[Found, ...] | BackendUnavailable:
        known = self._results.get((source.name, words))
        if known is not None:
            return known
        try:
            answer = source.search(words, COUNT)[:COUNT]
        except BackendUnavailable as err:
            log.warning("%s: %s", source.title, err.message)
            return err
        for found in answer:
            self._found.put(found.id, found)
        self._results.put((source.name, words), answer)
        return answer

    def _known(self, found_id: str) -> Found:
        found = self._found.get(found_id) if ID_PATTERN.fullmatch(found_id) else None
        if found is None:
            raise InputError("This picture was found too long ago.", "Search again, then choose one.")
        return found

    def _shrunk(self, found: Found) -> bytes:
        pixels = self._imported(found, found.thumbnail, MAX_THUMBNAIL_BYTES, THUMBNAIL_SIDE)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=80)
        return stream.getvalue()

    def _imported(self, found: Found, address: str, max_bytes: int, longest_side: int) -> np.ndarray:
        """uint8 (H, W, 3), decoded in a child process. What the file is, its content says, not its name or header."""
        data = self.sources[found.source].read(address, max_bytes)
        with tempfile.TemporaryDirectory(prefix="picture-") as folder:
            raw, clean = Path(folder) / "raw", Path(folder) / "clean.png"
            raw.write_bytes(data)
            image.import_image(raw, clean)
            return image.thumbnail(image.load(clean), longest_side)
