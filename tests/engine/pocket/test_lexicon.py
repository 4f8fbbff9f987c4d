import pytest

from engine.pocket import lexicon


def test_it_knows_fifteen_hundred_words():
    assert len(lexicon.words()) >= 1500


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
