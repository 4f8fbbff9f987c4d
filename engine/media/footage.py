"""Videos to train on: strict import of untrusted files. `footage_importer` does it, in a child process with limits."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError
from engine.media import footage_importer
from engine.media.atomic import replacing

log = logging.getLogger(__name__)
STOPPED = ("This video could not be read: it made the reader stop.", "Save it again as H.264 in MP4.")
TOO_SLOW = ("This video took too long to read.", "Cut it, or save it smaller, then upload it again.")


@dataclass(frozen=True)
class VideoInfo:
    """The video as stored: upright H.264 without sound, a poster beside it."""

    width: int
    height: int
    num_frames: int
    seconds: float


def import_video(source: Path, destination: Path, poster: Path) -> VideoInfo:
    """Check an untrusted video in a child process and store it as a plain MP4, with its first frame as a JPEG.

    MP4, MOV, MKV or WebM by content, up to 60 MB, 120 s, 1,920 pixels a side and 60 frames a second. Every refusal is
    an `InputError`; a disk that cannot be written raises OSError.
    """
    with replacing(destination) as part, replacing(poster) as picture:
        answer = _answer([os.path.abspath(path) for path in (source, part, picture)])
        if "refused" in answer:
            raise InputError(answer["refused"], answer["hint"])
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), str(destination))
        return VideoInfo(**answer)


def _answer(paths: list[str]) -> dict:
    """What the child says; a crash or a timeout refuses the file."""
    # Paths travel as JSON on stdin: odd names need no quoting. The child inherits no tokens from the environment.
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT") if name in os.environ}
    try:
        child = subprocess.run(
            [sys.executable, "-I", footage_importer.__file__],
            input=json.dumps(paths).encode(),
            capture_output=True,
            env=environment,
            timeout=footage_importer.TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return {"refused": TOO_SLOW[0], "hint": TOO_SLOW[1]}
    lines = child.stdout.splitlines()
    if child.returncode != 0 or not lines:
        log.warning("the video importer stopped with code %d", child.returncode)
        return {"refused": STOPPED[0], "hint": STOPPED[1]}
    return json.loads(lines[-1])
