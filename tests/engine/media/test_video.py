"""Video: encoding, serving to MediaSource, joining by copy, and what a full or failing disk leaves behind."""

import io
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from engine import faults
from engine.errors import GenerationError, InputError, ProjectCorrupt, ProjectError
from engine.media import video

FPS = 16
CUTS = (0, 21, 42, 43, 58, 90)
POINTS = ("segment.first_frame", "segment.mid_file", "segment.before_fsync", "segment.before_rename")


def moving(num_frames: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A bright square that crosses a gradient, so that every frame differs from its neighbours."""
    y, x = np.mgrid[:height, :width]
    frames = np.stack([np.stack([x * 2 + t, y * 3, (x + y) % 256], -1) for t in range(num_frames)]).astype(np.uint8)
    for t, frame in enumerate(frames):
        left = 2 * t % (width - 16)
        frame[20:36, left : left + 16] = (250, 220, 30)
    return frames


@pytest.fixture(scope="module")
def frames():
    return moving(CUTS[-1])


@pytest.fixture(scope="module")
def segments(frames, tmp_path_factory):
    """The clip in five segments, one of them a single frame, each in a folder as takes are."""
    folder = tmp_path_factory.mktemp("takes")
    paths = []
    for start, end in pairwise(CUTS):
        path = folder / f"take-{start}" / "segment.mp4"
        path.parent.mkdir()
        video.write_segment(frames[start:end], path, fps=FPS)
        paths.append(path)
    return paths


def packets(source) -> list[av.Packet]:
    with av.open(source) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def complaints(path: Path) -> str:
    """What ffprobe, or ffmpeg where it is missing, has to say about a file."""
    if shutil.which("ffprobe"):
        command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stderr
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-i", str(path), "-f", "null", "-"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stderr


def test_a_segment_has_exactly_the_frames_it_was_given(segments):
    for path, start, end in zip(segments, CUTS, CUTS[1:], strict=False):
        info = video.probe(path)
        assert (info.num_frames, info.width, info.height, info.fps) == (end - start, 96, 64, FPS)
        assert info.duration_s == pytest.approx((end - start) / FPS)
        assert len(video.decode(path)) == end - start


def test_write_segment_describes_the_file(frames, tmp_path):
    info = video.write_segment(iter(frames[:9]), tmp_path / "a.mp4", fps=25)
    data = (tmp_path / "a.mp4").read_bytes()
    assert (info.num_frames, info.width, info.height, info.fps, info.codec) == (9, 96, 64, 25, "h264")
    assert info.size_bytes == len(data)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_equal_frames_give_equal_bytes(frames, tmp_path):
    first = video.write_segment(frames[:40], tmp_path / "a.mp4", fps=FPS)
    second = video.write_segment(frames[:40], tmp_path / "b.mp4", fps=FPS)
    assert first == second
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_decoded_frames_look_like_the_given_ones(frames, segments):
    error = np.abs(video.decode(segments[0]).astype(int) - frames[: CUTS[1]])
    assert error.mean() < 4  # crf 17 and halved chroma


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 40, 40), (30, 160, 220)])
def test_colours_survive_the_round_trip(colour, tmp_path):
    video.write_segment(np.full((3, 32, 32, 3), colour, np.uint8), tmp_path / "a.mp4", fps=FPS)
    decoded = video.decode(tmp_path / "a.mp4")[1, 16, 16].astype(int)
    assert np.abs(decoded - colour).max() <= 4  # 8-bit limited-range rounding, and swscale's bias of 1 to 2


def test_segments_are_tagged_bt709_limited_range(segments):
    with av.open(str(segments[0])) as container:
        context = container.streams.video[0].codec_context
        assert (context.pix_fmt, context.colorspace, context.color_primaries, context.color_trc) == ("yuv420p", 1, 1, 1)
        assert context.color_range == 1


def test_a_segment_starts_with_a_keyframe_and_has_one_a_second(segments):
    for path in segments:
        keys = [index for index, packet in enumerate(packets(str(path))) if packet.is_keyframe]
        assert keys == list(range(0, video.probe(path).num_frames, FPS))


def test_segments_have_no_b_frames_and_start_at_zero(segments):
    for path in segments:
        times = [(packet.pts, packet.dts) for packet in packets(str(path))]
        assert all(pts == dts for pts, dts in times)
        assert times[0][0] == 0


def test_all_segments_share_one_initialisation(segments):
    assert len({video.init_segment(path) for path in segments}) == 1
    boxes = video.init_segment(segments[0])
    assert boxes[4:8] == b"ftyp" and b"moov" in boxes and b"moof" not in boxes


def test_the_codec_string_names_profile_and_level(segments):
    assert video.codec_string(segments[0]) == "avc1.64000A"  # High, level 1.0 at this size


def test_served_segments_form_one_uniform_timeline(segments):
    served = video.init_segment(segments[0])
    for path, start in zip(segments, CUTS, strict=False):
        served += video.media_segment(path, start)
    found = packets(io.BytesIO(served))
    tick = found[0].duration
    assert [packet.pts for packet in found] == [tick * index for index in range(CUTS[-1])]
    assert [packet.dts for packet in found] == [packet.pts for packet in found]
    assert found[0].time_base * tick * FPS == 1


def test_served_segments_hold_only_moof_and_mdat_with_growing_sequence_numbers(segments):
    kinds, numbers = [], []
    for path, start in zip(segments, CUTS, strict=False):
        data = video.media_segment(path, start)
        for kind, at, *_ in video._boxes(data, 0, len(data)):
            kinds.append(kind)
            if kind == b"moof":
                numbers.append(int.from_bytes(data[at + 20 : at + 24]))
    assert set(kinds) == {b"moof", b"mdat"}
    assert numbers == sorted(set(numbers))


def test_a_segment_can_be_served_from_an_hour_into_the_film(segments):
    start = 3600 * FPS * 100
    served = video.init_segment(segments[0]) + video.media_segment(segments[0], start)
    first = packets(io.BytesIO(served))[0]
    assert first.pts == start * first.duration


def test_joining_changes_no_frame_and_repeats_none(segments, tmp_path):
    film = video.join(segments, tmp_path / "film.mp4", metadata={})
    apart = np.concatenate([video.decode(path) for path in segments])
    np.testing.assert_array_equal(video.decode(film.path), apart)
    assert all((a != b).any() for a, b in pairwise(apart))


def test_a_joined_film_has_strictly_uniform_timestamps(segments, tmp_path):
    film = video.join(segments, tmp_path / "film.mp4", metadata={})
    assert (film.num_frames, film.fps, film.duration_s) == (CUTS[-1], FPS, CUTS[-1] / FPS)
    found = packets(str(film.path))
    steps = {b.pts - a.pts for a, b in pairwise(found)}
    assert len(found) == CUTS[-1] and len(steps) == 1
    assert found[0].pts == 0 and all(packet.pts == packet.dts for packet in found)


def test_joining_copies_packets_without_encoding_again(segments, tmp_path):
    film = video.join(segments, tmp_path / "film.mp4", metadata={})
    copied = [bytes(packet) for packet in packets(str(film.path))]
    assert copied == [bytes(packet) for path in segments for packet in packets(str(path))]


def test_a_film_is_progressive_with_its_index_in_front(segments, tmp_path):
    film = video.join(segments, tmp_path / "film.mp4", metadata={})
    data = film.path.read_bytes()
    kinds = [kind for kind, *_ in video._boxes(data, 0, len(data))]
    assert kinds.index(b"moov") < kinds.index(b"mdat") and b"moof" not in kinds
    assert film.size_bytes == len(data)


def test_metadata_is_kept(segments, tmp_path):
    tags = {"title": "Ein Käfer 猫", "comment": "AI-generated video", "encoder": "Stable Video Infinity Studio 1.0"}
    film = video.join(segments, tmp_path / "film.mp4", metadata=tags)
    with av.open(str(film.path)) as container:
        assert tags.items() <= container.metadata.items()


def test_other_tools_have_no_complaint(segments, tmp_path):
    film = video.join(segments, tmp_path / "film.mp4", metadata={"encoder": "Studio"})
    assert complaints(film.path) == ""
    assert complaints(segments[0]) == ""


def test_sixty_segments_join_with_the_exact_count(segments, tmp_path):
    film = video.join(segments * 12, tmp_path / "film.mp4", metadata={})
    assert video.probe(film.path).num_frames == 12 * CUTS[-1]
    assert video.probe(film.path).duration_s == pytest.approx(12 * CUTS[-1] / FPS, abs=1e-3)


def test_the_segment_that_differs_is_named(frames, segments, tmp_path):
    odd = tmp_path / "odd" / "segment.mp4"
    odd.parent.mkdir()
    video.write_segment(moving(5, 64, 64), odd, fps=FPS)
    with pytest.raises(InputError, match=r"Segment 1 \(odd/segment\.mp4\) is 64×64 at 16 fps, the others are 96×64"):
        video.join([odd, *segments], tmp_path / "film.mp4", metadata={})
    video.write_segment(frames[:5], odd, fps=25)
    with pytest.raises(InputError, match=r"Segment 6 .* at 25 fps, the others are 96×64 at 16 fps"):
        video.join([*segments, odd], tmp_path / "film.mp4", metadata={})
    assert [p.name for p in tmp_path.iterdir()] == ["odd"]


def test_a_missing_segment_is_named(segments, tmp_path):
    with pytest.raises(ProjectError, match=r"lost/segment\.mp4 is missing"):
        video.join([*segments, tmp_path / "lost" / "segment.mp4"], tmp_path / "film.mp4", metadata={})


def test_nothing_to_join_is_said_so(tmp_path):
    with pytest.raises(InputError, match="no finished clip"):
        video.join([], tmp_path / "film.mp4", metadata={})


def test_a_damaged_segment_is_an_error_for_the_user_at_any_cut(segments, tmp_path):
    data = segments[0].read_bytes()
    damaged = tmp_path / "segment.mp4"
    for percent in range(0, 100, 3):
        damaged.write_bytes(data[: len(data) * percent // 100])
        for call in (video.init_segment, video.codec_string, lambda path: video.media_segment(path, 0)):
            with pytest.raises(ProjectCorrupt, match="is damaged"):
                call(damaged)
        with pytest.raises((ProjectCorrupt, InputError)):
            video.join([damaged], tmp_path / "film.mp4", metadata={})


def test_flipped_bits_never_raise_anything_but_studio_errors(segments, tmp_path):
    rng = np.random.default_rng(0)
    data = segments[0].read_bytes()
    damaged = tmp_path / "segment.mp4"
    for _ in range(60):
        flipped = bytearray(data)
        flipped[rng.integers(0, 1500)] ^= 1 << rng.integers(0, 8)  # the boxes in front
        damaged.write_bytes(flipped)
        for call in (video.init_segment, video.probe, lambda path: video.join([path], tmp_path / "f.mp4", metadata={})):
            try:
                call(damaged)
            except (InputError, ProjectError):
                pass


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5000 RTP/AVP 96\n",
        "<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>other.mp4</BaseURL></MPD>",
        "not a video at all",
        "",
    ],
)
def test_playlists_and_texts_named_mp4_are_refused(text, segments, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text(text)
    shutil.copy(segments[0], tmp_path / "other.mp4")
    with pytest.raises(InputError, match="not a video we can read"):
        video.probe(path)
    with pytest.raises(InputError):
        video.decode(path)


def test_protocol_like_names_are_plain_files(segments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = Path("concat:a.mp4")
    shutil.copy(segments[0], name)
    assert video.probe(name).num_frames == CUTS[1]
    with pytest.raises(ProjectError, match="missing"):
        video.probe(Path("http://127.0.0.1:9/a.mp4"))


@pytest.mark.parametrize("action", ["enospc", "eio", "oom"])
@pytest.mark.parametrize("point", POINTS)
def test_a_failed_write_leaves_nothing_behind(point, action, frames, tmp_path):
    with faults.injected(f"{point}:{action}") as fault, pytest.raises((OSError, MemoryError)):
        video.write_segment(frames[:20], tmp_path / "segment.mp4", fps=FPS)
    assert fault.fired
    assert list(tmp_path.iterdir()) == []


def test_a_fault_after_the_rename_leaves_the_whole_segment(frames, tmp_path):
    with faults.injected("segment.after_rename:eio"), pytest.raises(OSError):
        video.write_segment(frames[:20], tmp_path / "segment.mp4", fps=FPS)
    assert [p.name for p in tmp_path.iterdir()] == ["segment.mp4"]
    assert video.probe(tmp_path / "segment.mp4").num_frames == 20


@pytest.mark.parametrize("point", ["export.temp", "export.rename"])
def test_a_failed_export_keeps_the_older_film(point, segments, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"the older film")
    with faults.injected(f"{point}:enospc") as fault, pytest.raises(OSError):
        video.join(segments, tmp_path / "film.mp4", metadata={})
    assert fault.fired
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    assert (tmp_path / "film.mp4").read_bytes() == b"the older film"


@pytest.mark.parametrize("limit_bytes", [500, 3000])
def test_a_disk_that_takes_no_more_is_an_os_error_and_leaves_nothing(limit_bytes, frames, segments, tmp_path):
    """A real short write, through RLIMIT_FSIZE, on the way through FFmpeg's own buffers."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        with pytest.raises(OSError):
            video.write_segment(frames, tmp_path / "segment.mp4", fps=FPS)
        with pytest.raises(OSError):
            video.join(segments, tmp_path / "film.mp4", metadata={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_frame_source_leaves_nothing(frames, tmp_path):
    def breaking():
        yield from frames[:10]
        raise GenerationError("The backend stopped.")

    with pytest.raises(GenerationError, match="backend stopped"):
        video.write_segment(breaking(), tmp_path / "segment.mp4", fps=FPS)
    assert list(tmp_path.iterdir()) == []


def test_no_frames_and_mixed_sizes_are_refused(frames, tmp_path):
    with pytest.raises(GenerationError, match="no frames"):
        video.write_segment([], tmp_path / "segment.mp4", fps=FPS)
    with pytest.raises(ValueError, match="frame 1 is uint8"):
        video.write_segment([frames[0], frames[0][:32]], tmp_path / "segment.mp4", fps=FPS)
    with pytest.raises(ValueError, match="frame 0 is float32"):
        video.write_segment(frames[:2].astype(np.float32), tmp_path / "segment.mp4", fps=FPS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reliability
@pytest.mark.parametrize("point", [*POINTS, "segment.after_rename", "export.temp", "export.rename"])
def test_kill_leaves_no_half_file_under_a_final_name(point, tmp_path):
    script = (
        "import numpy as np; from pathlib import Path; from engine.media import video\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "frames = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)\n"
        "video.write_segment(frames, folder / 'segment.mp4', fps=16)\n"
        "video.join([folder / 'segment.mp4'], folder / 'film.mp4', metadata={})\n"
    )
    child = subprocess.run([sys.executable, "-c", script], env={**os.environ, "FAULT": f"{point}:kill"}, timeout=60)
    assert child.returncode == -signal.SIGKILL
    for path in tmp_path.glob("*.mp4"):
        assert video.probe(path).num_frames == 40
    assert (tmp_path / "segment.mp4").exists() == (point.startswith("export") or point.endswith("after_rename"))
    assert not (tmp_path / "film.mp4").exists()


def test_a_poster_is_a_small_jpeg(tmp_path):
    video.poster(moving(1, 832, 480)[0], tmp_path / "poster.jpg")
    with Image.open(tmp_path / "poster.jpg") as stored:
        assert (stored.format, stored.size) == ("JPEG", (480, 277))
    assert (tmp_path / "poster.jpg").stat().st_size < 100_000


def test_a_preview_is_an_animated_webp_within_its_budget():
    noise = np.random.default_rng(0).integers(0, 256, (9, 60, 104, 3), dtype=np.uint8)
    for frames, budget in ((moving(9), 100_000), (noise, 20_000), (noise, 4_000)):
        data = video.webp_preview(frames, budget)
        assert len(data) <= budget
        with Image.open(io.BytesIO(data)) as preview:
            assert (preview.format, preview.n_frames) == ("WEBP", 9)
