import pytest

from engine.pocket import lexicon


def test_it_knows_fifteen_hundred_words():
    assert len(lexicon.words()) >= 1500


def test_every_word_belongs_to_a_concept_and_every_concept_has_words():
    assert set(lexicon.words().values()) == set(lexicon.concepts())
    assert len(set(lexicon.concepts())) == len(lexicon.concepts())


def test_concepts_can_be_tokens():
    assert all(concept.isidentifier() for concept in lexicon.concepts())


@pytest.mark.parametrize(
    "verb, third, concept",
    [
        ("pan", "pans", "pan"),
        ("glide", "glides", "slide"),
        ("fly", "flies", "slide"),
        ("go", "goes", "move"),
        ("dolly", "dollies", "push"),
        ("watch", None, None),
    ],
)
def test_a_verb_in_the_third_person_is_a_concept_of_its_own(verb, third, concept):
    words = lexicon.words()
    assert words.get(verb) == concept
    if third:
        assert words[third] == concept + lexicon.THIRD


@pytest.mark.parametrize(
    "forms",
    [
        ("pan", "panning", "panned"),
        ("glide", "gliding", "glided"),
        ("rise", "rising", "rose", "risen"),
        ("spin", "spinning", "spun"),
        ("tree", "trees", "branch", "branches"),
        ("cloud", "clouds"),
    ],
)
def test_forms_of_a_word_mean_the_same(forms):
    assert len({lexicon.words()[form] for form in forms}) == 1


def test_what_is_not_known_is_left_out():
    assert lexicon.understood("Pan, oh so quixotically, the xylophone left!") == ["pan", "left"]
    assert lexicon.understood("Кот сидит у окна") == []
    assert lexicon.understood("") == []


def test_case_and_punctuation_are_nothing():
    assert lexicon.understood("ZOOM-IN!!! (slowly)…") == lexicon.understood("zoom in slowly") == ["zoom", "in", "slow"]


def test_the_ends_of_short_forms_are_no_words():
    assert lexicon.understood("don't pan, it isn't night") == ["agent"]


def test_what_is_not_wanted_is_left_out_to_the_end_of_its_clause():
    assert lexicon.understood("no fog at all, night falls") == ["night", "falls"]
    assert lexicon.understood("without moving the camera while the sun sets") == ["while", "sunset"]


def test_what_somebody_does_is_not_the_camera():
    assert lexicon.understood("The dog turns left and looks up") == ["agent", "and"]
    assert lexicon.understood("The old elevator goes up") == []
    assert lexicon.understood("The camera turns left to the dog") == ["camera", "turns", "left", "to", "agent"]
    assert lexicon.understood("A woman in a snow-white dress") == ["agent", "in"]


def test_the_sun_and_the_weather_come_in_more_ways_than_one():
    assert lexicon.understood("the sun comes up") == lexicon.understood("the sun rises") == ["sunrise"]
    assert lexicon.understood("the sun goes down") == lexicon.understood("the sun has set") == ["sunset"]
    assert lexicon.understood("fog rolls in") == ["fog", "come"]
    assert lexicon.understood("pan from left to right") == ["pan", "from", "to", "right"]


def test_words_keep_their_order_and_their_number():
    text = "closer and closer, closer still"
    assert lexicon.understood(text) == ["closer", "and", "closer", "closer", "still"]
