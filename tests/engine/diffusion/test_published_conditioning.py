"""What the transformer, CLIP and the text encoder are given in films of every method, against values worked out here.

Hooks on the modules of a film from the command line see it all: three clips of 9 frames, with one pass a step. Expected
latents are encoded by a stock VAE from the frames that were handed over.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from engine.media import image
from engine.project import takes
from tests.engine.published.films import METHODS, SIZE, Checkpoint, Made, generate, write_checkpoint
from tests.engine.published.upstream import CLIP_MEAN, CLIP_STD, Upstream, to_pixels

WITH_CLIP = METHODS[:4]
PIXEL_METHODS = METHODS[:5]
MOTION_FRAMES = {"svi-shot": 1, "svi-film": 5, "svi-tom": 1, "svi-2.0": 5, "svi-2.0-wan2.2": 1}
PADDED_WITH_ANCHOR = ("svi-shot", "svi-2.0", "svi-2.0-wan2.2")
CLOSE = 5e-4  # latents reach ±8 and the studio sums convolutions in another order; a mistake moves them by 0.1 and more


@dataclass(frozen=True)
class Film:
    checkpoint: Checkpoint
    made: Made
    anchor: np.ndarray
    yardstick: Upstream

    def given_frames(self, clip: int, count: int) -> list[np.ndarray]:
        """The pixel frames that clip `clip` (from 0) should start from: one in the first, else `count`."""
        return [self.anchor] if clip == 0 else list(self.made.frames[clip - 1][-count:])


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Callable[[str], Film]:
    """Three clips by one method, with 50 steps; each film is made once."""
    films: dict[str, Film] = {}

    def make(method: str) -> Film:
        if method not in films:
            folder = tmp_path_factory.mktemp(method)
            checkpoint = write_checkpoint(folder, method, num_frames=9, steps=50, guidance=1.0)
            made = generate(checkpoint, folder / "made", num_clips=3)
            with Image.open(made.picture) as picture:
                anchor = np.asarray(picture.resize(SIZE, Image.Resampling.BICUBIC))
            films[method] = Film(checkpoint, made, anchor, checkpoint.yardstick())
        return films[method]

    return make


@torch.no_grad()
def encoded(yardstick: Upstream, pixels: Tensor) -> Tensor:
    """The posterior's mean of pixels (1, 3, F, H, W), channel by channel as the VAE's config normalises it."""
    vae = yardstick.vae
    latents = vae.encode(pixels).latent_dist.mean.clone()
    for channel in range(16):
        latents[:, channel] -= vae.config.latents_mean[channel]
        latents[:, channel] /= vae.config.latents_std[channel]
    return latents


# y: mask and condition latents


@pytest.mark.parametrize("clip", [0, 1, 2])
@pytest.mark.parametrize("method", PIXEL_METHODS)
def test_condition_frames_and_padding_are_encoded_in_one_piece(film, method, clip):
    made = film(method)
    frames = made.given_frames(clip, MOTION_FRAMES[method])
    video = torch.zeros(1, 3, 9, 32, 48)  # mid-grey, which is no level of 8 bits
    video[:, :, : len(frames)] = to_pixels(frames)
    if method in PADDED_WITH_ANCHOR:
        video[:, :, len(frames) :] = to_pixels([made.anchor])
    found = made.made.seen[clip].y[:, 4:]
    torch.testing.assert_close(found, encoded(made.yardstick, video), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("method", PIXEL_METHODS)
def test_a_later_clip_starts_from_other_frames_than_the_anchor(film, method):
    """So that the tests of this file can tell a condition frame from the anchor."""
    made = film(method)
    for clip in (1, 2):
        first = made.given_frames(clip, MOTION_FRAMES[method])[0]
        assert np.abs(first.astype(int) - made.anchor).mean() > 10


@pytest.mark.parametrize("clip", [0, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_the_mask_is_one_in_latent_frame_0_alone(film, method, clip):
    mask = film(method).made.seen[clip].y[:, :4]
    assert mask.shape == (1, 4, 3, 4, 6)
    assert (mask[:, :, 0] == 1).all() and (mask[:, :, 1:] == 0).all()


def test_81_frames_fold_into_21_latent_frames(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "svi-film", num_frames=81, steps=1, guidance=1.0)
    made = generate(checkpoint, tmp_path / "made")
    entries = [1, 1, 1, 1] + [0] * 80  # frame 0 counts four times, then every frame once
    for seen in made.seen:
        assert seen.y.shape == (1, 20, 21, 4, 6)
        assert seen.y[0, :4, :, 2, 3].T.flatten().tolist() == entries
    given = torch.cat([to_pixels(made.frames[0][-5:]), torch.zeros(1, 3, 76, 32, 48)], dim=2)
    expected = encoded(checkpoint.yardstick(), given)
    torch.testing.assert_close(made.seen[1].y[:, 4:], expected, rtol=0, atol=CLOSE)


# SVI 2.0 Pro


def test_pro_joins_the_anchors_latent_frame_with_zeros_in_the_first_clip(film):
    made = film("svi-2.0-pro")
    y = made.made.seen[0].y
    torch.testing.assert_close(y[:, 4:, :1], encoded(made.yardstick, to_pixels([made.anchor])), rtol=0, atol=CLOSE)
    assert (y[:, 4:, 1:] == 0).all()
    assert made.made.requests[0].tail_latents is None


@pytest.mark.parametrize("clip", [1, 2])
def test_pro_hands_over_the_last_denoised_latent_frame_bit_for_bit(film, clip):
    made = film("svi-2.0-pro")
    y = made.made.seen[clip].y[:, 4:]
    denoised = made.made.results[clip - 1].tail_latents
    assert denoised.shape == (16, 1, 4, 6) and denoised.dtype == np.float32
    stored = takes.tail_latents(made.made.store.take_folder(made.made.requests[clip - 1].digest), 1)
    assert np.array_equal(stored, denoised)
    assert np.array_equal(y[0, :, 1:2].numpy(), denoised)
    torch.testing.assert_close(y[:, :, :1], encoded(made.yardstick, to_pixels([made.anchor])), rtol=0, atol=CLOSE)
    assert (y[:, :, 2:] == 0).all()


def test_pro_hands_over_what_the_loop_ends_at_and_encodes_nothing_again(film):
    made = film("svi-2.0-pro")
    expected = made.yardstick.film(made.made.picture, made.made.prompts[:1])[0].latents[0, :, -1:]
    denoised = torch.from_numpy(made.made.results[0].tail_latents)
    torch.testing.assert_close(denoised, expected, rtol=0, atol=1e-4)  # of ±4, after 50 steps
    again = encoded(made.yardstick, to_pixels(made.made.frames[0]))[0, :, -1:]
    assert (again - denoised).abs().mean() > 0.1


@pytest.fixture(scope="module")
def first_clip(tmp_path_factory) -> tuple[Checkpoint, Path, Made]:
    """A film of one clip by Pro, its folder, and what was made; to be copied."""
    folder = tmp_path_factory.mktemp("pro")
    checkpoint = write_checkpoint(folder, "svi-2.0-pro", num_frames=9, steps=1, guidance=1.0)
    return checkpoint, folder / "made", generate(checkpoint, folder / "made", num_clips=1)


def flip_a_bit(data: bytes) -> bytes:
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, lambda data: data[:-100], lambda data: b"", lambda data: b"{}" * 50, lambda data: None],
    ids=["a flipped bit", "cut", "empty", "something else", "gone"],
)
def test_a_take_whose_latents_are_damaged_is_made_again_before_it_is_continued(first_clip, tmp_path, damage):
    checkpoint, folder, first = first_clip
    shutil.copytree(folder, tmp_path / "made")
    digest = first.requests[0].digest
    file = tmp_path / "made" / "film" / "takes" / digest / "tail" / "latents.safetensors"
    whole = file.read_bytes()
    file.unlink()
    if (damaged := damage(whole)) is not None:
        file.write_bytes(damaged)
    continued = generate(checkpoint, tmp_path / "made", num_clips=2)
    assert [request.index for request in continued.requests] == [0, 1]
    assert continued.requests[0].digest == digest
    assert file.read_bytes() == whole
    assert np.array_equal(continued.seen[1].y[0, 4:, 1:2].numpy(), first.results[0].tail_latents)


# CLIP and text


@pytest.mark.parametrize("clip", [0, 1, 2])
@pytest.mark.parametrize("method", WITH_CLIP)
def test_clip_sees_the_first_condition_frame_squashed_without_smoothing(film, method, clip):
    made = film(method)
    (found,) = made.made.seen[clip].squares
    frame = made.given_frames(clip, MOTION_FRAMES[method])[0]
    unit = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None] / 255
    square = functional.interpolate(unit, size=(32, 32), mode="bicubic", align_corners=False)
    expected = (square - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS[4:])
def test_wan_2_2_has_no_clip(film, method):
    assert not any(seen.squares for seen in film(method).made.seen)


@pytest.mark.parametrize("method", METHODS)
def test_prompts_are_cleaned_and_padded_to_512_tokens(film, method):
    made = film(method)
    texts = ["A cat walks through & out", 'Night falls over the "hill"', "Rain"]
    used = {"svi-shot": 1, "svi-2.0": 2}.get(method, 3)  # a prompt that comes again is not encoded again
    found = [tokens for seen in made.made.seen for tokens in seen.tokens]
    for tokens, text in zip(found, texts[:used], strict=True):
        ids = made.yardstick.tokenizer(text).input_ids
        assert tokens.tolist() == [ids + [0] * (512 - len(ids))]


# noise, schedule, experts


@pytest.mark.parametrize("method", METHODS)
def test_clip_i_starts_from_the_noise_of_seed_42_i(film, method):
    for seen, seed in zip(film(method).made.seen, (0, 42, 84), strict=True):
        noise = torch.randn((1, 16, 3, 4, 6), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(seen.noise, noise)


def test_the_films_seed_is_added(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "svi-tom", num_frames=9, steps=1, guidance=1.0)
    made = generate(checkpoint, tmp_path / "made", "--seed", "7")
    for seen, seed in zip(made.seen, (7, 49), strict=True):
        assert torch.equal(seen.noise, torch.randn((1, 16, 3, 4, 6), generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("method", METHODS)
def test_50_steps_run_at_upstreams_timesteps(film, method):
    evenly = torch.linspace(1, 0, 51, dtype=torch.float64)[:-1]
    expected = (5000 * evenly / (1 + 4 * evenly)).tolist()
    published = [1000, 995.94, 991.74, 172.41, 92.59]
    np.testing.assert_allclose([*expected[:3], *expected[-2:]], published, rtol=0, atol=0.01)
    for seen in film(method).made.seen:
        np.testing.assert_allclose(seen.timesteps, expected, rtol=0, atol=1e-4)  # float32, and never rounded
        assert len({round(t) == t for t in seen.timesteps}) == 2


@pytest.mark.parametrize("method", METHODS)
def test_the_low_noise_expert_takes_over_below_timestep_875(film, method):
    """At N = 50 step 20 runs at 882.35 and step 21 at 873.42; 0.9 would hand over at step 18."""
    expected = ["high"] * 21 + ["low"] * 29 if method in METHODS[4:] else ["high"] * 50
    for seen in film(method).made.seen:
        assert seen.experts == expected


def test_timestep_875_itself_belongs_to_the_high_noise_expert(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "svi-2.0-wan2.2", num_frames=9, steps=12, guidance=1.0)
    (seen,) = generate(checkpoint, tmp_path / "made", num_clips=1).seen
    assert seen.timesteps[5] == pytest.approx(875, abs=1e-4)
    assert seen.experts == ["high"] * 6 + ["low"] * 6


@pytest.mark.parametrize(
    ("method", "shift", "timesteps", "num_high"),
    [
        ("svi-film", 5.0, [1000, 937.5, 833.3333, 625], 4),
        ("svi-2.0-wan2.2", 8.0, [1000, 975.6098, 941.1765, 888.8889, 800, 615.3846], 4),
        ("svi-2.0-pro", 5.0, [1000, 937.5, 833.3333, 625], 2),
    ],
)
def test_a_draft_has_its_own_steps_and_shift_and_the_same_boundary(tmp_path, method, shift, timesteps, num_high):
    steps = len(timesteps)
    checkpoint = write_checkpoint(tmp_path, method, num_frames=9, steps=steps, guidance=1.5, draft_shift=shift)
    (seen,) = generate(checkpoint, tmp_path / "made", "--draft", num_clips=1).seen
    np.testing.assert_allclose(seen.timesteps, timesteps, rtol=0, atol=1e-4)
    assert seen.experts == ["high"] * num_high + ["low"] * (steps - num_high)


# odd cases


@pytest.mark.parametrize("method", ["svi-film", "svi-2.0"])
def test_the_first_clip_starts_from_one_frame_even_with_five_motion_frames(film, method):
    made = film(method)
    counts = [len(request.condition_frames) for request in made.made.requests]
    assert counts == [1, 5, 5]
    assert [request.overlap for request in made.made.requests] == [0, 5, 5]
    assert np.array_equal(made.made.requests[0].condition_frames[0], made.anchor)
    assert all(np.array_equal(request.anchor, made.anchor) for request in made.made.requests)


def test_a_vae_that_tiles_its_decode_still_encodes_the_condition_in_one_piece(film, tiny_components):
    codec = tiny_components.codec
    pixels = to_pixels([film("svi-shot").anchor] * 9)
    with torch.no_grad():
        whole = codec.encode(pixels)
        codec.vae.enable_tiling(32, 32, 16, 16)
        try:
            tiled = (codec.vae.encode(pixels).latent_dist.mode() - codec.mean) / codec.std
            assert torch.equal(codec.encode(pixels), whole)
        finally:
            codec.vae.disable_tiling()
    assert (tiled - whole).abs().max() > 0.1


def test_the_picture_of_the_film_is_the_yardsticks(film):
    """The importer and the resize give the pixels of PIL's bicubic: nothing is cropped of a picture 16:10.6."""
    made = film("svi-shot")
    fitted = image.fit(image.load(made.made.store.inputs / "anchor.png"), made.made.requests[0].resolution)
    assert np.array_equal(fitted, made.anchor)
