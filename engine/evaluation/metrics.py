"""Numbers about a generated clip beside the true one. Each metric is a function of frames and gives one number.

Frames are uint8 (n, H, W, 3), pictures (H, W, 3); `seen` (H, W) says which pixels are judged. "Of 255" means in levels
of an 8-bit picture. A number that a clip cannot have (the share done of a change that was not asked for) is NaN.
"""

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from engine.evaluation.chains import CORNERS
from engine.pocket import gates
from engine.pocket.encode import fit_frame
from engine.pocket.motion import linear

LEAST_CHANGE = 8.0  # of 255, root mean square: a move that is repeated changes less, any other more
FIT_SIDE = 160  # pixels; the camera is found on frames of this size to a hundredth of their width
BLOCK = 8  # pixels that are one feature of `consistency`


def luma(picture: np.ndarray) -> np.ndarray:
    """(H, W) float32, 0 to 255, Rec. 601."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)


def psnr(picture: np.ndarray, truth: np.ndarray, seen: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; at most 100, which equal pictures get."""
    return gates.psnr(picture[seen], truth[seen])


def ssim(picture: np.ndarray, truth: np.ndarray, seen: np.ndarray) -> float:
    """Structural similarity of luma in [−1, 1], 1 for equal pictures (Wang et al. 2004, scikit-image).

    Windows of 7×7 pixels, so sides of 7 at least.
    """
    _, places = structural_similarity(luma(picture), luma(truth), data_range=255, full=True)
    return float(places[seen].mean())


def camera_error(picture: np.ndarray, truth: np.ndarray) -> float:
    """How far the frame's corners lie, on average, from where they should: a share of its width.

    From a similarity and a light fitted between the two, so light and contrast do not matter.
    """
    height, width = truth.shape[:2]
    scale = min(1.0, FIT_SIDE / max(height, width))
    size = (round(width * scale), round(height * scale))
    small = [cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (truth, picture)]
    matrix, shift = linear(fit_frame(*small).camera, width / height)
    off = (CORNERS @ matrix[0].T + shift[0] - CORNERS) * (0.5, 0.5 * height / width)
    return float(np.linalg.norm(off, axis=1).mean())


def colour_shift(picture: np.ndarray, truth: np.ndarray, seen: np.ndarray) -> float:
    """Distance of the mean colours in RGB, of 255. Not Lab: drift clips channels, which RGB shows as what it is."""
    return float(np.linalg.norm(picture[seen].mean(0) - truth[seen].mean(0)))


def contrast_shift(picture: np.ndarray, truth: np.ndarray, seen: np.ndarray) -> float:
    """Distance of the channels' standard deviations in RGB, of 255."""
    return float(np.linalg.norm(picture[seen].std(0) - truth[seen].std(0)))


def sharpness(picture: np.ndarray, truth: np.ndarray, seen: np.ndarray) -> float:
    """Detail over the truth's: 1 is the same, less is blur, more is grain. It cannot tell grain from detail."""
    return detail(picture, seen) / detail(truth, seen)


def detail(picture: np.ndarray, seen: np.ndarray) -> float:
    """Mean absolute Laplacian of luma over its standard deviation: the same in any light that clips nothing.

    A level of 255 is added to both, so that a flat picture is no division by zero.
    """
    plane = luma(picture)
    fine = np.abs(cv2.Laplacian(plane, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE))
    return float((fine[seen].mean() + 1) / (plane[seen].std() + 1))


def dynamic_degree(
    picture: np.ndarray, start: np.ndarray, truth: np.ndarray, true_start: np.ndarray, seen: np.ndarray
) -> float:
    """Share of the true change that was performed: the slope, through 0, of the generated change over the true one.

    1 is all of it, 0 nothing. `start` is the frame that the clip was given. Not VBench's dynamic degree (the share of
    films whose optical flow is large), which cannot say whether the motion is the one that was asked for. NaN when
    the true change is below `LEAST_CHANGE`.
    """
    made = picture[seen].astype(np.float32) - start[seen]
    asked = truth[seen].astype(np.float32) - true_start[seen]
    if np.sqrt(np.square(asked).mean()) < LEAST_CHANGE:
        return float("nan")
    return float((made * asked).sum() / np.square(asked).sum())


def motion(frames: np.ndarray, start: np.ndarray) -> float:
    """Mean absolute change from frame to frame, of 255; the first frame is compared with `start`, the one before it."""
    before = np.concatenate([start[None], frames[:-1]])
    return float(cv2.absdiff(frames.reshape(-1), before.reshape(-1)).mean())


def consistency(frames: np.ndarray, start: np.ndarray, first: np.ndarray) -> float:
    """How alike frames are to the film's first frame and to their neighbours, in [0, 1]; 1 for a picture that stands.

    The form of VBench's subject consistency, mean of (cos(f_t, f_1) + cos(f_t, f_{t−1})) / 2, on means of 8×8 pixel
    blocks instead of DINO or CLIP features: it knows colours and places, not things.
    """
    features = np.stack([coarse(frame) for frame in (first, start, *frames)])
    to_first = features[2:] @ features[0]
    to_previous = (features[2:] * features[1:-1]).sum(1)
    return float(((to_first + to_previous) / 2).clip(0, 1).mean())


def coarse(frame: np.ndarray) -> np.ndarray:
    """Unit vector (D,) of block means."""
    height, width = frame.shape[:2]
    blocks = cv2.resize(frame, (max(1, width // BLOCK), max(1, height // BLOCK)), interpolation=cv2.INTER_AREA)
    features = blocks.astype(np.float64).ravel()
    return features / max(np.linalg.norm(features), 1e-9)
