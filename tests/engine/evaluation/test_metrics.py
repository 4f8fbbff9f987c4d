"""Metrics against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from engine.evaluation import metrics
from engine.evaluation.metrics import Box

HEIGHT, WIDTH = 64, 96
SUBJECT = Box(20, 30, 41, 62)


def smooth(seed: int, count: int = 1) -> torch.Tensor:
    """Pictures (count, 3, H, W) in [−0.6, 0.6] with soft detail."""
    coarse = torch.rand(count, 3, 11, 17, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.6
    return functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)


@pytest.fixture
def picture() -> torch.Tensor:
    return smooth(0)[0]


def test_equal_frames_get_the_best_of_every_metric(picture):
    frames = smooth(1, 3)
    assert metrics.psnr(frames, frames) == pytest.approx(100, abs=1e-3)
    assert metrics.ssim(frames, frames) == pytest.approx(1)
    assert metrics.background_psnr(frames, frames, SUBJECT) == pytest.approx(100, abs=1e-3)
    assert metrics.position_error(picture, picture, SUBJECT) == 0
    assert metrics.colour_shift(picture, picture) == metrics.contrast_shift(picture, picture) == 0
    assert metrics.sharpness(picture, picture) == metrics.block_grid(picture, picture) == 1


def test_psnr_and_colour_shift_of_a_constant_offset(picture):
    offset = torch.tensor([3, 4, 0]).view(3, 1, 1) / 127.5
    assert metrics.colour_shift(picture + offset, picture) == pytest.approx(5, abs=1e-3)
    assert metrics.contrast_shift(picture + offset, picture) == pytest.approx(0, abs=1e-3)
    expected = 10 * math.log10(255**2 / (25 / 3))
    assert metrics.psnr((picture + offset)[None], picture[None]) == pytest.approx(expected, abs=1e-3)


def test_contrast_shift_of_a_stretched_picture(picture):
    stretched = 1.2 * picture
    expected = 127.5 * 0.2 * picture.std((-2, -1)).norm()
    assert metrics.contrast_shift(stretched, picture) == pytest.approx(expected.item(), rel=1e-4)


def test_ssim_of_flat_frames_is_its_luminance_term():
    a, b, c1 = 0.5, 0.25, (0.01 * 2) ** 2
    frames = torch.full((2, 3, 16, 16), a), torch.full((2, 3, 16, 16), b)
    assert metrics.ssim(*frames) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-5)


def test_background_psnr_does_not_see_the_subject(picture):
    changed = picture.clone()
    SUBJECT.crop(changed).add_(0.5)
    assert metrics.background_psnr(changed[None], picture[None], SUBJECT) == pytest.approx(100, abs=1e-3)
    changed[:, 0, 0] += 0.5
    assert metrics.background_psnr(changed[None], picture[None], SUBJECT) < 60


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, -3), (-8, 8), (5, 0)])
def test_a_shifted_subject_is_found_exactly_in_another_light(picture, down, right):
    moved = picture.roll((down, right), (1, 2))
    assert metrics.position_error(0.4 * moved - 0.3, picture, SUBJECT) == pytest.approx(math.hypot(down, right) / WIDTH)


def test_the_place_of_a_flat_subject_is_unknown():
    flat = torch.zeros(3, HEIGHT, WIDTH)
    assert math.isnan(metrics.position_error(flat, flat, SUBJECT))


def test_a_picture_without_any_match_does_not_move_the_subject(picture):
    assert metrics.position_error(torch.zeros_like(picture), picture, SUBJECT) == 0


def test_the_subject_box_is_where_the_detail_is():
    picture = torch.zeros(3, HEIGHT, WIDTH)
    picture[:, 30:45, 50:70] = smooth(3)[0, :, :15, :20] + torch.rand(3, 15, 20, generator=torch.manual_seed(0))
    box = metrics.subject_box(picture)
    assert (box.bottom - box.top, box.right - box.left) == (HEIGHT // 3, WIDTH // 3)
    assert box.top <= 30 and box.bottom >= 45 and box.left <= 50 and box.right >= 70
    assert min(box.top, box.left, HEIGHT - box.bottom, WIDTH - box.right) >= metrics.REACH


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, -1.0])
def test_dynamic_degree_is_the_share_of_the_asked_change(picture, share):
    after = smooth(5)[0]
    made = picture + share * (after - picture)
    assert metrics.dynamic_degree(made, picture, after, picture) == pytest.approx(share, abs=1e-5)


def test_a_change_that_was_not_asked_for_has_no_share(picture):
    assert math.isnan(metrics.dynamic_degree(smooth(5)[0], picture, picture + 0.01, picture))


def test_a_static_film_is_consistent_and_does_nothing(picture):
    frames = picture.expand(5, -1, -1, -1)
    assert metrics.consistency(frames, picture, picture) == pytest.approx(1)
    assert metrics.motion(frames, picture) == 0
    assert metrics.dynamic_degree(frames[-1], picture, smooth(5)[0], picture) == 0


def test_consistency_falls_when_colours_change(picture):
    frames = picture.expand(5, -1, -1, -1)
    assert metrics.consistency(frames * torch.tensor([1, 1, -1]).view(3, 1, 1), picture, picture) < 0.995


def test_motion_is_the_mean_change_a_frame(picture):
    frames = torch.stack([picture + level / 127.5 for level in (1, 3, 6)])
    assert metrics.motion(frames, picture) == pytest.approx(2, abs=1e-3)


def test_blur_loses_sharpness_and_grain_adds_it(picture):
    truth = picture + 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    blurred = functional.avg_pool2d(functional.pad(truth[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    grain = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    assert metrics.sharpness(blurred, truth) < 0.3
    assert metrics.sharpness(grain, truth) == pytest.approx(2, abs=0.2)  # equal independent energies add up


def test_a_grid_of_patches_raises_the_block_score_and_grain_does_not(picture):
    levels = torch.randn(3, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1)) * 8 / 127.5
    grid = levels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    scores = [metrics.block_grid(picture + strength * grid, picture) for strength in (0.0, 0.5, 1.0)]
    assert scores[0] == 1 and scores[2] > scores[1] > 1.2
    grain = picture + 0.05 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(2))
    assert metrics.block_grid(grain, picture) == pytest.approx(1, abs=0.1)


def test_a_grid_that_is_off_the_patches_is_no_block_grid(picture):
    levels = torch.randn(3, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1)) * 8 / 127.5
    grid = levels.repeat_interleave(8, 1).repeat_interleave(8, 2).roll((4, 4), (1, 2))
    assert metrics.block_grid(picture + grid, picture) < 1


def test_cross_correlation_equals_numpys(picture):
    region, patch = picture[0, :12, :14], picture[1, :5, :6]
    scores = metrics.cross_correlation(region, patch)
    assert scores.shape == (8, 9)
    expected = np.corrcoef(region[3:8, 2:8].flatten().numpy(), patch.flatten().numpy())[0, 1]
    assert scores[3, 2].item() == pytest.approx(expected, abs=1e-6)
