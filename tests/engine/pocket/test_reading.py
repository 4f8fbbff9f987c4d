"""Prompts are read by rules: what they ask for, who does what, what is denied."""

import random
from pathlib import Path

import pytest

from engine.evaluation.sentences import read_sentences
from engine.pocket import asked, reading, world
from tests.engine.pocket import grammar

LISTS = sorted(Path(__file__).parent.glob("*_sentences.yaml"))
MOST_WRONG = 0.02
CAMERA_OR_LIGHT = {*world.CAMERAS, *world.LIGHTS}


def names(prompt: str) -> tuple[str, ...]:
    return reading.read(prompt).names


def tokens(prompt: str) -> str:
    return " ".join(reading.wish_of(prompt).tokens)


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_free_sentences_are_read_as_their_authors_meant_them(path):
    sentences, wrong = read_sentences(path), []
    for one in sentences:
        move = reading.wish_of(one.text).move
        ways = [name for name in names(one.text) if name in world.CAMERAS]
        lights = {name for name, share in move.lights if share >= world.LITTLE}
        camera = one.camera in ways if one.camera != "none" else not ways
        light = bool(lights & set(one.lights)) if lights else {"none"} & set(one.lights) or dict(move.lights)
        if not camera or not light:
            wrong.append((one.text, tokens(one.text)))
    assert len(wrong) <= MOST_WRONG * len(sentences), wrong


def test_what_a_grammar_asks_for_is_read():
    """Openings, endings, joints, adverbs, denials and bystanders; a thing or two of the grammar nobody would say."""
    rng = random.Random(5)
    made = [grammar.caption(rng) for _ in range(2000)]
    wrong = [(one.text, tokens(one.text)) for one in made if told(one.move) != told(reading.wish_of(one.text).move)]
    assert len(wrong) <= 0.035 * len(made), wrong[:20]


def told(move: world.Move) -> tuple:
    """What is asked for, without the pace."""
    camera = tuple(round(part, 6) for part in move.camera)
    return camera, sorted(move.free), sorted(move.lights), sorted(move.levels), move.wind


@pytest.mark.parametrize("name", asked.NAMES)
def test_every_plain_sentence_of_the_grammar_is_read(name):
    rng, right = random.Random(1), 0
    for _ in range(200):
        made = grammar.compose([name], rng, plain=True)
        right += told(made.move) == told(reading.wish_of(made.text).move)
    assert right >= 190


@pytest.mark.parametrize(
    "prompt, read",
    [
        ("Pan quixotically over the xylophone to the left!", "pan_left"),
        ("ZOOM-IN!!! (slowly)…", "zoom_in slow"),
        ("The camera pans left and up a little", "pan_left little tilt_up little"),
        ("very slowly swing the camera right", "pan_right slow"),
        ("night falls over a small house", "night"),
        ("Slow dolly in on a small house while heavy rain falls", "zoom_in rain far slow"),
        ("pan from left to right", "pan_right"),
        ("Truck left past the truck", "pan_left"),
        ("Pedestal up, very smooth", "tilt_up slow"),
        ("The camera backs away from the piano", "zoom_out"),
        ("fog rolls in", "fog"),
        ("mist drifts past the hut", "haze"),
        ("As dusk turns to night", "night"),
        ("the sun comes up", "sunrise"),
        ("the sun has set", "sunset"),
        ("The fog clears", "noon"),
        ("fall colours everywhere", "autumn"),
        ("white clouds drift to the left", "drift left"),
    ],
)
def test_it_is_heard(prompt, read):
    assert tokens(prompt) == read


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Кот сидит у окна",
        "don't pan, it isn't night",
        "without moving the camera",
        "The dog turns left and looks up",
        "The soldiers push the door open and step in",
        "The old elevator goes up",
        "The chef pulls the tray back out of the oven",
        "A woman in a winter coat and a snow-white hat",
        "A frying pan on the stove, the table is set for four",
        "zoom in and out",
        "the camera tilts up and down",
        "Keep the daylight as it is",
        "A salesman with a zoom lens in his hand",
    ],
)
def test_it_asks_for_nothing(prompt):
    assert tokens(prompt) == ""


def test_what_is_not_wanted_is_left_out_to_the_end_of_its_clause():
    assert names("no fog at all, night falls") == ("night",)
    assert names("without moving the camera while the sun sets") == ("sunset",)
    assert names("night falls without fog") == ("night",)


def test_the_page_is_told_what_was_heard_and_what_was_not():
    found = reading.read("The camera pans left over the xylophone at first light")
    assert found.heard == ("camera", "pans", "left", "first light")
    assert found.ignored == ("xylophone",)
