import pytest
import torch

from engine.training.metrics import affine_fit, psnr


def test_psnr_of_a_known_error():
    truth = torch.zeros(2, 3, 8, 8)
    made = truth.clone()
    made[1] += 0.2
    assert psnr(made, truth)[1].item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(made, truth)[0].item() == pytest.approx(100)


def test_psnr_counts_only_what_a_screen_can_show():
    assert psnr(torch.full((1, 3, 4, 4), 3.0), torch.ones(1, 3, 4, 4)).item() == pytest.approx(100)


def test_an_affine_map_is_recovered():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 4, generator=generator)
    weights, bias = torch.randn(4, 3, generator=generator), torch.randn(3, generator=generator)
    found, offset = affine_fit(inputs, inputs @ weights + bias, ridge=0.0)
    torch.testing.assert_close(found.float(), weights, rtol=0, atol=1e-5)
    torch.testing.assert_close(offset.float(), bias, rtol=0, atol=1e-5)
