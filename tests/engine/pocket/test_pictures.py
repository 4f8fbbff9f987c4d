import random

import pytest
import torch

from engine.pocket import pictures


@pytest.fixture(scope="module")
def scenes_only():
    return pictures.PictureSource(num_scenes=4, photo_share=0.0, seed=0)


def test_the_same_seed_gives_the_same_pictures(scenes_only):
    again = pictures.PictureSource(num_scenes=4, photo_share=0.0, seed=0)
    first, second = (source.draw(32, 48, random.Random(1)) for source in (scenes_only, again))
    assert first.shape == (3, 32, 48)
    assert torch.equal(first, second)


def test_pictures_are_in_range_and_differ(scenes_only):
    rng = random.Random(0)
    drawn = [scenes_only.draw(32, 32, rng) for _ in range(12)]
    assert all(picture.min() >= -1 and picture.max() <= 1 for picture in drawn)
    assert len({picture.numpy().tobytes() for picture in drawn}) == len(drawn)


def test_photographs_and_scenes_come_in_their_shares():
    source = pictures.PictureSource(num_scenes=1, photo_share=0.5, seed=0)
    source.scenes, source.photos = torch.full((1, 3, 64, 64), 0.5), [torch.full((3, 64, 64), -0.5)]
    rng = random.Random(0)
    dark = sum(float(source.draw(16, 16, rng).mean()) < 0 for _ in range(200))
    assert 70 < dark < 130


def test_without_photographs_every_picture_is_a_scene():
    absent = (("skimage", "data/none.png"),)
    source = pictures.PictureSource(num_scenes=2, photo_share=1.0, seed=0, names=absent)
    assert source.photo_share == 0 and source.draw(16, 16, random.Random(0)).shape == (3, 16, 16)


def test_recoloured_pictures_keep_their_shapes_and_change_their_colours():
    picture = 0.5 * pictures.toy_scenes(1, 32, 32, seed=1)[0]
    changed = [pictures.recolour(picture, random.Random(seed)) for seed in range(8)]
    assert all(other.shape == picture.shape and other.abs().max() <= 1 for other in changed)
    assert len({round(float(other.mean()), 4) for other in changed}) > 4


def test_held_out_photographs_are_installed_and_never_trained_on():
    assert len(pictures.find_photos(pictures.HELD_OUT)) >= 8
    assert not set(pictures.HELD_OUT) & set(pictures.PHOTOS)


def test_an_absent_photograph_is_skipped_with_a_warning(caplog):
    assert pictures.find_photos((("skimage", "data/none.png"), ("no_such_package", "a.png"))) == []
    assert len(caplog.records) == 2
