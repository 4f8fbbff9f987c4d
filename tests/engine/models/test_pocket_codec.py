import pytest
import torch

from engine.models import pocket_codec
from engine.training import world
from engine.training.metrics import psnr
from engine.training.pictures import toy_scenes


@pytest.fixture(scope="module")
def pictures():
    return toy_scenes(24, 64, 64, seed=3)


@pytest.fixture(scope="module")
def codec(pictures):
    after = world.perform(pictures, world.BY_NAME["night"])
    group = world.transition(pictures, after)[:, :, 9:13]
    return pocket_codec.fit(pictures, group - group.mean(2, keepdim=True), num_spatial=32, num_motion=4)


@pytest.fixture(scope="module")
def clip(pictures):
    return world.transition(pictures[:2], world.perform(pictures[:2], world.BY_NAME["fog"]))


def test_shapes_follow_the_strides(codec, clip):
    latents = codec.encode(clip)
    assert latents.shape == (2, codec.latent_channels, 7, 8, 8)
    assert codec.decode(latents).shape == clip.shape


def test_encoding_what_was_decoded_gives_the_same_latents(codec, clip):
    latents = codec.encode(clip)
    torch.testing.assert_close(codec.encode(codec.decode(latents)), latents, rtol=0, atol=2e-4)


def test_later_frames_do_not_change_earlier_latents(codec, clip):
    torch.testing.assert_close(codec.encode(clip[:, :, :9]), codec.encode(clip)[:, :, :3])


def test_a_still_clip_repeats_the_coefficients_of_its_first_frame(codec, pictures):
    latents = codec.encode(pictures[:1, :, None].expand(-1, -1, 9, -1, -1))
    torch.testing.assert_close(latents[:, : codec.num_coded, 1], latents[:, : codec.num_coded, 0], rtol=0, atol=1e-4)


def test_grey_is_a_valid_input_and_comes_back_grey(codec):
    grey = torch.zeros(1, 3, 5, 16, 24)
    assert codec.decode(codec.encode(grey)).abs().max() < 1e-5


def test_neighbouring_codes_sharpen_the_picture(codec, clip):
    latents = codec.encode(clip)
    with_overlap = psnr(codec.decode(latents), clip).mean()
    overlap = codec.overlap.clone()
    codec.overlap.zero_()
    without = psnr(codec.decode(latents), clip).mean()
    codec.overlap.copy_(overlap)
    assert with_overlap > without > 25


def test_coordinates_tell_place_and_time_whatever_else_is_seen():
    short = pocket_codec.coordinates(torch.zeros(1, 1, 2, 3, 4))
    long = pocket_codec.coordinates(torch.zeros(1, 1, 7, 3, 4))
    assert torch.equal(short, long[:, :, :2])
    assert long[0, 2, :, 0, 0].tolist() == pytest.approx([t / 3 - 1 for t in range(7)])
    assert long[0, 0, 0, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 12, 16), (1, 1, 5, 16, 16)])
def test_a_wrong_shape_is_refused(codec, shape):
    with pytest.raises(ValueError, match="expected pixels"):
        codec.encode(torch.zeros(shape))


def test_a_codec_survives_the_disk(codec, clip, tmp_path):
    codec.save(tmp_path)
    assert torch.equal(pocket_codec.PocketCodec.load(tmp_path).encode(clip), codec.encode(clip))
