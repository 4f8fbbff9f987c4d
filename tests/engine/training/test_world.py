import random

import pytest
import torch

from engine.training import world
from engine.training.metrics import psnr
from engine.training.pictures import toy_scenes

NOON = world.BY_NAME["noon"]
PICTURES = world.perform(world.perform(toy_scenes(3, 48, 64, seed=5), NOON), NOON)  # of ordinary contrast
LIGHTS = [action for action in world.ACTIONS if action.light]


@pytest.mark.parametrize("action", LIGHTS, ids=lambda action: action.name)
def test_a_light_move_changes_every_picture_but_not_twice(action):
    before = world.perform(PICTURES, world.BY_NAME["storm"]) if action is NOON else PICTURES
    once = world.perform(before, action)
    assert psnr(before, once).mean() < 18
    assert psnr(world.perform(once, action), once).min() > 25  # only what clipping removed can differ
    assert once.abs().max() <= 1


def test_repeating_a_prompt_five_times_does_not_go_black():
    night = world.BY_NAME["night"]
    pictures = PICTURES
    for _ in range(5):
        pictures = world.perform(pictures, night)
    assert pictures.mean() == pytest.approx(world.perform(PICTURES, night).mean().item(), abs=0.02)
    assert pictures.std() > 0.1


def test_a_move_is_undone_by_daylight():
    restored = world.perform(world.perform(PICTURES, world.BY_NAME["storm"]), NOON)
    assert psnr(restored, world.perform(PICTURES, NOON)).mean() > 25


def test_a_clip_holds_five_frames_then_moves_to_its_end():
    after = world.perform(PICTURES, world.BY_NAME["fog"])
    clip = world.transition(PICTURES, after)
    assert clip.shape == (3, 3, world.NUM_FRAMES, 48, 64)
    assert torch.equal(clip[:, :, : world.HOLD + 1], PICTURES[:, :, None].expand(-1, -1, world.HOLD + 1, -1, -1))
    torch.testing.assert_close(clip[:, :, -1], after)


def test_a_later_clip_begins_with_the_last_five_frames_of_the_earlier_one():
    night = world.perform(PICTURES, world.BY_NAME["night"])
    dawn = world.perform(night, world.BY_NAME["sunrise"])
    earlier, later = world.transition(PICTURES, night), world.clip_after(PICTURES, night, dawn)
    torch.testing.assert_close(later[:, :, :5], earlier[:, :, -5:])
    torch.testing.assert_close(later[:, :, -1], dawn)


@pytest.mark.parametrize("action", world.ACTIONS, ids=lambda action: action.name)
def test_no_keyword_asks_for_two_actions(action):
    others = {word for other in world.ACTIONS if other is not action for word in other.keywords}
    assert not others & set(action.keywords)


def test_captions_repeat_with_the_same_seed():
    first, second = ([world.caption(a, random.Random(3)) for a in world.ACTIONS] for _ in range(2))
    assert first == second


def test_loose_words_ask_for_nothing():
    keywords = {word for action in world.ACTIONS for word in action.keywords}
    assert not keywords & set(world.LOOSE_WORDS)
    assert "falls" in world.LOOSE_WORDS


@pytest.mark.parametrize("action", world.ACTIONS, ids=lambda action: action.name)
def test_every_caption_but_of_a_still_picture_has_a_word_of_its_own(action):
    rng = random.Random(0)
    own = set(action.keywords) | {"brown", "red", "heavy", "covers", "yellow"}
    for _ in range(200):
        words = set(world.words_of(world.caption(action, rng)))
        assert action.kind == "stay" or words & own
