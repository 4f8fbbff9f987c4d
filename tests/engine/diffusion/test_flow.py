from itertools import pairwise

import pytest
import torch

from engine.diffusion import flow

LATENTS, NOISE = torch.randn(2, 2, 4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([0.3, 0.85], dtype=torch.float64).view(2, 1, 1, 1, 1)
VELOCITY = flow.to_velocity(LATENTS, NOISE)
EXACT = {"rtol": 0, "atol": 1e-12}


def test_the_path_runs_from_latents_to_noise():
    assert torch.equal(flow.add_noise(LATENTS, NOISE, 0.0), LATENTS)
    assert torch.equal(flow.add_noise(LATENTS, NOISE, 1.0), NOISE)


def test_velocity_is_the_derivative_of_the_path():
    step = 1e-6
    ahead, behind = flow.add_noise(LATENTS, NOISE, SIGMA + step), flow.add_noise(LATENTS, NOISE, SIGMA - step)
    torch.testing.assert_close((ahead - behind) / (2 * step), VELOCITY, rtol=0, atol=1e-8)


def test_integrating_with_the_true_velocity_recovers_both_ends():
    noisy = flow.add_noise(LATENTS, NOISE, SIGMA)
    torch.testing.assert_close(flow.to_latents(noisy, VELOCITY, SIGMA), LATENTS, **EXACT)
    torch.testing.assert_close(flow.to_noise(noisy, VELOCITY, SIGMA), NOISE, **EXACT)


def test_a_prediction_of_the_latents_is_as_good_as_one_of_the_velocity():
    noisy = flow.add_noise(LATENTS, NOISE, SIGMA)
    torch.testing.assert_close(flow.velocity_from_latents(noisy, LATENTS, SIGMA), VELOCITY, **EXACT)


def test_euler_steps_of_any_size_stay_on_the_path():
    latents, sigmas = NOISE, flow.sigma_schedule(5, shift=5.0)
    for sigma, next_sigma in pairwise(sigmas):
        latents = flow.euler_step(latents, VELOCITY, sigma, next_sigma)
        torch.testing.assert_close(latents, flow.add_noise(LATENTS, NOISE, next_sigma), **EXACT)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_a_schedule_falls_from_one_to_zero(shift):
    sigmas = flow.sigma_schedule(10, shift)
    assert len(sigmas) == 11
    assert (sigmas[0], sigmas[-1]) == (1.0, 0.0)
    assert sigmas == sorted(sigmas, reverse=True)


def test_shifting_is_undone_by_the_inverse_shift():
    torch.testing.assert_close(flow.shift_sigma(flow.shift_sigma(SIGMA, 5.0), 1 / 5), SIGMA, **EXACT)
