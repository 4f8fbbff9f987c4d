"""How much of real footage the embedded model can say at all: its fields hold one camera, one light and coarse flow.

A clip is drawn from its own first frame by the motion that was fitted to it, and compared with the footage where that
frame shows something.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from engine.pocket import codec, world
from engine.pocket.motion import Motion, linear
from engine.pocket.render import Canvas, axes

NUM_COMPARED = 4  # frames of a clip, evenly apart, the last among them


@dataclass(frozen=True)
class Fit:
    """PSNR in dB inside the first frame, over a clip's frames: of what the fields draw, and of nothing moving."""

    moved: float
    still: float


def fit_of(frames: np.ndarray, latents: Tensor) -> Fit:
    """How near a clip's latents (C, f, h, w) come to its frames (F, H, W, 3) uint8."""
    aspect = frames.shape[2] / frames.shape[1]
    mean = codec.mean_of(codec.first_frame(frames[0]))
    motion = world.at_frames(codec.read(latents, mean, aspect, quiet=False))
    canvas, still = Canvas.of_frame(frames[0]), frames[0].astype(np.float32)
    moved_error = still_error = count = 0.0
    for index in np.linspace(0, len(frames) - 1, NUM_COMPARED + 1).round().astype(int)[1:]:
        inside = _inside(motion[index : index + 1], canvas)
        footage = frames[index].astype(np.float32)
        drawn = canvas.draw_one(motion[index : index + 1])
        moved_error += float(np.square(drawn - footage)[inside].sum())
        still_error += float(np.square(still - footage)[inside].sum())
        count += 3 * inside.sum()
    return Fit(_psnr(moved_error, count), _psnr(still_error, count))


def _inside(state: Motion, canvas: Canvas) -> np.ndarray:
    """Which pixels (H, W) of a frame show a place inside the first one."""
    x, y = axes(canvas.framing.resolution.width, canvas.framing.resolution.height)
    matrix, shift = linear(state.camera, state.aspect)
    places = np.einsum("ij,jhw->ihw", matrix[0], np.stack(np.meshgrid(x, y))) + shift[0][:, None, None]
    return (np.abs(places) < 1).all(0)


def _psnr(error: float, count: float) -> float:
    """dB of a sum of squared errors of bytes; 0 where there was nothing to compare."""
    return float(10 * np.log10(255**2 / max(error / count, 1e-5))) if count else 0.0
