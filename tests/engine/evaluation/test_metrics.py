"""Metrics against closed forms."""

import math

import cv2
import numpy as np
import pytest

from engine.domain import Resolution
from engine.evaluation import metrics
from engine.pocket.framing import Framing
from engine.pocket.motion import Motion
from engine.pocket.render import Canvas

HEIGHT, WIDTH = 64, 96
WHOLE = np.ones((HEIGHT, WIDTH), bool)


def smooth(seed: int, low: int = 50, high: int = 200) -> np.ndarray:
    """A picture (H, W, 3) with soft detail, in `low` … `high`."""
    coarse = np.random.default_rng(seed).uniform(low, high, (11, 17, 3)).astype(np.float32)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR).round().astype(np.uint8)


def with_grain(picture: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(0, sigma, picture.shape[:2])[..., None]
    return (picture + grain).round().clip(0, 255).astype(np.uint8)


@pytest.fixture
def picture() -> np.ndarray:
    return smooth(0)


def test_equal_pictures_get_the_best_of_every_metric(picture):
    assert metrics.psnr(picture, picture, WHOLE) == pytest.approx(100)
    assert metrics.ssim(picture, picture, WHOLE) == pytest.approx(1)
    assert metrics.camera_error(picture, picture) == 0
    assert metrics.colour_shift(picture, picture, WHOLE) == metrics.contrast_shift(picture, picture, WHOLE) == 0
    assert metrics.sharpness(picture, picture, WHOLE) == 1


def test_psnr_and_colour_shift_of_a_constant_offset(picture):
    offset = picture + np.array([3, 4, 0], np.uint8)
    assert metrics.colour_shift(offset, picture, WHOLE) == pytest.approx(5, abs=1e-3)
    assert metrics.contrast_shift(offset, picture, WHOLE) == pytest.approx(0, abs=1e-3)
    assert metrics.psnr(offset, picture, WHOLE) == pytest.approx(10 * math.log10(255**2 / (25 / 3)), abs=1e-3)


def test_contrast_shift_of_a_stretched_picture(picture):
    stretched = (1.2 * picture.astype(float) - 20).round().astype(np.uint8)
    expected = 0.2 * np.linalg.norm(picture.std((0, 1)))
    assert metrics.contrast_shift(stretched, picture, WHOLE) == pytest.approx(expected, rel=0.01)


def test_what_is_not_seen_is_not_judged(picture):
    seen, changed = WHOLE.copy(), picture.copy()
    seen[20:40, 30:60] = False
    changed[22:38, 32:58] = 0
    for metric in (metrics.psnr, metrics.colour_shift, metrics.contrast_shift):
        assert metric(changed, picture, seen) == metric(picture, picture, seen)
        assert metric(changed, picture, WHOLE) != metric(picture, picture, WHOLE)


def test_a_flat_offset_costs_only_the_luminance_term_of_ssim():
    a, b, c1 = 191.0, 159.0, (0.01 * 255) ** 2
    frames = (np.full((16, 16, 3), level, np.uint8) for level in (a, b))
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert metrics.ssim(*frames, np.ones((16, 16), bool)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("across", "down"), [(0.0, 0.0), (0.05, 0.0), (0.0, -0.08)])
def test_the_camera_is_found_in_another_light(across, down):
    upload = cv2.resize(smooth(3), (3 * WIDTH, 3 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    canvas = Canvas.of(upload, Framing.of(3 * WIDTH, 3 * HEIGHT, Resolution(WIDTH, HEIGHT), margin=1.5))
    moved = Motion.still(1, WIDTH / HEIGHT)
    moved.camera[0, :2], moved.light[0, 0], moved.light[0, 2] = (across, down), -0.3, -0.1
    made, truth = canvas.draw_one(moved), canvas.draw_one(Motion.still(1, WIDTH / HEIGHT))
    expected = math.hypot(across / 2, down / 2 * HEIGHT / WIDTH)  # half-frame units as shares of the width
    assert metrics.camera_error(made, truth) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, -1.0])
def test_dynamic_degree_is_the_share_of_the_asked_change(share):
    before, after = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 140, np.uint8)
    made = np.full((8, 8, 3), 100 + round(40 * share), np.uint8)
    seen = np.ones((8, 8), bool)
    assert metrics.dynamic_degree(made, before, after, before, seen) == pytest.approx(share)


def test_a_change_that_was_not_asked_for_has_no_share(picture):
    assert math.isnan(metrics.dynamic_degree(smooth(5), picture, picture + 2, picture, WHOLE))


def test_a_static_film_is_consistent_and_does_nothing(picture):
    frames = np.repeat(picture[None], 5, axis=0)
    assert metrics.consistency(frames, picture, picture) == pytest.approx(1)
    assert metrics.motion(frames, picture) == 0
    assert metrics.dynamic_degree(frames[-1], picture, smooth(5), picture, WHOLE) == 0


def test_consistency_falls_when_colours_change(picture):
    frames = np.repeat(picture[None], 5, axis=0) // np.array([1, 1, 2], np.uint8)
    assert metrics.consistency(frames, picture, picture) < 0.995


def test_motion_is_the_mean_change_a_frame(picture):
    frames = np.stack([picture + np.uint8(level) for level in (1, 3, 6)])
    assert metrics.motion(frames, picture) == pytest.approx(2)


def test_blur_loses_sharpness_and_grain_adds_it(picture):
    truth = with_grain(picture, 8)
    assert metrics.sharpness(cv2.blur(truth, (3, 3)), truth, WHOLE) < 0.5
    assert metrics.sharpness(with_grain(truth, 8, seed=2), truth, WHOLE) > 1.2


def test_light_alone_changes_no_sharpness(picture):
    truth = with_grain(picture, 8)
    darker = (0.6 * truth.astype(float) + 10).round().astype(np.uint8)
    assert metrics.sharpness(darker, truth, WHOLE) == pytest.approx(1, abs=0.03)
