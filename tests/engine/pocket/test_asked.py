import random
from collections import Counter

import pytest

from engine.pocket import asked, world
from engine.pocket.asked import Asked, Wish


@pytest.mark.parametrize("name", world.CAMERAS)
def test_a_camera_move_is_the_worlds_own(name):
    move = asked.of(name).move
    assert move.camera == pytest.approx(world.CAMERAS[name])
    assert not (move.free or move.lights or move.levels)


@pytest.mark.parametrize("name", world.LIGHTS)
def test_a_light_is_the_worlds_own(name):
    assert asked.of(name).move == world.Move(lights=((name, 1.0),))


def test_the_order_of_a_prompt_is_not_heard():
    one = Wish((Asked("night"), Asked("pan_left", "little"), Asked("rain")), "slow")
    other = Wish((Asked("rain"), Asked("pan_left", "little"), Asked("night")), "slow")
    assert one.tokens == other.tokens == ("pan_left", "little", "night", "rain", "slow")


def test_a_wish_can_be_spelt_out_and_read_again():
    rng = random.Random(0)
    for _ in range(500):
        wish = asked.draw(rng)
        again = asked.parse(asked.spelt(wish))
        assert again.tokens == wish.tokens
        assert not wish.moves or (again.pace, again.wind) == (wish.pace, wish.wind)


@pytest.mark.parametrize("text", ["", "night", "pan_left night", "asked: little night", "asked: fly"])
def test_other_texts_spell_nothing(text):
    assert asked.parse(text) is None


def test_amounts_scale_and_camera_moves_add_up():
    wish = Wish((Asked("pan_left", "far"), Asked("tilt_up", "little"), Asked("ripple", "far")))
    assert wish.move.camera == pytest.approx((-world.MUCH * world.PAN, -world.LITTLE * world.PAN, 0, 0))
    assert dict(wish.move.levels)["ripple"] == pytest.approx(0.96)


def test_falling_rain_darkens_unless_a_light_is_asked_for():
    assert asked.of("rain").move.lights == (("storm", 0.6),)
    assert asked.of("rain", "sunset").move.lights == (("sunset", 1.0),)


def test_wishes_to_train_on_have_every_move_and_none_that_undo_each_other():
    rng, counts = random.Random(1), Counter()
    for _ in range(6000):
        wish = asked.draw(rng)
        named = {move.name for move in wish.moves}
        counts.update(named or {"nothing"})
        assert not any(asked.OPPOSITES.get(name) in named for name in named)
        assert sum(name in asked.LIGHT_NAMES for name in named) <= asked.MOST_LIGHTS
        assert len(wish.tokens) < 16  # of the text encoder, one of which ends the text
    assert all(counts[name] > 150 for name in (*asked.NAMES, "nothing")), counts
