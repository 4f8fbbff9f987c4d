import pytest

from engine.config import load_preset
from engine.pocket import asked, lexicon
from engine.pocket.phrases import OFFERS
from engine.pocket.reading import read
from engine.story.vocabulary import Vocabulary, vocabulary_of

SUBJECTS = (
    "the scene",
    "a small brown dog",
    "the dog and the street",
    "the two boats",
    "the harbour",
    "the city lights",
)


@pytest.fixture(scope="module")
def pocket():
    return vocabulary_of(load_preset("pocket"))


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("Night falls over the still harbour", ["night"]),
        ("street at night", ["night"]),
        ("a ship leaves the harbour", []),
        ("A man turns left and walks away", []),
        ("A woman in a white coat comes closer to the camera", []),
        ("the camera follows the man as he turns left", []),
        ("The dark forest, a golden retriever and a clear view", []),
        ("The camera pans left over the harbour while fog rolls in", ["pan_left", "fog"]),
        ("As clouds drift by, pull back slowly", ["drift", "zoom_out"]),
        ("The camera glides to the left and up", ["pan_left", "tilt_up"]),
        ("Pan from left to right", ["pan_right"]),
        ("The camera tilts sideways to the right", ["roll_right"]),
        ("zoom in and out", ["stay"]),
        ("It grows dark", ["night"]),
        ("The sky darkens", ["storm"]),
        ("The leaves turn brown", ["autumn"]),
        ("The leaves rustle", ["sway"]),
        ("Snow covers the roofs", ["winter"]),
        ("Snow falls on the roofs", ["snow"]),
        ("The sun sets and the lamps flicker", ["sunset", "twinkle"]),
        ("The rain stops", ["calm"]),
        ("Nothing changes", ["stay"]),
        ("", []),
        ("夜が港に訪れる。", []),
    ],
)
def test_moves_are_read_in_their_context(pocket, prompt, names):
    assert list(pocket.reading(prompt).names) == names


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("no fog", ["stay"]),
        ("without moving the camera", ["stay"]),
        ("Night falls without fog", ["night"]),
        ("Pan left, no rain, and the sun rises", ["pan_left", "sunrise"]),
        ("The camera does not move while night falls", ["night"]),
        ("It doesn't snow but fog rolls in", ["fog"]),
        ("Don't pan left", ["stay"]),
    ],
)
def test_what_is_denied_is_not_asked_for(pocket, prompt, names):
    assert list(pocket.reading(prompt).names) == names


def test_what_is_heard_and_what_is_ignored_is_said_word_for_word(pocket):
    reading = pocket.reading(
        "The camera slowly pans LEFT a little over the cathedral, while Unicorns dance in the fog!"
    )
    assert reading.heard == ("camera", "slowly", "pans", "left", "little", "fog")
    assert reading.ignored == ("cathedral", "unicorns", "dance")
    assert [(move.name, move.amount) for move in reading.moves] == [("pan_left", "little"), ("fog", "")]
    silent = pocket.reading("A dragon lands on the roof")
    assert silent.moves == silent.heard == () and silent.ignored == ("lands", "roof")


def test_every_word_is_known_or_ignored_or_carries_no_meaning(pocket):
    for prompt in ("${alert(1)} <img src=x>", "word " * 200, "naïve café’s don’t", "\u202e\U0001f319 ?!"):
        reading = pocket.reading(prompt)
        assert not set(reading.ignored) & set(lexicon.words()) and len(set(reading.ignored)) == len(reading.ignored)


def test_the_first_named_move_counts_and_rest_only_where_nothing_else_is_asked(pocket):
    assert pocket.action_of("The still harbour freezes").name == "winter"
    assert pocket.action_of("The harbour stays still").name == "stay"
    assert pocket.action_of("The harbour dances") is None


def test_moves_that_a_vocabulary_does_not_offer_are_not_read():
    small = Vocabulary.model_validate(
        {"actions": [{"name": "fog", "kind": "light", "phrases": ["Fog over {subject}"]}]}
    )
    assert small.reading("The camera pans left while fog rolls in").names == ("fog",)
    assert small.reading("Pan left").moves == () and small.reading("Pan left").heard == ()


def test_every_move_of_the_grammar_can_be_offered_with_its_kind():
    kinds = {offer.name: offer.kind for offer in OFFERS}
    assert kinds == {"stay": "stay"} | {name: kind for kind, names in asked.KINDS.items() for name in names}


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: offer.name)
def test_every_phrase_asks_for_its_move_alone(offer):
    assert 5 <= len(offer.phrases) <= 8 and len(set(offer.phrases)) == len(offer.phrases)
    for subject in SUBJECTS:
        for phrase in offer.phrases:
            assert read(phrase.replace("{subject}", subject)).names == (offer.name,), phrase
    assert offer.kind == "stay" or any("{subject}" not in phrase for phrase in offer.phrases)
    for words in offer.keywords:
        assert any(word in lexicon.words() for word in lexicon.split(words)), words
