"""Training videos with captions: a folder is scanned once, then windows of frames are read from it.

Layouts, fallback captions, windows and crops follow upstream SVI's trainer (its CSV files, first of all). Frames are
uint8 RGB (F, H, W, 3). Files are decoded in this process, behind limits: the folder is the operator's own, but one
damaged file among thousands must cost that file and nothing else. Knows nothing about models.
"""

import csv
import io
import json
import logging
import os
import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath

import av
import numpy as np
from av.video.reformatter import ColorRange
from PIL import Image

from engine.errors import TrainingError
from engine.media.video import SAFE_INPUT

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
OTHER_SUFFIXES = (".avi", ".flv", ".gif", ".mpeg", ".mpg", ".ts", ".wmv")  # named when skipped; the rest is ignored
# Columns and keys, whatever their case; "Filename" and "Video Description" are upstream's.
FILE_KEYS = ("filename", "file", "file_name", "video")
CAPTION_KEYS = ("video description", "caption", "text", "prompt", "description")
FALLBACK_CAPTION = "The mountain"  # upstream's, for a folder without categories
CROP_SHARE = (13 / 14, 1.0)  # of the limiting side, upstream

MAX_TABLE_BYTES = 64_000_000
MAX_CAPTION_BYTES = 64_000
MAX_CAPTION_CHARACTERS = 8_000
MAX_FRAMES = 18_000  # five minutes at 60 fps; later frames are not looked at
MAX_SIDE, MAX_PIXELS = 8192, 8192 * 4320
FPS_TOLERANCE = 0.01  # 23.976 counts as 24

LAYOUTS = (
    "Put videos (MP4, MOV, MKV, WebM) into the folder with captions in captions.csv, metadata.jsonl or NAME.txt beside "
    "NAME.mp4, or into sub-folders CATEGORY/ with CATEGORY.csv."
)


class UnusableVideo(TrainingError):
    """One video cannot be used; the message is the reason, without the name."""


@dataclass(frozen=True)
class Note:
    """A file, or a row of a table, and what is to be said about it."""

    name: str
    reason: str


@dataclass(frozen=True)
class FrameIndex:
    """When each frame is shown, and where decoding can start. Times count in `time_base` seconds.

    times: (n,) ascending, from the first keyframe on. keyframes: (k, 2) ascending, the time of a keyframe and the one
    to seek to for it. width, height: upright.
    """

    width: int
    height: int
    times: np.ndarray
    keyframes: np.ndarray
    time_base: Fraction

    @property
    def num_frames(self) -> int:
        return len(self.times)

    @property
    def seconds(self) -> np.ndarray:
        return (self.times - self.times[0]) * float(self.time_base)

    @property
    def fps(self) -> float:
        return (self.num_frames - 1) / float(self.seconds[-1])


@dataclass(frozen=True)
class VideoItem:
    """A video that can be trained on. `name` is its path below the dataset's folder, with forward slashes."""

    path: Path
    name: str
    caption: str
    size_bytes: int
    modified_ns: int
    index: FrameIndex = field(repr=False, compare=False)


@dataclass(frozen=True)
class Dataset:
    """`skipped` was left out; `noted` is used, though not quite as it is (no caption, short, another frame rate)."""

    folder: Path
    items: tuple[VideoItem, ...]
    skipped: tuple[Note, ...]
    noted: tuple[Note, ...]


@dataclass(frozen=True)
class Crop:
    """A box in upright source pixels."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Window:
    """frames: (F, H, W, 3), those of the video at `indices` (F,); outside: (n, H, W, 3), from elsewhere in the video.

    All of them went through one crop.
    """

    frames: np.ndarray
    indices: np.ndarray
    crop: Crop
    outside: np.ndarray


# Which videos there are, and their captions


def scan(folder: Path, *, num_frames: int = 81, fps: float | None = None) -> Dataset:
    """Find the videos of `folder` and their captions, and open each of them once.

    Read in this order: the folder's table (CATEGORY.csv, captions.csv or metadata.jsonl), NAME.txt, the fallback.
    `num_frames` and `fps` are those of the windows to come: videos that do not fill one are noted. A folder without a
    usable video raises `TrainingError`.
    """
    if not folder.is_dir():
        raise TrainingError(f"There is no dataset folder “{folder.name}”.", LAYOUTS)
    root = folder.resolve()
    skipped: list[Note] = []
    noted: list[Note] = []
    items = []
    for path, caption, fallback in _captioned(root, skipped):
        name = path.relative_to(root).as_posix()
        status = path.stat()  # before reading: a file that changes meanwhile is taken for another next time
        try:
            index = read_index(path)
        except UnusableVideo as err:
            skipped.append(Note(name, err.message))
            continue
        if caption is None:
            noted.append(Note(name, f"has no caption: “{fallback}” is used"))
        noted += [Note(name, remark) for remark in _remarks(index, num_frames, fps)]
        items.append(VideoItem(path, name, caption or fallback, status.st_size, status.st_mtime_ns, index))
    if not items:
        raise _nothing_found(root, skipped)
    log.info("%d videos in %s, %d entries skipped, %d remarks", len(items), root.name, len(skipped), len(noted))
    return Dataset(root, tuple(items), tuple(skipped), tuple(noted))


def _captioned(root: Path, skipped: list[Note]) -> Iterator[tuple[Path, str | None, str]]:
    """Each video once, in order of names, with its own caption or None and the caption that stands in."""
    found: dict[Path, tuple[str | None, str]] = {}
    for folder in [root, *(path for path in _listing(root) if path.is_dir() and not path.is_symlink())]:
        table = _table(folder)
        is_category = folder != root or (folder / f"{folder.name}.csv").exists()
        fallback = f"A video from {folder.name} category" if is_category else FALLBACK_CAPTION
        for path, caption in _read_table(table, root, skipped) if table else ():
            found.setdefault(path, (caption, fallback))
        for path in _listing(folder):
            if found.get(path, (None,))[0] is not None or path.suffix.lower() not in VIDEO_SUFFIXES + OTHER_SUFFIXES:
                continue
            try:
                _refuse_unless_plain(path, root)
                if path.suffix.lower() in OTHER_SUFFIXES:
                    raise UnusableVideo(f"is {path.suffix[1:].upper()}, which is not read: convert it to MP4")
                found[path] = (_caption_beside(path, root), fallback)
            except TrainingError as err:
                found.pop(path, None)
                skipped.append(Note(_shown(path, root), err.message))
    for path in sorted(found):
        yield path, *found[path]


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as err:
        raise TrainingError(f"The folder “{folder.name}” cannot be read ({err.strerror}).") from err


def _table(folder: Path) -> Path | None:
    names = dict.fromkeys((f"{folder.name}.csv", "captions.csv", "metadata.jsonl"))
    tables = [folder / name for name in names if (folder / name).exists()]
    if len(tables) > 1:
        both = " and ".join(table.name for table in tables)
        raise TrainingError(f"The folder “{folder.name}” has {both}.", "Keep one of them.")
    return tables[0] if tables else None


@dataclass(frozen=True)
class Row:
    """A row of a table: its keys in lower case, or the reason why it cannot be read."""

    where: str
    values: dict[str, object] = field(default_factory=dict)
    problem: str = ""

    def first(self, keys: tuple[str, ...]) -> object:
        """The first of `keys` that has a value, or None."""
        return next((self.values[key] for key in keys if self.values.get(key) not in (None, "")), None)


def _read_table(table: Path, root: Path, skipped: list[Note]) -> Iterator[tuple[Path, str | None]]:
    """The videos that a table names and that are there, each once; what is wrong with a row goes to `skipped`."""
    text = read_text(table, root, MAX_TABLE_BYTES)
    shown = _shown(table, root)
    rows = list(csv_rows(text, shown) if table.suffix == ".csv" else json_rows(text))
    readable = [row for row in rows if not row.problem]
    if readable and not any(row.first(FILE_KEYS) for row in readable):
        seen = printable(", ".join(readable[0].values)[:200]) or "no columns"
        raise TrainingError(
            f"No row of {shown} names a video; the first has: {seen}.",
            f"Name the file under {_either(FILE_KEYS)} and its caption under {_either(CAPTION_KEYS)}.",
        )
    listed = {unicodedata.normalize("NFC", path.name): path for path in _listing(table.parent)}
    captions: dict[Path, str] = {}
    for row in rows:
        name = row.first(FILE_KEYS)
        where = f"{shown} {row.where}" + (f": {printable(name)}" if isinstance(name, str) else "")
        try:
            path = _named(name, table.parent, listed, row)
            _refuse_unless_plain(path, root)
            caption = fold(row.first(CAPTION_KEYS))
            if captions.setdefault(path, caption) != caption:
                raise UnusableVideo("is listed again with another caption: the first is used")
        except TrainingError as err:
            skipped.append(Note(where, err.message))
    for path, caption in captions.items():
        yield path, caption or None


def csv_rows(text: str, name: str) -> Iterator[Row]:
    """The rows of a CSV table with a header. Malformed quoting raises `TrainingError`."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="")
    try:
        for number, row in enumerate(reader, start=2):
            if isinstance(row.get(""), list):
                problem = "has more fields than the header: put captions with commas in quotes"
                yield Row(f"row {number}", problem=problem)
            else:
                yield Row(f"row {number}", {key.strip().lower(): value for key, value in row.items()})
    except csv.Error as err:
        raise TrainingError(f"{name} is not a valid CSV file: {err} in line {reader.line_num}.", "Mend it.") from err


def json_rows(text: str) -> Iterator[Row]:
    """The rows of a file with one JSON object a line; empty lines are passed over."""
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would also split inside strings
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield Row(f"line {number}", {key.strip().lower(): value for key, value in row.items()})
        else:
            yield Row(f"line {number}", problem="is not a JSON object")


def _named(name: object, folder: Path, listed: dict[str, Path], row: Row) -> Path:
    """The file that a row names: a relative path without “..”, on any system. Accents may be composed or not."""
    if row.problem:
        raise UnusableVideo(row.problem)
    if not isinstance(name, str):
        raise UnusableVideo(f"names no video ({_either(FILE_KEYS)})")
    if path := listed.get(unicodedata.normalize("NFC", name)):
        return path
    if any(form.anchor or ".." in form.parts for form in (PurePosixPath(name), PureWindowsPath(name))):
        raise UnusableVideo("leaves the folder")
    return folder / name


def read_text(path: Path, root: Path, max_bytes: int) -> str:
    """The text of a UTF-8 file below `root`, with or without a byte order mark."""
    shown = _shown(path, root)
    try:
        _refuse_unless_plain(path, root)
    except UnusableVideo as err:
        raise TrainingError(f"{shown} {err.message}.") from err
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as err:
        raise TrainingError(f"{shown} cannot be read ({err.strerror}).") from err
    if len(data) > max_bytes:
        raise TrainingError(f"{shown} has more than {max_bytes:,} bytes, too many for captions.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise TrainingError(
            f"{shown} is not UTF-8 text (byte 0x{data[err.start]:02x} in line {line}).", "Save it as UTF-8."
        ) from err


def _caption_beside(video: Path, root: Path) -> str | None:
    path = video.with_suffix(".txt")
    if not path.exists() and not path.is_symlink():
        return None
    return fold(read_text(path, root, MAX_CAPTION_BYTES)) or None


def fold(caption: object) -> str:
    """The caption on one line, "" for None. Raises `UnusableVideo` for what no text encoder should be given."""
    if caption is None:
        return ""
    if not isinstance(caption, str):
        raise UnusableVideo(f"has a caption that is not text but {type(caption).__name__}")
    if len(caption) > MAX_CAPTION_CHARACTERS:
        raise UnusableVideo(f"has a caption of {len(caption):,} characters; up to {MAX_CAPTION_CHARACTERS:,} are read")
    if caption != printable(caption):
        raise UnusableVideo("has a caption with broken Unicode")
    return " ".join(caption.split())


def _refuse_unless_plain(path: Path, root: Path) -> None:
    """Raise `UnusableVideo` unless `path` is an existing plain file below `root`, links followed."""
    try:
        if path.name != printable(path.name):
            raise UnusableVideo("has a name that is not valid Unicode")
        if not path.resolve().is_relative_to(root):
            raise UnusableVideo("leaves the folder")
        if not path.is_file():
            raise UnusableVideo("is not a file" if path.exists() else "does not exist")
    except (OSError, RuntimeError, ValueError) as err:  # names too long or with a zero byte, links in a circle
        raise UnusableVideo("cannot be opened") from err


def _shown(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def printable(text: str) -> str:
    """`text` with what UTF-8 cannot hold (half of a surrogate pair, undecodable bytes of a name) as question marks."""
    return str(text).encode(errors="replace").decode()


def _either(keys: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(f"“{key}”" for key in keys[:-1]), f"“{keys[-1]}”")))


def _nothing_found(root: Path, skipped: list[Note]) -> TrainingError:
    if not skipped:
        return TrainingError(f"There is no video in “{root.name}” and its sub-folders.", LAYOUTS)
    reasons = "; ".join(f"{note.name} {note.reason}" for note in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return TrainingError(f"No video in “{root.name}” can be used: {reasons}{more}.", LAYOUTS)


def _remarks(index: FrameIndex, num_frames: int, fps: float | None) -> Iterator[str]:
    if index.num_frames == MAX_FRAMES:
        yield f"is long: its first {MAX_FRAMES:,} frames are used"
    if fps is not None and index.fps < fps * (1 - FPS_TOLERANCE):
        yield f"has {index.fps:.3g} fps, fewer than {fps:g}: frames are repeated"
    elif fps is not None and index.fps > fps * (1 + FPS_TOLERANCE):
        yield f"has {index.fps:.3g} fps, read at {fps:g}"
    available = len(_wanted(index, num_frames, fps, 0)[1])
    if available < num_frames:
        yield f"fills {available} of the {num_frames} frames of a window: its last frame is repeated"


# What is in a video


def read_index(path: Path) -> FrameIndex:
    """Read every packet of the first video track and decode its first frame. Raises `UnusableVideo`."""
    times, keyframes = [], []
    with _opened(path) as (container, stream):
        seeks_by_dts = "mov" in container.format.name  # Matroska seeks by presentation time
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            if packet.is_corrupt:
                raise UnusableVideo("is cut off")
            if packet.pts is None:
                raise UnusableVideo("has frames without a time")
            if packet.is_keyframe:
                keyframes.append((packet.pts, packet.dts if seeks_by_dts and packet.dts is not None else packet.pts))
            times.append(packet.pts)
            if len(times) == MAX_FRAMES:
                break
        time_base = stream.time_base
    if not keyframes:
        raise UnusableVideo("has no frames" if not times else "has no frame that decoding can start from")
    shown = np.unique(np.array(times, np.int64))
    shown = shown[shown >= keyframes[0][0]]
    if len(shown) == 1:
        raise UnusableVideo("has a single frame")
    index = FrameIndex(0, 0, shown, np.array(sorted(keyframes), np.int64), time_base)
    [first] = _decode(path, index, [0], lambda pixels: pixels)
    return FrameIndex(first.shape[1], first.shape[0], shown, index.keyframes, time_base)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first video track, within the limits of size; whatever fails is an `UnusableVideo`."""
    try:
        # Absolute, so that a name such as "concat:a.mp4" is never taken for a protocol.
        with av.open(os.path.abspath(path), container_options=SAFE_INPUT, metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UnusableVideo("has no video track")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UnusableVideo("has a video codec we cannot decode")
            if max(stream.width, stream.height) > MAX_SIDE or stream.width * stream.height > MAX_PIXELS:
                raise UnusableVideo(f"has {stream.width}×{stream.height} pixels, more than {MAX_SIDE}×4320")
            stream.thread_type = "SLICE"  # with frame threads FFmpeg reports some damage only now and then
            # Damage is an error, not a grey smear to be trained on; a size that changes later meets the same limit.
            stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            yield container, stream
    except (av.FFmpegError, ValueError, ArithmeticError, MemoryError) as err:
        raise UnusableVideo("is damaged or not a video we can read (MP4, MOV, MKV, WebM)") from err


def _decode(
    path: Path, index: FrameIndex, wanted: Sequence[int], convert: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    """convert(frame) of each wanted frame (ascending, each once), decoded from the keyframe before the first.

    What fails from there is tried from the keyframe before that one and from the beginning: in open groups of pictures
    the frames stored right after a keyframe lean on those before it, which counts as damage.
    """
    before = int(np.searchsorted(index.keyframes[:, 0], index.times[wanted[0]], side="right")) - 1
    attempts = sorted({before, max(before - 1, 0), 0})
    while True:
        try:
            return _decode_from(path, index, int(index.keyframes[attempts.pop(), 1]), wanted, convert)
        except UnusableVideo:
            if not attempts:
                raise


def _decode_from(
    path: Path, index: FrameIndex, seek_to: int, wanted: Sequence[int], convert: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    converted: list[np.ndarray] = []
    with _opened(path) as (container, stream):
        container.seek(seek_to, stream=stream)
        for frame in container.decode(stream):
            due = index.times[wanted[len(converted)]]
            if frame.pts is None or frame.pts < due:
                continue
            if frame.pts != due or frame.is_corrupt:
                raise UnusableVideo(f"is damaged at frame {wanted[len(converted)]}")
            converted.append(convert(_upright(frame)))
            if len(converted) == len(wanted):
                return converted
    raise UnusableVideo(f"ends before frame {wanted[len(converted)]}")


def _upright(frame: av.VideoFrame) -> np.ndarray:
    pixels = frame.reformat(format="rgb24", dst_color_range=ColorRange.JPEG, threads=1).to_ndarray()
    return np.rot90(pixels, round(frame.rotation / 90))


# Windows


def read_window(
    item: VideoItem,
    *,
    num_frames: int,
    size: tuple[int, int],
    fps: float | None,
    rng: random.Random,
    num_outside: int = 0,
) -> Window:
    """`num_frames` frames from a random start, cropped at random to the aspect of `size` (height, width) and resized.

    Without `fps` the frames are consecutive, as upstream reads them; with it they are those shown nearest to every
    1/fps seconds. Where the video ends first its last frame is repeated. `outside`: frames before or after the window,
    none where there are none. Raises `UnusableVideo` wherever decoding fails.
    """
    start = rng.randrange(_num_starts(item.index, num_frames, fps))
    indices, _ = _wanted(item.index, num_frames, fps, start)
    crop = random_crop(item.index.width, item.index.height, size, rng)
    elsewhere = _draw_outside(item.index.num_frames, indices, num_outside, rng)

    def convert(pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[:2] != (item.index.height, item.index.width):
            raise UnusableVideo("changes its size")
        return resize(pixels, crop, size)

    distinct, positions = np.unique(indices, return_inverse=True)
    frames = np.stack(_decode(item.path, item.index, distinct.tolist(), convert))[positions]
    outside = [_decode(item.path, item.index, [at], convert)[0] for at in elsewhere]
    return Window(frames, indices, crop, np.stack(outside) if outside else frames[:0])


def _num_starts(index: FrameIndex, num_frames: int, fps: float | None) -> int:
    """How many frames a window can start at without running past the end; 1 for a video that is too short."""
    if fps is None:
        return max(1, index.num_frames - num_frames + 1)
    latest = index.seconds[-1] - (num_frames - 1) / fps
    return max(1, int(np.searchsorted(index.seconds, latest + 1e-6, side="right")))  # 1e-6 s: rounding of the times


def _wanted(index: FrameIndex, num_frames: int, fps: float | None, start: int) -> tuple[np.ndarray, np.ndarray]:
    """The frames of the window from frame `start` on, (num_frames,), and those of them that do not repeat the end."""
    if fps is None:
        steps = start + np.arange(num_frames)
        return np.minimum(steps, index.num_frames - 1), steps[steps < index.num_frames]
    seconds = index.seconds
    moments = seconds[start] + np.arange(num_frames) / fps
    after = np.searchsorted(seconds, moments).clip(1, len(seconds) - 1)
    nearest = np.where(moments - seconds[after - 1] <= seconds[after] - moments, after - 1, after)
    return nearest, nearest[moments <= seconds[-1] + 0.5 / fps]


def _draw_outside(num_frames: int, indices: np.ndarray, count: int, rng: random.Random) -> list[int]:
    first, last = int(indices[0]), int(indices[-1])
    remaining = num_frames - (last - first + 1)
    drawn = [rng.randrange(remaining) for _ in range(count)] if remaining else []
    return [at if at < first else at + last - first + 1 for at in drawn]


def random_crop(width: int, height: int, size: tuple[int, int], rng: random.Random) -> Crop:
    """A box with the aspect of `size` (height, width) somewhere in the picture; its limiting side is 13/14 to all of
    the picture's, uniformly."""
    scale = min(width / size[1], height / size[0]) * rng.uniform(*CROP_SHARE)
    box_width, box_height = min(size[1] * scale, width), min(size[0] * scale, height)
    left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
    return Crop(left, top, box_width, box_height)


def resize(pixels: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """The box `crop` of uint8 (H, W, 3) at `size` (height, width), bilinear with antialiasing as PIL does it."""
    height, width = pixels.shape[:2]
    box = (crop.left, crop.top, min(crop.left + crop.width, width), min(crop.top + crop.height, height))
    return np.array(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))
