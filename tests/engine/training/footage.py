"""Small real videos. Each frame is a flat grey that tells its number, whatever the crop and the size."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEP, DARKEST = 3, 20
OPTIONS = {
    "libx264": {"crf": "8", "preset": "ultrafast"},
    "libx265": {"crf": "8", "preset": "ultrafast", "x265-params": "log-level=none:keyint=7"},
    "libvpx-vp9": {"crf": "8", "b": "0", "g": "7", "cpu-used": "8"},
    "mpeg4": {"qscale": "1"},
}


def flat(number: int, size: tuple[int, int]) -> np.ndarray:
    """Frame `number` (up to 77) of `size` (width, height)."""
    return np.full((size[1], size[0], 3), DARKEST + STEP * number, np.uint8)


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of the video these are."""
    return [round((float(frame.mean()) - DARKEST) / STEP) for frame in frames]


def write_video(
    path: Path,
    num_frames: int = 12,
    *,
    frames: Sequence[np.ndarray] | None = None,
    size: tuple[int, int] = (64, 48),
    fps: int | Fraction = 24,
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    movflags: str = "",
    rotation: int = 0,
) -> Path:
    """Write flat frames, or `frames`, to `path`; times: when each is shown, in 1/fps seconds. size: (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=OPTIONS[codec] | (options or {}))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = 1 / Fraction(fps)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, pixels in enumerate(frames or [flat(number % 78, size) for number in range(num_frames)]):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (times[number] if times else number), 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """An MP4 with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def noisy_frames(count: int, size: tuple[int, int] = (64, 48), seed: int = 0) -> list[np.ndarray]:
    """Frames that do not compress: damage anywhere in the file is damage to one of them."""
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, size[1], size[0], 3), dtype=np.uint8))


def damage_the_middle(path: Path) -> Path:
    """Overwrite a stretch of coded pictures; the index and the first frame stay whole."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(range(250)) * 8
    path.write_bytes(data)
    return path
