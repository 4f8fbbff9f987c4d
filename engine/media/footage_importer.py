"""Turn one untrusted video into a plain MP4 without sound. Run as a script, in a child process with limits.

Imports only the standard library, PIL and PyAV. Reads a JSON list [source, destination, poster] from stdin and writes
one JSON object to stdout. `footage.import_video` is the way in.
"""

import json
import os
import stat
import sys
from fractions import Fraction
from itertools import chain

import av
from PIL import Image

MAX_BYTES = 60_000_000
MAX_SECONDS = 120
MAX_FPS = 60.5
MIN_FRAMES = 9
MIN_SIDE, MAX_SIDE = 48, 1920
STORED_SIDE = 1280  # the longest; training sizes are smaller
POSTER_SIDE = 240
TIMEOUT_S = 90
MEMORY_BYTES = 2_000_000_000
WRITTEN_BYTES = 400_000_000
# Without these a text file called clip.mp4 could name other files to read (reliability-security.md S14).
SAFE_INPUT = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska"}
TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}

READABLE = "Use an MP4, MOV, MKV or WebM video of up to two minutes."
UNREADABLE = ("This file is not a video we can read.", READABLE)
DAMAGED = ("This video is damaged or cut off.", "Download or export it again, then upload it.")


class Refused(Exception):
    """args: (what happened, what to do)."""


def convert(source: str, destination: str, poster: str) -> dict:
    """Validate `source`, write it to `destination` as H.264 and its first frame to `poster`; describe the result."""
    check_file(source)
    opened = False
    try:
        with av.open(os.path.abspath(source), container_options=SAFE_INPUT, metadata_errors="ignore") as container:
            opened = True
            stream = video_stream(container)
            return write(upright_frames(container, stream), stream, destination, poster)
    except (av.FFmpegError, ValueError, ArithmeticError) as err:
        raise Refused(*(DAMAGED if opened else UNREADABLE)) from err


def check_file(source: str) -> None:
    try:
        status = os.stat(source)
    except (OSError, ValueError) as err:
        raise Refused("This file could not be opened.", "Upload it again.") from err
    if not stat.S_ISREG(status.st_mode):
        raise Refused("This is not a file.", READABLE)
    if status.st_size == 0:
        raise Refused("This file is empty.", "Upload the video again.")
    if status.st_size > MAX_BYTES:
        raise Refused(f"This video has more than {MAX_BYTES // 1_000_000} MB.", "Cut it, or save it smaller.")


def video_stream(container):
    """The first video track, within the limits that its header tells."""
    if not container.streams.video:
        raise Refused("This file has no picture track.", READABLE)
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise Refused("This video has a codec we cannot read.", "Save it as H.264 in MP4.")
    check_size(stream.width, stream.height)
    rate = stream.average_rate
    if rate is not None and rate > MAX_FPS:
        raise Refused(f"This video has {float(rate):.0f} frames a second; up to 60 are read.", "Save it with fewer.")
    length = container.duration / av.time_base if container.duration else 0
    if length > MAX_SECONDS + 1:
        raise Refused(f"This video is {length:.0f} s long; up to {MAX_SECONDS} s are read.", "Cut the part you want.")
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_SIDE * MAX_SIDE)}
    return stream


def check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise Refused(
            f"This video is {width}×{height} pixels; each side must be {MIN_SIDE} to {MAX_SIDE:,}.",
            "Scale it, then upload it again.",
        )


def upright_frames(container, stream):
    """(time in seconds, PIL picture) of every frame, turned as a player would show it, scaled to be stored."""
    first = None
    for frame in container.decode(stream):
        if frame.pts is None:
            raise Refused("This video has frames without a time.", "Export it again as MP4.")
        check_size(frame.width, frame.height)
        first = frame.time if first is None else first
        if frame.time - first > MAX_SECONDS:
            raise Refused(f"This video is longer than {MAX_SECONDS} s.", "Cut the part you want.")
        picture = frame.to_image()
        if turn := TURNS.get(round(frame.rotation / 90) % 4):
            picture = picture.transpose(turn)
        scale = min(1.0, STORED_SIDE / max(picture.size))
        size = tuple(max(2, round(side * scale / 2) * 2) for side in picture.size)
        yield frame.time - first, picture.resize(size) if size != picture.size else picture


def write(frames, stream, destination: str, poster: str) -> dict:
    """Encode every frame at its time; the caller removes partial files and renames whole ones."""
    first = next(frames, None)
    if first is None:
        raise Refused("This video has no frames.", READABLE)
    size = first[1].size
    thumbnail = first[1].copy()
    thumbnail.thumbnail((POSTER_SIDE, POSTER_SIDE))
    thumbnail.save(poster, "JPEG", quality=82)
    count, last = 0, 0.0
    with av.open(destination, "w", format="mp4") as output:
        encoded = output.add_stream("libx264", rate=Fraction(stream.average_rate or 25).limit_denominator(1001))
        encoded.width, encoded.height = size
        encoded.pix_fmt = "yuv420p"
        encoded.options = {"crf": "14", "preset": "veryfast", "bf": "0", "g": "24"}
        encoded.time_base = encoded.codec_context.time_base = Fraction(1, 90000)
        for seconds, picture in chain([first], frames):
            if count and seconds <= last:
                continue  # two frames at one time: a player shows one
            if picture.size != size:
                raise Refused("The size of this video's picture changes on the way.", "Export it again as MP4.")
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = round(seconds * 90000), Fraction(1, 90000)
            output.mux(encoded.encode(frame))
            count, last = count + 1, seconds
        output.mux(encoded.encode(None))
    for path in (destination, poster):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    if count < MIN_FRAMES:
        raise Refused(f"This video has {count} frames; at least {MIN_FRAMES} are needed.", "Use a longer one.")
    return {"width": size[0], "height": size[1], "num_frames": count, "seconds": round(last * count / (count - 1), 3)}


def limit_resources() -> None:
    """Cap memory, CPU time, file size and core dumps. On Windows only the parent's timeout remains."""
    try:
        import resource
    except ImportError:
        return
    for name, limit in (("AS", MEMORY_BYTES), ("CPU", TIMEOUT_S), ("FSIZE", WRITTEN_BYTES), ("CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
        except (AttributeError, ValueError, OSError):  # macOS refuses RLIMIT_AS
            continue


def answer(source: str, destination: str, poster: str) -> dict:
    try:
        return convert(source, destination, poster)
    except Refused as refusal:
        message, hint = refusal.args
        return {"refused": message, "hint": hint}
    except MemoryError:
        return {"refused": "This video needs more memory than an import may use.", "hint": "Save it smaller."}
    except OSError as err:
        return {"errno": err.errno or 5}


def main() -> None:
    paths = json.load(sys.stdin)
    limit_resources()
    print(json.dumps(answer(*paths)), flush=True)


if __name__ == "__main__":
    main()
