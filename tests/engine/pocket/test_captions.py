import random
from collections import Counter, defaultdict

import pytest

from engine.pocket import captions, lexicon, world

ALL = (*captions.CAMERA_NAMES, *captions.LIGHT_NAMES, *captions.LIVING_NAMES)


def drawn(count: int, seed: int = 0) -> list[captions.Caption]:
    rng = random.Random(seed)
    return [captions.caption(rng) for _ in range(count)]


def asked(move: world.Move) -> tuple:
    """What is asked for, without the pace."""
    return tuple(round(part, 6) for part in move.camera), move.free, move.lights, move.levels, move.wind


@pytest.mark.parametrize("name", world.CAMERAS)
def test_a_plain_camera_move_is_the_worlds_own(name):
    for seed in range(100):
        move = captions.compose([name], random.Random(seed), plain=True).move
        assert move.camera == pytest.approx(world.CAMERAS[name])
        assert not (move.free or move.lights or move.levels)


@pytest.mark.parametrize("name", world.LIGHTS)
def test_a_plain_light_is_the_worlds_own(name):
    for seed in range(100):
        move = captions.compose([name], random.Random(seed), plain=True).move
        assert move.lights == ((name, 1.0),)
        assert not (any(move.camera) or move.free or move.levels)


@pytest.mark.parametrize("name", ALL)
def test_every_plain_move_is_heard(name):
    rng = random.Random(1)
    for _ in range(200):
        text = captions.compose([name], rng, plain=True).text
        assert lexicon.understood(text), text


def test_plain_sentences_with_the_same_words_never_ask_for_different_moves():
    """What reaches the model tells the moves apart; a word that is missing from the lexicon shows here."""
    meant = defaultdict(set)
    rng = random.Random(2)
    for name in ALL:
        for _ in range(400):
            made = captions.compose([name], rng, plain=True)
            meant[tuple(lexicon.understood(made.text))].add(asked(made.move))
    torn = {heard: moves for heard, moves in meant.items() if len(moves) > 1}
    assert len(torn) <= 0.01 * len(meant), torn


def test_what_is_not_wanted_adds_no_move():
    """Nothing asked for, but one sentence in six says what is not to happen, and others speak of what is no camera."""
    rng = random.Random(3)
    texts = []
    for _ in range(3000):
        made = captions.compose((), rng)
        assert made.move.is_still, made.text
        texts.append(made.text.lower())
    assert sum(("not " in text) or ("n't" in text) or ("no " in text) or ("without" in text) for text in texts) > 200


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_wanted_changes_nothing_of_what_is(name):
    rng = random.Random(4)
    kinds = {
        (bool(any(move.camera) or move.free), bool(move.lights), frozenset(dict(move.levels)))
        for move in (captions.compose([name], rng).move for _ in range(300))
    }
    assert len(kinds) == 1


def test_nearly_every_prompt_fits_into_the_text_encoder():
    lengths = [len(lexicon.understood(made.text)) for made in drawn(2000)]
    assert sum(length > 31 for length in lengths) <= 2  # 32 tokens, one of which may end the text


def test_the_same_seed_draws_the_same_prompts():
    assert drawn(50, 7) == drawn(50, 7)
    assert drawn(50, 7) != drawn(50, 8)


def test_no_pattern_is_left_unfilled():
    for made in drawn(5000, 5):
        assert not set("[]{}|") & set(made.text), made.text
        assert "  " not in made.text and made.text == made.text.strip(), repr(made.text)


def test_every_move_is_asked_for_often_enough_to_be_learned():
    counts = Counter()
    for made in drawn(5000, 6):
        counts.update(
            name
            for name, camera in world.CAMERAS.items()
            if any(a * b > 0 for a, b in zip(made.move.camera, camera, strict=True))
        )
        counts.update(dict(made.move.free) | dict(made.move.lights) | dict(made.move.levels))
        counts["nothing"] += made.move.is_still
    for name in (*captions.CAMERA_NAMES, *captions.LIGHT_NAMES, "nothing"):
        assert counts[name] > 75, (name, counts[name])


def test_a_little_asks_for_less_and_far_for_more():
    rng = random.Random(8)
    reached = sorted({captions.compose(["pan_right"], rng).move.camera[0] for _ in range(400)})
    assert reached == pytest.approx([share * world.PAN for share in (world.LITTLE, 1.0, world.MUCH)])


def test_slowly_and_quickly_set_the_pace():
    paces = Counter()
    for made in drawn(4000, 9):
        words = set(lexicon.split(made.text))
        if "slowly" in words and not words & {"fast", "quick", "quickly", "rapidly", "suddenly", "swiftly", "abruptly"}:
            paces[made.move.pace] += 1
    assert set(paces) == {"slow"}


def test_opposite_moves_take_each_other_back():
    made = captions.compose(["zoom_in", "zoom_out"], random.Random(0), plain=True)
    assert abs(made.move.camera[2]) < 0.05 * 2  # 1.3 in and 0.75 out are not quite each other's reverse
    assert not any(captions.compose(["pan_left", "pan_right"], random.Random(0), plain=True).move.camera)
