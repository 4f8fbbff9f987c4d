from itertools import islice

import pytest
import torch

from engine.diffusion.flow import sigma_schedule
from engine.diffusion.sampler import draw_noise, sample

SHAPE = (1, 4, 3, 2, 2)


def test_the_schedule_is_the_published_one():
    """Upstream's schedule: N = 50, shift 5 gives t = 1000, 995.94, 991.74, …, 172.41, 92.59, then 0."""
    timesteps = [1000 * sigma for sigma in sigma_schedule(50, 5.0)]
    assert len(timesteps) == 51
    assert timesteps[:3] == pytest.approx([1000, 995.94, 991.74], abs=0.006)  # published with two decimals
    assert timesteps[-3:] == pytest.approx([172.41, 92.59, 0], abs=0.006)


def test_one_euler_run_by_hand():
    """N = 2, shift 3: sigma 1, 0.75, 0. With v(x) = 2x the path is x, x(1 − 0.5), x·0.5·(1 − 1.5)."""
    noise = torch.full(SHAPE, 8.0)
    steps = list(sample(lambda latents, sigma: 2 * latents, noise, sigma_schedule(2, 3.0)))
    assert [step.index for step in steps] == [1, 2]
    assert torch.allclose(steps[0].latents, torch.tensor(4.0))
    assert torch.allclose(steps[0].clean, torch.tensor(-8.0))  # x − σ·2x at σ = 1
    assert torch.allclose(steps[1].latents, torch.tensor(-2.0))
    assert torch.equal(steps[1].latents, steps[1].clean)


def test_noise_levels_reach_the_model_unrounded():
    seen = []

    def predict(latents, sigma):
        seen.append(1000 * sigma)
        return torch.zeros_like(latents)

    list(sample(predict, torch.zeros(SHAPE), sigma_schedule(4, 5.0)))
    assert seen == pytest.approx([1000, 937.5, 833.3333333, 625])


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_a_model_that_knows_the_answer_is_followed_to_it(prediction):
    noise, latents = draw_noise(SHAPE, 1, torch.device("cpu")), draw_noise(SHAPE, 2, torch.device("cpu"))
    answer = noise - latents if prediction == "velocity" else latents
    steps = list(sample(lambda *_: answer, noise, sigma_schedule(7, 5.0), prediction=prediction))
    for step in steps:
        torch.testing.assert_close(step.clean, latents, rtol=0, atol=2e-6)
    torch.testing.assert_close(steps[-1].latents, latents, rtol=0, atol=2e-6)


def test_latents_stay_float32_when_the_model_answers_in_bfloat16():
    steps = list(
        sample(lambda latents, _: latents.bfloat16(), draw_noise(SHAPE, 1, torch.device("cpu")), [1.0, 0.5, 0])
    )
    assert all(step.latents.dtype == torch.float32 for step in steps)


def test_closing_stops_before_the_next_call_of_the_model():
    calls = []

    def predict(latents, sigma):
        calls.append(sigma)
        return latents

    steps = sample(predict, torch.zeros(SHAPE), sigma_schedule(10, 5.0))
    list(islice(steps, 3))
    steps.close()
    assert len(calls) == 3


def test_noise_depends_on_the_seed_only():
    torch.manual_seed(0)
    first = draw_noise(SHAPE, 5, torch.device("cpu"))
    torch.manual_seed(1)
    assert torch.equal(draw_noise(SHAPE, 5, torch.device("cpu")), first)
    assert not torch.equal(draw_noise(SHAPE, 6, torch.device("cpu")), first)
    assert torch.equal(first, torch.randn(SHAPE, generator=torch.Generator().manual_seed(5)))
