"""Pictures: strict import of untrusted files, fitting to a film's size, lossless storage, a few statistics.

Pixels are uint8 RGB (H, W, 3). Knows nothing about projects or models.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.domain import Resolution
from engine.errors import InputError, ProjectCorrupt, ProjectError
from engine.media import importer
from engine.media.atomic import replacing
from engine.project.files import fsync_file

log = logging.getLogger(__name__)

STOPPED = ("This picture could not be read: it made the reader stop.", "Save it again as a plain PNG or JPEG.")
TOO_SLOW = ("This picture took too long to read.", "Save it again as a plain PNG or JPEG, then upload it.")


@dataclass(frozen=True)
class ImageInfo:
    """The picture as stored: always an upright 8-bit sRGB PNG. `source_format` is what came in."""

    width: int
    height: int
    source_format: str
    size_bytes: int
    sha256: str


def import_image(source: Path, destination: Path) -> ImageInfo:
    """Check an untrusted picture in a child process and store it as a clean PNG at `destination`.

    PNG, JPEG or WebP by content, up to 25 MB, 40 megapixels, sides 64 to 16,384, aspect 1:4 to 4:1, one frame.
    Orientation is applied, colours become sRGB, alpha is laid over white, metadata is dropped.
    Every refusal is an `InputError`; a disk that cannot be written raises OSError.
    """
    with replacing(destination) as part:
        [answer] = _answers([(source, part)])
        if "refused" in answer:
            raise InputError(answer["refused"], answer["hint"])
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), str(destination))
        return ImageInfo(**answer)


def _answers(jobs: Sequence[tuple[Path, Path]]) -> list[dict]:
    """Run the importer in one child; a crash or a timeout refuses the file at work and those after it."""
    # Paths travel as JSON on stdin: odd names need no quoting. The child inherits no tokens from the environment.
    request = json.dumps([[os.path.abspath(source), os.path.abspath(target)] for source, target in jobs])
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT") if name in os.environ}
    try:
        child = subprocess.run(
            [sys.executable, "-I", importer.__file__],
            input=request.encode(),
            capture_output=True,
            env=environment,
            timeout=importer.TIMEOUT_S * len(jobs),
        )
        output = child.stdout
        failed = STOPPED
        if child.returncode != 0:
            log.warning("the picture importer stopped with code %d", child.returncode)
    except subprocess.TimeoutExpired as err:
        output = err.stdout or b""
        failed = TOO_SLOW
    answers = [json.loads(line) for line in output.splitlines()]
    missing = len(jobs) - len(answers)
    return answers + [{"refused": failed[0], "hint": failed[1]}] * missing


def load(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) of a picture the studio stored itself."""
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except FileNotFoundError as err:
        raise ProjectError(f"The picture {path.name} is missing.", "Import the picture again.") from err
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as err:
        raise ProjectCorrupt(
            f"The picture {path.name} is damaged.", "Restore the file or import the picture again."
        ) from err


def fit(pixels: np.ndarray, resolution: Resolution) -> np.ndarray:
    """Resize to `resolution` (bicubic), centre-cropping only what the aspect demands.

    When covering the target would overhang by less than 16 pixels nothing is cropped: the picture is squashed
    instead, as upstream does.
    """
    height, width = pixels.shape[:2]
    scale = max(resolution.width / width, resolution.height / height)
    box = None
    if max(width * scale - resolution.width, height * scale - resolution.height) >= 16:
        crop_width, crop_height = resolution.width / scale, resolution.height / scale
        left, top = (width - crop_width) / 2, (height - crop_height) / 2
        box = (left, top, left + crop_width, top + crop_height)
    size = (resolution.width, resolution.height)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=box)).copy()


def thumbnail(pixels: np.ndarray, longest_side: int = 320) -> np.ndarray:
    """Shrink so that the longest side is at most `longest_side`; smaller pictures stay as they are."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest_side, longest_side), Image.Resampling.BICUBIC)
    return np.array(picture)


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Store losslessly and atomically; equal pixels give equal bytes."""
    with replacing(path) as part:
        Image.fromarray(pixels).save(part, "PNG", compress_level=4)
        fsync_file(part)


def save_jpeg(pixels: np.ndarray, path: Path, quality: int = 85) -> None:
    """Store as JPEG, atomically."""
    with replacing(path) as part:
        Image.fromarray(pixels).save(part, "JPEG", quality=quality)
        fsync_file(part)


@dataclass(frozen=True)
class ImageStatistics:
    """What a sentence about a picture can lean on. Numbers are 0 to 1, warmth −1 (blue) to 1 (red)."""

    brightness: float
    contrast: float
    saturation: float
    warmth: float
    colours: tuple[str, ...]  # up to three plain words, most frequent first


def statistics(pixels: np.ndarray) -> ImageStatistics:
    """Brightness, contrast, saturation, warmth and the dominant colour words of a picture."""
    small = thumbnail(pixels, 64)
    rgb = small.reshape(-1, 3) / 255
    luma = rgb @ (0.2126, 0.7152, 0.0722)
    red, _, blue = rgb.mean(axis=0)
    hsv = np.array(Image.fromarray(small).convert("HSV")).reshape(-1, 3)
    return ImageStatistics(
        brightness=float(luma.mean()),
        contrast=float(min(1.0, 2 * luma.std())),
        saturation=float(hsv[:, 1].mean() / 255),
        warmth=float(red - blue),
        colours=_colour_words(hsv),
    )


_HUE_NAMES = np.array(["red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "red"], dtype=object)
_HUE_ENDS = (14, 44, 68, 165, 195, 255, 290, 340)  # degrees


def _colour_words(hsv: np.ndarray, least_share: float = 0.12) -> tuple[str, ...]:
    hue, saturation, value = hsv[:, 0] * (360 / 256), hsv[:, 1] / 255, hsv[:, 2] / 255
    words = _HUE_NAMES[np.searchsorted(_HUE_ENDS, hue, side="right")]
    words[(words == "orange") & (value < 0.6)] = "brown"
    grey = saturation < 0.15
    words[grey] = "grey"
    words[grey & (value > 0.85)] = "white"
    words[value < 0.15] = "black"
    names, counts = np.unique(words.astype(str), return_counts=True)
    ranked = sorted(zip(-counts, names, strict=True))
    return tuple(str(name) for count, name in ranked[:3] if -count >= least_share * len(words))
