import random

import pytest
import torch

from engine.training import pictures
from engine.training.world import ACTIONS


@pytest.fixture(scope="module")
def scenes_only():
    return pictures.PictureSource(num_scenes=4, photo_share=0.0, seed=0)


def batch(source, num_motion_frames):
    return pictures.make_batch(
        source,
        random.Random(1),
        size=(32, 48),
        num_pictures=2,
        prompts_per_picture=3,
        num_motion_frames=num_motion_frames,
    )


def test_a_batch_shows_the_same_picture_with_different_prompts(scenes_only):
    made = batch(scenes_only, 1)
    assert made.clips.shape == (6, 3, 25, 32, 48)
    assert len(made.captions) == 6
    assert len({action.name for action in made.actions[:3]}) == 3
    assert torch.equal(made.clips[0, :, 0], made.clips[2, :, 0])
    assert not torch.equal(made.clips[0, :, 0], made.clips[3, :, 0])


def test_zero_padding_is_grey_after_the_motion_frames(scenes_only):
    for num_motion_frames in (1, 5):
        made = batch(scenes_only, num_motion_frames)
        pixels = pictures.condition_pixels(made, "zeros")
        assert torch.equal(pixels[:, :, :num_motion_frames], made.clips[:, :, :num_motion_frames])
        assert pixels[:, :, num_motion_frames:].abs().max() == 0


def test_anchor_padding_repeats_the_first_picture_of_the_chain(scenes_only):
    made = batch(scenes_only, 1)
    pixels = pictures.condition_pixels(made, "anchor")
    assert torch.equal(pixels[:, :, 1], made.anchors)
    assert torch.equal(pixels[:, :, -1], made.anchors)


def test_the_same_seed_gives_the_same_batch(scenes_only):
    assert torch.equal(batch(scenes_only, 5).clips, batch(scenes_only, 5).clips)


def test_held_out_photographs_are_installed_and_never_trained_on():
    assert len(pictures.find_photos(pictures.HELD_OUT)) >= 3
    assert not set(pictures.HELD_OUT) & set(pictures.PHOTOS)


def test_an_absent_photograph_is_skipped_with_a_warning(caplog):
    assert pictures.find_photos((("skimage", "data/none.png"), ("no_such_package", "a.png"))) == []
    assert len(caplog.records) == 2


def test_a_photograph_is_cropped_to_shape_not_squashed():
    photo = torch.zeros(3, 40, 100)
    photo[:, :, 30:70] = 1.0
    fitted = pictures.fit_photo(photo, 16, 16)
    assert fitted.shape == (3, 16, 16)
    assert fitted.min() > 0.99


def test_every_action_is_drawn(scenes_only):
    rng = random.Random(0)
    made = pictures.make_batch(
        scenes_only, rng, size=(16, 16), num_pictures=1, prompts_per_picture=99, num_motion_frames=1
    )
    assert {action.name for action in made.actions} == {action.name for action in ACTIONS}
