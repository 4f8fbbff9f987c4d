"""Free sentences, written before the vocabulary was read: the model does what they say."""

from collections import Counter
from pathlib import Path

import pytest

from engine.pocket import lexicon

LISTS = sorted(Path(__file__).parent.glob("*_sentences.yaml"))  # each written by somebody who had seen no rule
WEIGHTS = Path(__file__).parents[3] / "assets" / "pocket"
MOST_WRONG = 0.02


@pytest.fixture(scope="module")
def sentences():
    from engine.evaluation.sentences import read_sentences

    return [sentence for path in LISTS for sentence in read_sentences(path)]


def plain(text: str) -> str:
    return " ".join(lexicon.split(text))


def test_there_are_enough_of_every_kind(sentences):
    kinds = Counter((one.camera != "none", one.lights != ("none",)) for one in sentences)
    assert len(sentences) >= 200
    assert kinds[True, False] >= 70 and kinds[False, True] >= 60 and kinds[True, True] >= 35
    assert sum(one.camera == "none" and one.lights == ("none",) and not one.living for one in sentences) >= 25
    assert sum(bool(one.living) for one in sentences) >= 15


def test_every_move_is_asked_for(sentences):
    from engine.evaluation.sentences import CAMERA_OUTCOMES, LIGHT_OUTCOMES

    cameras = Counter(one.camera for one in sentences)
    lights = Counter(light for one in sentences for light in one.lights)
    assert all(cameras[name] >= 5 for name in CAMERA_OUTCOMES), cameras
    assert all(lights[name] >= 8 for name in LIGHT_OUTCOMES), lights


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_no_sentence_is_there_twice(path):
    from engine.evaluation.sentences import read_sentences

    sentences = read_sentences(path)
    assert len({plain(one.text) for one in sentences}) == len(sentences) >= 200


def test_a_move_that_does_not_exist_is_refused(tmp_path):
    from engine.errors import InputError
    from engine.evaluation.sentences import read_sentences

    path = tmp_path / "sentences.yaml"
    path.write_text('- {text: "Fly", camera: fly, light: none}\n')
    with pytest.raises(InputError, match="fly"):
        read_sentences(path)


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS / "transformer").is_dir(), reason="assets/pocket has no weights yet")
@pytest.mark.parametrize("num_frames", [25, 81])
def test_the_shipped_model_does_what_free_sentences_say(sentences, num_frames):
    from engine.evaluation.sentences import measure
    from engine.pocket import gates
    from engine.pocket.model import load_components

    photos = gates.held_out_photos((192, 288))[:2]
    found = measure(load_components(WEIGHTS), sentences, photos, num_frames=num_frames)
    assert found["rate"] <= MOST_WRONG, found["wrong"]
