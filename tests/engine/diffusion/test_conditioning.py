import numpy as np
import pytest
import torch

from engine.diffusion.conditioning import Counters, TextCache, condition_pixels, prepare
from engine.errors import GenerationError
from engine.models.untrained import WanSize, build
from engine.variants import FILM, SHOT

CPU = torch.device("cpu")


@pytest.fixture
def conditioned(tiny_components):
    """Prepares a request with fresh counters and returns both."""

    def make(request, padding, *, needs_negative=True, counters=None):
        counters = counters or Counters()
        with torch.inference_mode():
            return counters, prepare(
                request,
                tiny_components,
                variant=SHOT if padding == "anchor" else FILM,
                texts=TextCache(tiny_components.encode_text, counters),
                max_sequence_length=512,
                needs_negative=needs_negative,
                counters=counters,
            )

    return make


def expected_y(frames: list[np.ndarray], num_frames: int) -> torch.Tensor:
    """Mask and latents (up to about ±8) written out with stock modules; a frame of None is mid-grey."""
    vae = build(WanSize()).vae
    video = torch.zeros(1, 3, num_frames, 32, 32)
    for index, frame in enumerate(frames):
        if frame is not None:
            video[0, :, index] = torch.from_numpy(frame.astype(np.float32) * 2 / 255 - 1).permute(2, 0, 1)
    with torch.no_grad():
        mu = vae.encode(video).latent_dist.mode()
    for channel in range(16):
        mu[:, channel] = (mu[:, channel] - vae.config.latents_mean[channel]) / vae.config.latents_std[channel]
    frame_mask = torch.zeros(1, num_frames, 4, 4)
    frame_mask[:, 0] = 1
    entries = torch.cat([frame_mask[:, :1].repeat(1, 4, 1, 1), frame_mask[:, 1:]], dim=1)
    mask = entries.view(1, (num_frames + 3) // 4, 4, 4, 4).transpose(1, 2)
    return torch.cat([mask, mu], dim=1)


def test_film_later_clips_encode_five_frames_and_grey_together(clip_request, conditioned):
    request = clip_request(num_condition_frames=5)
    _, conditioning = conditioned(request, "zeros")
    expected = expected_y([*request.condition_frames, *[None] * 4], 9)
    assert conditioning.condition_latents.shape == (1, 20, 3, 4, 4)
    torch.testing.assert_close(conditioning.condition_latents, expected, rtol=0, atol=3e-5)


def test_film_first_clip_encodes_one_frame_and_grey(clip_request, conditioned):
    request = clip_request()
    _, conditioning = conditioned(request, "zeros")
    expected = expected_y([*request.condition_frames, *[None] * 8], 9)
    torch.testing.assert_close(conditioning.condition_latents, expected, rtol=0, atol=3e-5)


def test_shot_fills_up_with_the_anchor_not_with_the_condition_frame(clip_request, conditioned):
    request = clip_request(variant="shot")
    assert (request.anchor != request.condition_frames[0]).any()
    _, conditioning = conditioned(request, "anchor")
    expected = expected_y([request.condition_frames[0], *[request.anchor] * 8], 9)
    torch.testing.assert_close(conditioning.condition_latents, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("num_condition_frames", [1, 5])
def test_the_mask_marks_latent_frame_0_only_even_with_five_motion_frames(
    clip_request, conditioned, num_condition_frames
):
    _, conditioning = conditioned(clip_request(num_condition_frames=num_condition_frames), "zeros")
    mask = conditioning.condition_latents[:, :4]
    assert (mask[:, :, 0] == 1).all()
    assert (mask[:, :, 1:] == 0).all()


def test_zero_padding_is_mid_grey_pixels_not_zero_latents(clip_request, conditioned):
    request = clip_request()
    assert (condition_pixels(request, "zeros", CPU)[:, :, 1:] == 0).all()
    _, conditioning = conditioned(request, "zeros")
    assert conditioning.condition_latents[:, 4:, 1:].abs().min() > 0


def test_clip_looks_at_the_first_condition_frame_never_at_the_anchor(clip_request, conditioned, tiny_components):
    request = clip_request(num_condition_frames=5)
    _, conditioning = conditioned(request, "zeros")
    with torch.inference_mode():
        first = tiny_components.encode_image(
            torch.from_numpy(request.condition_frames[0] / 127.5 - 1).float().permute(2, 0, 1)[None]
        )
        anchor = tiny_components.encode_image(
            torch.from_numpy(request.anchor / 127.5 - 1).float().permute(2, 0, 1)[None]
        )
    torch.testing.assert_close(conditioning.image_embeds, first, rtol=0, atol=1e-5)
    assert (anchor - first).abs().max() > 1e-3


def test_the_negative_prompt_is_encoded_only_when_guidance_needs_it(clip_request, conditioned):
    counters, conditioning = conditioned(clip_request(), "zeros", needs_negative=False)
    assert conditioning.negative_prompt_embeds is None
    assert counters.text_encoder_calls == 1
    counters, conditioning = conditioned(clip_request(), "zeros")
    assert conditioning.negative_prompt_embeds.shape == (1, 512, 32)
    assert counters.text_encoder_calls == 2


def test_every_frame_is_encoded_once(clip_request, conditioned):
    counters, _ = conditioned(clip_request(num_condition_frames=5), "zeros")
    assert counters.frames_encoded == 9
    assert counters.image_encoder_calls == 1


def test_more_condition_frames_than_frames_are_refused(clip_request):
    with pytest.raises(GenerationError, match="9 frames cannot be conditioned on 10 frames"):
        condition_pixels(clip_request(num_condition_frames=10), "zeros", CPU)


def test_the_text_cache_forgets_the_text_unused_longest():
    encoded = []

    def encode(prompts, length):
        encoded.extend(prompts)
        return torch.zeros(1, length, 2)

    counters = Counters()
    texts = TextCache(encode, counters, size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        texts(text, 4)
    assert encoded == ["a", "b", "c", "b"]
    assert counters.text_encoder_calls == 4
    assert texts("b", 5).shape == (1, 5, 2)
