"""Numbers about a generated clip beside the true one. Each metric is a function of frames and gives one number.

Frames are float (n, 3, H, W), pictures (3, H, W), both in [−1, 1]. "Of 255" means in levels of an 8-bit picture.
A number that a clip cannot have (the share done of a change that was not asked for) is NaN.
"""

from dataclasses import dataclass

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional

from engine.training.metrics import psnr as psnr_of_batch
from engine.training.world import LUMA

LEVELS = 127.5  # 8-bit levels per unit of [−1, 1]
REACH = 8  # pixels that the search for the subject goes each way
BLOCK = 8  # pixels; the pocket codec's patch, whose grid is what drift leaves first
LEAST_CHANGE = 8.0  # of 255, root mean square: a move that is repeated changes up to 4, any other at least 18
SUBJECT_SHARE = 3  # the subject box is the frame's sides over this


@dataclass(frozen=True)
class Box:
    """Pixels [top, bottom) × [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    def crop(self, pictures: Tensor) -> Tensor:
        return pictures[..., self.top : self.bottom, self.left : self.right]


def luma(pictures: Tensor) -> Tensor:
    """(…, 3, H, W) -> (…, H, W), Rec. 601."""
    return (pictures * pictures.new_tensor(LUMA).view(3, 1, 1)).sum(-3)


def psnr(frames: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, mean over frames; at most 100, which equal frames get."""
    return psnr_of_batch(frames, truth).mean().item()


def ssim(frames: Tensor, truth: Tensor) -> float:
    """Structural similarity, mean over frames, in [−1, 1], 1 for equal frames (Wang et al. 2004, scikit-image).

    Windows of 7×7 pixels, so sides of 7 at least.
    """
    pairs = ((x.clamp(-1, 1).permute(1, 2, 0).numpy() for x in pair) for pair in zip(frames, truth, strict=True))
    return float(np.mean([structural_similarity(a, b, channel_axis=2, data_range=2.0) for a, b in pairs]))


def background_psnr(frames: Tensor, truth: Tensor, subject: Box) -> float:
    """PSNR in dB of what lies outside the subject box, mean over frames."""
    outside = torch.ones(frames.shape[-2:], dtype=torch.bool)
    subject.crop(outside).fill_(False)
    return psnr_of_batch(frames[..., outside], truth[..., outside]).mean().item()


def subject_box(picture: Tensor) -> Box:
    """The most detailed box of a third of the picture's sides that leaves `REACH` pixels around it where there is room.

    A stand-in: these pictures have no annotated subject. Detail is the energy of the luma's gradient.
    """
    height, width = picture.shape[-2:]
    box_height, box_width = height // SUBJECT_SHARE, width // SUBJECT_SHARE
    margin_y, margin_x = min(REACH, (height - box_height) // 2), min(REACH, (width - box_width) // 2)
    plane = luma(picture)
    down, right = plane.diff(dim=0).square(), plane.diff(dim=1).square()
    energy = functional.pad(down, (0, 0, 0, 1)) + functional.pad(right, (0, 1))
    inner = energy[margin_y : height - margin_y, margin_x : width - margin_x]
    sums = functional.avg_pool2d(inner[None], (box_height, box_width), stride=1)[0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return Box(top + margin_y, left + margin_x, top + margin_y + box_height, left + margin_x + box_width)


def position_error(picture: Tensor, truth: Tensor, subject: Box) -> float:
    """How far the true subject's best match lies from its place, as a share of the frame's width.

    Normalised cross-correlation of luma within ±`REACH` pixels (whole pixels, inside the frame), so light and contrast
    do not matter. NaN when the true subject is one flat colour.
    """
    patch = subject.crop(luma(truth))
    if patch.std() * LEVELS < 1:
        return float("nan")
    height, width = truth.shape[-2:]
    top, left = max(subject.top - REACH, 0), max(subject.left - REACH, 0)
    bottom, right = min(subject.bottom + REACH, height), min(subject.right + REACH, width)
    scores = cross_correlation(luma(picture)[top:bottom, left:right], patch)
    down = torch.arange(scores.shape[0])[:, None] + (top - subject.top)
    across = torch.arange(scores.shape[1])[None] + (left - subject.left)
    distance = (down.square() + across.square()).double().sqrt()
    best = (scores - 1e-6 * distance).argmax()  # of equal matches the nearest
    return (distance.flatten()[best] / width).item()


def cross_correlation(region: Tensor, patch: Tensor) -> Tensor:
    """Normalised cross-correlation in [−1, 1] of `patch` (h, w) with every place of `region` (H, W) that holds it."""
    windows = region.unfold(0, patch.shape[0], 1).unfold(1, patch.shape[1], 1).double()
    windows = windows - windows.mean((-2, -1), keepdim=True)
    patch = (patch - patch.mean()).double()
    norms = windows.square().sum((-2, -1)).sqrt() * patch.square().sum().sqrt()
    return (windows * patch).sum((-2, -1)) / norms.clamp(min=1e-9)


def colour_shift(picture: Tensor, truth: Tensor) -> float:
    """Distance of the mean colours in RGB, of 255. Not Lab: drift clips channels, which RGB shows as what it is."""
    return LEVELS * (picture - truth).mean((-2, -1)).norm().item()


def contrast_shift(picture: Tensor, truth: Tensor) -> float:
    """Distance of the channels' standard deviations in RGB, of 255."""
    return LEVELS * (picture.std((-2, -1)) - truth.std((-2, -1))).norm().item()


def sharpness(picture: Tensor, truth: Tensor) -> float:
    """Laplacian energy over the truth's: 1 is the same, less is blur, more is grain. It cannot tell grain from detail.

    One squared level of 255 is added to both, so that a flat truth is no division by zero.
    """
    energies = [laplacian(luma(x)).square().mean() * LEVELS**2 + 1 for x in (picture, truth)]
    return (energies[0] / energies[1]).item()


def block_grid(picture: Tensor, truth: Tensor) -> float:
    """How much steeper 8-pixel borders are than other places, over the same for the truth: 1 is no more of a grid."""
    return border_ratio(picture) / border_ratio(truth)


def border_ratio(picture: Tensor) -> float:
    """Gradient energy across 8-pixel block borders over that elsewhere; one squared level is added to both."""
    plane = luma(picture)
    borders, elsewhere = [], []
    for lines in (plane, plane.T):
        steps = lines.diff(dim=0)
        at_border = torch.arange(len(steps)) % BLOCK == BLOCK - 1
        borders.append(steps[at_border].flatten())
        elsewhere.append(steps[~at_border].flatten())
    energies = [torch.cat(part).square().mean() * LEVELS**2 + 1 for part in (borders, elsewhere)]
    return (energies[0] / energies[1]).item()


def dynamic_degree(picture: Tensor, start: Tensor, truth: Tensor, true_start: Tensor) -> float:
    """Share of the true change that was performed: the slope, through 0, of the generated change over the true one.

    1 is all of it, 0 nothing. `start` is the frame that the clip was given. Not VBench's dynamic degree (the share of
    films whose optical flow is large), which cannot say whether the motion is the one that was asked for. NaN when
    the true change is below `LEAST_CHANGE`.
    """
    made, asked = picture - start, truth - true_start
    if asked.square().mean().sqrt() * LEVELS < LEAST_CHANGE:
        return float("nan")
    return ((made * asked).sum() / asked.square().sum()).item()


def motion(frames: Tensor, start: Tensor) -> float:
    """Mean absolute change from frame to frame, of 255; the first frame is compared with `start`, the one before it."""
    steps = torch.cat([start[None], frames]).diff(dim=0)
    return LEVELS * steps.abs().mean().item()


def consistency(frames: Tensor, start: Tensor, first: Tensor) -> float:
    """How alike frames are to the film's first frame and to their neighbours, in [0, 1]; 1 for a picture that stands.

    The form of VBench's subject consistency, mean of (cos(f_t, f_1) + cos(f_t, f_{t−1})) / 2, on means of 8×8 pixel
    blocks instead of DINO or CLIP features: it knows colours and places, not things.
    """
    features = coarse(torch.cat([first[None], start[None], frames]))
    to_first = features[2:] @ features[0]
    to_previous = (features[2:] * features[1:-1]).sum(1)
    return ((to_first + to_previous) / 2).clamp(0, 1).mean().item()


def coarse(frames: Tensor) -> Tensor:
    """Unit vectors (n, D) of block means in [0, 1] (black is not the middle)."""
    blocks = functional.avg_pool2d((frames + 1) / 2, BLOCK).flatten(1)
    return functional.normalize(blocks, dim=1)


def laplacian(plane: Tensor) -> Tensor:
    """(H, W) -> (H − 2, W − 2): four times the middle less its four neighbours."""
    middle = plane[1:-1, 1:-1]
    return 4 * middle - plane[:-2, 1:-1] - plane[2:, 1:-1] - plane[1:-1, :-2] - plane[1:-1, 2:]
