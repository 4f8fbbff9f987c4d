import dataclasses

import pytest
import torch

from engine.diffusion.preview import apply_preview, fit_preview, has_preview, preview_frames, spread


@pytest.mark.parametrize(
    ("of", "steps"),
    [(1, [1]), (4, [1, 2, 3, 4]), (10, list(range(1, 11))), (50, [1, 5, 9])],
)
def test_previews_come_after_each_of_few_steps_and_every_fourth_of_many(of, steps):
    made = [step for step in range(1, of + 1) if has_preview(step, of)]
    assert made[: len(steps)] == steps


def test_long_clips_show_eight_frames_from_first_to_last():
    assert spread(21, 8) == [0, 3, 6, 9, 11, 14, 17, 20]
    assert spread(3, 8) == [0, 1, 2]


@torch.inference_mode()
def test_a_preview_is_small_uint8_rgb(tiny_components):
    frames = preview_frames(torch.randn(1, 16, 21, 6, 10), tiny_components)
    assert frames.shape == (8, 6, 10, 3)
    assert frames.dtype == torch.uint8


@torch.inference_mode()
def test_a_cheap_codec_is_decoded_and_shrunk(tiny_components):
    components = dataclasses.replace(tiny_components, preview=None)
    frames = preview_frames(torch.zeros(1, 16, 1, 40, 24), components)
    assert frames.shape == (1, 160, 96, 3)


class LinearCodec:
    """Latents are a linear image of the mean colour under them: the fit must find its inverse."""

    latent_channels, spatial_stride, temporal_stride = 5, 8, 4

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.matrix = torch.randn(5, 3, generator=generator)
        self.offset = torch.randn(5, generator=generator)

    def encode(self, pixels):
        colours = torch.nn.functional.avg_pool3d(pixels[:, :, :1], (1, 8, 8)).expand(-1, -1, 2, -1, -1)
        return torch.einsum("bchwk,lc->blhwk", colours, self.matrix) + self.offset.view(1, 5, 1, 1, 1)


def test_the_fit_recovers_a_linear_codec():
    codec = LinearCodec()
    preview = fit_preview(codec, torch.device("cpu"))
    pixels = torch.zeros(1, 3, 5, 16, 16)
    pixels[:, 0], pixels[:, 1], pixels[:, 2] = 0.5, -0.25, 0.75
    shown = apply_preview(codec.encode(pixels), preview)
    assert shown.shape == (1, 3, 2, 2, 2)
    torch.testing.assert_close(shown[0, :, 0, 0, 0], torch.tensor([0.5, -0.25, 0.75]), rtol=0, atol=0.02)


def test_the_fit_is_the_same_every_time(tiny_components):
    first = fit_preview(tiny_components.codec, torch.device("cpu"))
    torch.manual_seed(99)
    assert torch.equal(fit_preview(tiny_components.codec, torch.device("cpu")), first)
