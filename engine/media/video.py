"""Video on disk: encode a take once as a segment, serve it to MediaSource, join segments without re-encoding, probe.

A segment is fragmented MP4 with H.264, no B-frames, a keyframe every second and timestamps from 0. Equal frames give
equal bytes. Frames are uint8 RGB (F, H, W, 3). Knows nothing about projects or models.
"""

import hashlib
import io
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from PIL import Image

from engine import faults
from engine.errors import GenerationError, InputError, ProjectCorrupt, ProjectError
from engine.media import image
from engine.media.atomic import replacing
from engine.project.files import fsync_file

PRESET, CRF = "medium", 17  # 81 frames of 480×832 in under 2 s on one core; veryfast is twice as fast and 18 % larger
# A renamed text file (ffconcat, HLS playlist) must not make the demuxer open other files or addresses.
SAFE_INPUT = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska"}
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT  # the same on every CPU


@dataclass(frozen=True)
class SegmentInfo:
    num_frames: int
    width: int
    height: int
    fps: int
    codec: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class VideoInfo:
    width: int
    height: int
    num_frames: int
    fps: float
    duration_s: float
    codec: str


@dataclass(frozen=True)
class FilmInfo:
    path: Path
    num_frames: int
    fps: int
    duration_s: float
    size_bytes: int


# Writing and reading whole files


def write_segment(frames: Iterable[np.ndarray], path: Path, *, fps: int) -> SegmentInfo:
    """Encode `frames`, each uint8 (H, W, 3) with even sides, and commit them to `path` atomically.

    All segments written with the same size and fps share one decoder configuration, so they can be joined by copy.
    On any error the partial file is removed; what the disk refuses is raised as OSError.
    """
    with replacing(path) as part:
        num_frames, width, height = _encode(frames, part, fps)
        faults.hit("segment.before_fsync")
        fsync_file(part)
        written = probe(part)
        if (written.num_frames, written.width, written.height) != (num_frames, width, height):
            raise GenerationError(
                f"{written.num_frames} of {num_frames} frames reached the disk.", "Check the disk, then try again."
            )
        data = part.read_bytes()
        faults.hit("segment.before_rename")
    faults.hit("segment.after_rename")
    return SegmentInfo(num_frames, width, height, fps, written.codec, len(data), hashlib.sha256(data).hexdigest())


def _encode(frames: Iterable[np.ndarray], part: Path, fps: int) -> tuple[int, int, int]:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "fflags": "bitexact"}
    with open(part, "wb") as file, av.open(file, "w", format="mp4", container_options=options) as container:
        stream, shape, count = None, (), 0
        for pixels in frames:
            if stream is None:
                shape = pixels.shape
                stream = _video_stream(container, width=shape[1], height=shape[0], fps=fps)
            if pixels.shape != shape or pixels.dtype != np.uint8:
                raise ValueError(f"frame {count} is {pixels.dtype} {pixels.shape}, expected uint8 {shape}")
            container.mux(stream.encode(_to_yuv(pixels, count, fps)))
            count += 1
            if count == 1:
                faults.hit("segment.first_frame")
        if stream is None:
            raise GenerationError("The clip has no frames.", "Try again with another seed.")
        faults.hit("segment.mid_file")
        container.mux(stream.encode(None))
    return count, shape[1], shape[0]


def _video_stream(container: av.container.OutputContainer, *, width: int, height: int, fps: int) -> av.VideoStream:
    # Without the macroblock tree equal frames give equal bytes in one process, cpu-independent on every x86 CPU.
    x264 = f"keyint={fps}:min-keyint={fps}:scenecut=0:bframes=0:open-gop=0:mbtree=0:rc-lookahead=0:cpu-independent=1"
    options = {"preset": PRESET, "crf": str(CRF), "x264-params": x264, "flags": "+bitexact+cgop"}
    stream = container.add_stream("libx264", rate=fps, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.thread_count = 1  # more threads change the bytes
    context.time_base = Fraction(1, fps)
    context.color_range = ColorRange.MPEG
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    return stream


def _to_yuv(pixels: np.ndarray, index: int, fps: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_colorspace=Colorspace.ITU709,
        interpolation=EXACT,
        threads=1,
    )
    frame.pts, frame.time_base = index, Fraction(1, fps)
    return frame


def probe(path: Path) -> VideoInfo:
    """Describe the first video stream of an MP4, MOV, Matroska or WebM file by counting its packets.

    Playlists and other files that point elsewhere are refused (`InputError`); a missing file is a `ProjectError`.
    """
    with _opened(path) as (container, stream):
        count = sum(1 for packet in container.demux(stream) if packet.size)
        fps = float(stream.average_rate or 0)
        duration_s = float(stream.duration * stream.time_base) if stream.duration else count / fps if fps else 0.0
        return VideoInfo(stream.width, stream.height, count, fps, duration_s, stream.codec_context.name)


def _packets(path: Path) -> Iterator[av.Packet]:
    with _opened(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.size:  # PyAV ends every demux with an empty packet
                yield packet


def decode(path: Path) -> np.ndarray:
    """All frames, uint8 RGB (F, H, W, 3). Holds the whole video in memory: meant for single clips."""
    with _opened(path) as (container, stream):
        frames = [
            frame.reformat(format="rgb24", dst_color_range=ColorRange.JPEG, threads=1).to_ndarray()
            for frame in container.decode(stream)
        ]
        return np.stack(frames) if frames else np.empty((0, stream.height, stream.width, 3), np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first video stream, with errors meant for the user."""
    if not path.is_file():
        raise ProjectError(f"The video {_name(path)} is missing.", "Generate that clip again.")
    unreadable = InputError(
        f"{_name(path)} is damaged or not a video we can read.", "Use an MP4, MOV, MKV or WebM file."
    )
    try:
        # Absolute, so that a name such as "concat:a.mp4" is never taken for a protocol.
        with av.open(os.path.abspath(path), container_options=SAFE_INPUT) as container:
            if not container.streams.video:
                raise unreadable
            yield container, container.streams.video[0]
    except av.FFmpegError as err:
        raise unreadable from err


def _name(path: Path) -> str:
    """The file and its folder: takes are told apart by their folder."""
    return f"{path.parent.name}/{path.name}"


# Serving a segment to MediaSource on one continuous timeline


@dataclass(frozen=True)
class _Fragment:
    start: int  # of the moof box
    end: int  # of the mdat box
    sequence_at: int
    decode_time_at: int
    num_frames: int
    frame_ticks: int


@dataclass(frozen=True)
class _Segment:
    data: bytes
    init: bytes
    avcc: bytes
    width: int
    height: int
    timescale: int
    fragments: tuple[_Fragment, ...]

    @property
    def settings(self) -> tuple:
        """What must be equal for two segments to follow each other without a new initialisation."""
        return self.width, self.height, self.fps, self.avcc, self.timescale

    @property
    def fps(self) -> Fraction:
        return Fraction(self.timescale, self.fragments[0].frame_ticks)

    @property
    def num_frames(self) -> int:
        return sum(fragment.num_frames for fragment in self.fragments)


def init_segment(path: Path) -> bytes:
    """The ftyp and moov boxes: equal for all segments of a project, appended to the SourceBuffer once."""
    return _parse(path).init


def media_segment(path: Path, start_frame: int) -> bytes:
    """The moof and mdat boxes with every decode time shifted so that the first frame is `start_frame` of the film.

    Sequence numbers count from `start_frame` + 1: a fragment holds at least a frame, so they grow from take to take.
    """
    segment = _parse(path)
    served = bytearray()
    for index, fragment in enumerate(segment.fragments):
        boxes = bytearray(segment.data[fragment.start : fragment.end])
        struct.pack_into(">I", boxes, fragment.sequence_at - fragment.start, start_frame + 1 + index)
        at = fragment.decode_time_at - fragment.start
        [decode_time] = struct.unpack_from(">Q", boxes, at)
        struct.pack_into(">Q", boxes, at, decode_time + start_frame * fragment.frame_ticks)
        served += boxes
    return bytes(served)


def codec_string(path: Path) -> str:
    """The RFC 6381 name for the MIME type, such as "avc1.64001E", read from the decoder configuration."""
    return "avc1." + _parse(path).avcc[1:4].hex().upper()


# Boxes that hold fields before their first child box.
_FIELDS = {b"stsd": 8, b"avc1": 78, b"meta": 4}


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """(kind, start, start of the body, end) of each box in data[start:end]; ValueError when one does not fit."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            [size] = struct.unpack_from(">Q", data, body)
            body += 8
        if size < body - start or start + size > end:
            raise ValueError(f"box {kind!r} of {size} bytes at {start} does not fit")
        yield kind, start, body, start + size
        start += size


def _body(data: bytes, span: tuple[int, int], *kinds: bytes) -> tuple[int, int]:
    """Start and end of the body found by descending through `kinds`; KeyError when there is none."""
    for kind in kinds:
        for found, _, body, end in _boxes(data, *span):
            if found == kind:
                span = body + _FIELDS.get(kind, 0), end
                break
        else:
            raise KeyError(kind)
    return span


def _parse(path: Path) -> _Segment:
    try:
        data = path.read_bytes()
    except FileNotFoundError as err:
        raise ProjectError(f"The segment {_name(path)} is missing.", "Generate that clip again.") from err
    try:
        top = list(_boxes(data, 0, len(data)))
        moov_end = next(end for kind, _, _, end in top if kind == b"moov")
        media = _body(data, (0, moov_end), b"moov", b"trak", b"mdia")
        entry, _ = _body(data, media, b"minf", b"stbl", b"stsd", b"avc1")
        width, height = struct.unpack_from(">HH", data, entry - _FIELDS[b"avc1"] + 24)
        avcc, avcc_end = _body(data, media, b"minf", b"stbl", b"stsd", b"avc1", b"avcC")
        [timescale] = struct.unpack_from(">I", data, _body(data, media, b"mdhd")[0] + 12)
        fragments = tuple(
            _fragment(data, start, end, following_end)
            for (kind, start, _, end), (following, _, _, following_end) in pairwise(top)
            if (kind, following) == (b"moof", b"mdat")
        )
        segment = _Segment(data, data[:moov_end], data[avcc:avcc_end], width, height, timescale, fragments)
        segment.fps  # noqa: B018 — no fragments or a zero duration is damage too
    except (ValueError, KeyError, IndexError, StopIteration, ZeroDivisionError, struct.error) as err:
        raise ProjectCorrupt(f"The segment {_name(path)} is damaged.", "Generate that clip again.") from err
    return segment


def _fragment(data: bytes, start: int, moof_end: int, end: int) -> _Fragment:
    moof = _body(data, (start, moof_end), b"moof")
    tfdt, _ = _body(data, moof, b"traf", b"tfdt")
    if data[tfdt] != 1:
        raise ValueError("decode times must have 64 bits")
    tfhd, _ = _body(data, moof, b"traf", b"tfhd")
    trun, _ = _body(data, moof, b"traf", b"trun")
    header_flags, run_flags = (int.from_bytes(data[at + 1 : at + 4]) for at in (tfhd, trun))
    if header_flags & 0x08:  # default sample duration, after the track id and two optional fields
        duration_at = tfhd + 8 + 8 * bool(header_flags & 0x01) + 4 * bool(header_flags & 0x02)
    elif run_flags & 0x100:  # duration of the first sample, after the count and two optional fields
        duration_at = trun + 8 + 4 * bool(run_flags & 0x01) + 4 * bool(run_flags & 0x04)
    else:
        raise ValueError("a fragment without sample durations")
    [num_frames] = struct.unpack_from(">I", data, trun + 4)
    [frame_ticks] = struct.unpack_from(">I", data, duration_at)
    sequence_at = _body(data, moof, b"mfhd")[0] + 4
    return _Fragment(start, end, sequence_at, tfdt + 4, num_frames, frame_ticks)


# Joining


def join(segments: Sequence[Path], output: Path, *, metadata: Mapping[str, str]) -> FilmInfo:
    """Copy the packets of all segments into one progressive MP4, its index in front, and commit it atomically.

    `metadata` may hold title, comment, encoder and the other MP4 tags. A segment of another size, fps or codec setting
    raises `InputError`, a missing one `ProjectError`, a damaged one `ProjectCorrupt`.
    """
    if not segments:
        raise InputError("There is no finished clip to join.", "Generate a clip first.")
    fps, expected = _check_joinable(segments)
    with replacing(output) as part:
        _copy_packets(segments, part, fps, metadata)
        _name_encoder(part)
        fsync_file(part)
        written = probe(part)
        if written.num_frames != expected:
            raise ProjectError(
                f"The film has {written.num_frames} frames on disk, expected {expected}.",
                "Check the disk, then export again.",
            )
        size_bytes = part.stat().st_size
        faults.hit("export.rename")
    return FilmInfo(output, expected, fps, expected / fps, size_bytes)


def _check_joinable(segments: Sequence[Path]) -> tuple[int, int]:
    """fps and total frames; the segment that differs from the majority is named in the error."""
    settings, num_frames = [], 0
    for path in segments:
        segment = _parse(path)
        settings.append(segment.settings)
        num_frames += segment.num_frames
    [(common, _)] = Counter(settings).most_common(1)
    for number, (path, own) in enumerate(zip(segments, settings, strict=True), start=1):
        if own != common:
            described, usual = (f"{width}×{height} at {fps} fps" for width, height, fps, *_ in (own, common))
            difference = f"is {described}, the others are {usual}" if described != usual else "has other codec settings"
            raise InputError(f"Segment {number} ({_name(path)}) {difference}.", "Generate that clip again.")
    return int(common[2]), num_frames


def _copy_packets(segments: Sequence[Path], part: Path, fps: int, metadata: Mapping[str, str]) -> None:
    options = {"movflags": "faststart", "fflags": "bitexact"}
    tags = {_ENCODER_STAND_IN if key == "encoder" else key: value for key, value in metadata.items()}
    with av.open(os.path.abspath(part), "w", format="mp4", container_options=options) as film:
        film.metadata.update(tags)
        stream = None
        packets = (packet for path in segments for packet in _packets(path))
        for index, packet in enumerate(packets):
            if stream is None:
                stream = film.add_stream_from_template(packet.stream)
                stream.time_base = Fraction(1, fps)
            packet.stream = stream
            packet.time_base = Fraction(1, fps)
            packet.pts = packet.dts = index
            packet.duration = 1
            film.mux(packet)
        faults.hit("export.temp")


# FFmpeg writes its own name as encoder, or none when bit-exact. So ours travels as "lyrics" and its box is renamed.
_ENCODER_STAND_IN, _STAND_IN_BOX, _ENCODER_BOX = "lyrics", b"\xa9lyr", b"\xa9too"


def _name_encoder(part: Path) -> None:
    with open(part, "rb+") as file:
        [moov_at] = struct.unpack(">I", file.read(4))  # with faststart the order is ftyp, moov, mdat
        file.seek(moov_at)
        [moov_size] = struct.unpack(">I", file.read(4))
        file.seek(moov_at)
        moov = file.read(moov_size)
        try:
            tags = _body(moov, (0, len(moov)), b"moov", b"udta", b"meta", b"ilst")
        except KeyError:
            return
        for kind, start, _, _ in _boxes(moov, *tags):
            if kind == _STAND_IN_BOX:
                file.seek(moov_at + start + 4)
                file.write(_ENCODER_BOX)


# Small pictures of a video


def poster(frame: np.ndarray, path: Path) -> None:
    """Store a frame as a JPEG of at most 480 pixels a side, atomically."""
    image.save_jpeg(image.thumbnail(frame, 480), path, quality=80)


def webp_preview(frames: Sequence[np.ndarray], max_bytes: int = 100_000, *, fps: float = 8) -> bytes:
    """A looping animated WebP of a few small RGB frames; quality, then size, falls until it fits `max_bytes`."""
    pictures = [Image.fromarray(frame) for frame in frames]
    while True:
        for quality in (75, 50, 25):
            encoded = io.BytesIO()
            pictures[0].save(
                encoded, "WEBP", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0,
                quality=quality, method=0,
            )  # fmt: skip
            if encoded.tell() <= max_bytes or max(pictures[0].size) <= 16:
                return encoded.getvalue()
        pictures = [picture.reduce(2) for picture in pictures]
