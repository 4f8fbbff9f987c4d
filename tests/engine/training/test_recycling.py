"""Equations 1–6 of the paper, in float64, written out in its own symbols (t = 1 − sigma, V = −velocity)."""

import pytest
import torch

from engine.training.recycling import (
    MASK_CHANNELS,
    Chances,
    draw_flags,
    inject,
    integrate_both_ways,
    modulate,
    residual_errors,
    timestep_weight,
    window,
)

SHAPE = (3, 5, 4, 2, 3)  # (B, C, f, h, w)


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*(shape or SHAPE), generator=generator, dtype=torch.float64)

    latents, noise, latent_errors, noise_errors, predicted = (draw() for _ in range(5))
    condition = draw(3, MASK_CHANNELS + 5, 4, 2, 3)
    sigma = torch.tensor([0.02, 0.6, 1.0], dtype=torch.float64).view(3, 1, 1, 1, 1)
    return latents, noise, condition, sigma, 0.1 * latent_errors, 0.1 * noise_errors, predicted


def close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["none", "noise", "video", "both"])
def test_injection_is_equations_1_3_and_6(drawn, case):
    latents, noise, condition, sigma, latent_errors, noise_errors, _ = drawn
    e_vid = latent_errors if case in ("video", "both") else None
    e_noi = noise_errors if case in ("noise", "both") else None
    made = inject(latents, noise, condition, sigma, latent_errors=e_vid, noise_errors=e_noi)
    t = 1 - sigma
    x_vid = latents + (e_vid if e_vid is not None else 0)
    x_noi = noise + (e_noi if e_noi is not None else 0)
    close(made.noisy_latents, t * x_vid + (1 - t) * x_noi)
    close(-made.velocity, latents - x_noi)  # V^rcy = X_vid − X̃_noi: clean video, errored noise


def test_image_errors_meet_the_first_frames_and_spare_the_mask(drawn):
    latents, noise, condition, sigma, *_ = drawn
    errors = torch.ones(3, 5, 2, 2, 3, dtype=torch.float64)
    before = condition.clone()
    made = inject(latents, noise, condition, sigma, image_errors=errors)
    close(made.condition[:, MASK_CHANNELS:, :2], before[:, MASK_CHANNELS:, :2] + 1)
    assert torch.equal(made.condition[:, :MASK_CHANNELS], before[:, :MASK_CHANNELS])
    assert torch.equal(made.condition[:, :, 2:], before[:, :, 2:])
    assert torch.equal(condition, before)  # the caller's tensor is not written to


def test_integration_is_equation_4(drawn):
    latents, noise, condition, sigma, *_, predicted = drawn
    made = inject(latents, noise, condition, sigma)
    t, v = 1 - sigma, -predicted
    reached_latents, reached_noise = integrate_both_ways(made.noisy_latents, predicted, sigma)
    close(reached_latents, made.noisy_latents + (1 - t) * v)
    close(reached_noise, made.noisy_latents - t * v)


def test_the_true_velocity_leads_back_to_both_ends(drawn):
    latents, noise, condition, sigma, *_ = drawn
    made = inject(latents, noise, condition, sigma)
    reached_latents, reached_noise = integrate_both_ways(made.noisy_latents, made.velocity, sigma)
    close(reached_latents, latents)
    close(reached_noise, noise)


def test_case_a_without_injected_error_the_residual_is_what_misses_the_clean_ends(drawn):
    latents, noise, condition, sigma, *_, predicted = drawn
    made = inject(latents, noise, condition, sigma, image_errors=torch.ones(3, 5, 3, 2, 3, dtype=torch.float64))
    errors = residual_errors(made.noisy_latents, predicted, made.velocity, sigma)
    reached_latents, reached_noise = integrate_both_ways(made.noisy_latents, predicted, sigma)
    close(errors.latents, reached_latents - latents)
    close(errors.noise, reached_noise - noise)


def test_case_b_with_noise_error_the_references_are_clean_video_and_errored_noise(drawn):
    latents, noise, condition, sigma, _, noise_errors, predicted = drawn
    made = inject(latents, noise, condition, sigma, noise_errors=noise_errors)
    errors = residual_errors(made.noisy_latents, predicted, made.velocity, sigma)
    reached_latents, reached_noise = integrate_both_ways(made.noisy_latents, predicted, sigma)
    close(errors.latents, reached_latents - latents)
    close(errors.noise, reached_noise - (noise + noise_errors))


def test_case_c_with_video_error_the_paper_refers_to_clean_video(drawn):
    latents, noise, condition, sigma, latent_errors, _, predicted = drawn
    made = inject(latents, noise, condition, sigma, latent_errors=latent_errors)
    errors = residual_errors(made.noisy_latents, predicted, made.velocity, sigma, clean_latents=latents)
    reached_latents, _ = integrate_both_ways(made.noisy_latents, predicted, sigma)
    close(errors.latents, reached_latents - latents)


def test_case_c_of_the_authors_code_keeps_only_what_the_prediction_adds(drawn):
    latents, noise, condition, sigma, latent_errors, noise_errors, predicted = drawn
    made = inject(latents, noise, condition, sigma, latent_errors=latent_errors, noise_errors=noise_errors)
    errors = residual_errors(made.noisy_latents, predicted, made.velocity, sigma)
    close(errors.latents, -sigma * (predicted - made.velocity))
    close(errors.noise, (1 - sigma) * (predicted - made.velocity))


def test_a_perfect_prediction_leaves_no_error(drawn):
    latents, noise, condition, sigma, latent_errors, noise_errors, _ = drawn
    made = inject(latents, noise, condition, sigma, latent_errors=latent_errors, noise_errors=noise_errors)
    errors = residual_errors(made.noisy_latents, made.velocity, made.velocity, sigma)
    assert errors.latents.abs().max() == 0
    assert errors.noise.abs().max() == 0


def test_flags_have_their_probabilities_and_a_clean_step_has_none():
    flags = draw_flags(200_000, Chances(0.1, 0.9, 0.7, 0.5), torch.Generator().manual_seed(0))
    shares = [flag.float().mean().item() for flag in (flags.noise, flags.latents, flags.image, flags.clean)]
    assert shares == pytest.approx([0.05, 0.45, 0.35, 0.5], abs=0.005)
    assert not (flags.clean & (flags.noise | flags.latents | flags.image)).any()
    both = (flags.noise & flags.latents).float().mean().item()
    assert both == pytest.approx(0.5 * 0.1 * 0.9, abs=0.005)  # independent, given a step that is not clean


def test_a_window_is_consecutive_and_starts_where_it_was_told():
    errors = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(2, 3, 8, 2, 2)
    cut = window(errors, 3, torch.tensor([0, 5]))
    assert cut.shape == (2, 3, 3, 2, 2)
    assert cut[:, 0, :, 0, 0].tolist() == [[0, 1, 2], [5, 6, 7]]


def test_modulation_stays_within_its_factor_and_zero_leaves_the_errors_alone():
    errors = torch.ones(5000, 1, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    assert modulate(errors, 0.0, generator) is errors
    scaled = modulate(errors, 0.3, generator).flatten()
    assert 0.7 <= scaled.min() < 0.71 and 1.29 < scaled.max() <= 1.3
    assert scaled.mean().item() == pytest.approx(1.0, abs=0.01)


def test_the_timestep_weight_has_upstreams_values():
    """0 at timestep 1000, at most 2.076, 0.032 near timestep 5, mean 1 over the training timesteps."""
    steps = torch.arange(1000, dtype=torch.float64)
    levels = 1 - steps / 1000
    sigma = 5 * levels / (1 + 4 * levels)
    weights = timestep_weight(sigma)
    assert weights[0].item() == pytest.approx(0.0, abs=1e-9)
    assert weights.max().item() == pytest.approx(2.076, abs=1e-3)
    assert weights[-1].item() == pytest.approx(0.032, abs=1e-3)
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-9)
