import itertools
import json

import numpy as np
import pytest
from PIL import Image

from engine.errors import InputError
from engine.story.drafter import Brief, draft
from engine.story.template import TemplateDrafter
from engine.story.vocabulary import Vocabulary, vocabulary_of

ACTIONS = [
    {"name": "stay", "kind": "stay", "phrases": ["{subject} stays still"], "keywords": ["stay", "still"]},
    {"name": "night", "kind": "light", "phrases": ["Night falls over {subject}"], "keywords": ["night"]},
    {"name": "sunrise", "kind": "light", "phrases": ["The sun rises over {subject}"], "keywords": ["sunrise", "rises"]},
    {"name": "fog", "kind": "light", "phrases": ["Fog rolls in over {subject}"], "keywords": ["fog"]},
    {"name": "winter", "kind": "light", "phrases": ["Snow covers {subject}"], "keywords": ["winter", "snow"]},
]
VOCABULARY = Vocabulary.model_validate({"actions": ACTIONS})


def templates(picture, keywords, count, *, vocabulary=VOCABULARY, **about):
    return draft(TemplateDrafter(), Brief(picture, count, keywords=keywords, vocabulary=vocabulary, **about))


@pytest.mark.parametrize("count", [1, 2, 10, 50, 200])
def test_every_prompt_is_within_the_vocabulary_without_repeats_in_a_row(picture, count):
    prompts = templates(picture, "dog, street", count, seed=1).prompts
    actions = [VOCABULARY.action_of(prompt) for prompt in prompts]
    assert len(prompts) == count and all(actions)
    assert all(a.name != b.name for a, b in itertools.pairwise(actions))
    assert all("the dog and the street" in prompt for prompt in prompts)


def test_random_pictures_always_give_known_moves(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(100):
        level, spread = generator.uniform(0, 255), generator.uniform(0, 80)
        pixels = generator.normal(level, spread, (64, 64, 3)).clip(0, 255).astype(np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        prompts = templates(path, "", 5, seed=number).prompts
        assert all(VOCABULARY.action_of(prompt) for prompt in prompts)


def test_a_storyline_is_deterministic_by_seed_and_continues_the_story(picture):
    first = templates(picture, "cat", 4, seed=2)
    assert first == templates(picture, "cat", 4, seed=2)
    more = templates(picture, "cat", 2, seed=2, so_far=first.prompts)
    last, following = (VOCABULARY.action_of(p).name for p in (first.prompts[-1], more.prompts[0]))
    assert last != following


def test_moves_named_in_the_keywords_come_first_and_in_order(picture):
    prompts = templates(picture, "fog, castle, night", 3).prompts
    assert [VOCABULARY.action_of(p).name for p in prompts[:2]] == ["fog", "night"]
    assert "the castle" in prompts[0]


def test_a_shot_has_one_prompt(picture):
    prompts = templates(picture, "cat", 3, kind="steady").prompts
    assert len(set(prompts)) == 1
    assert set(templates(picture, "cat", 2, kind="steady", so_far=prompts).prompts) == set(prompts)


def test_a_free_model_gets_free_prompts(picture):
    prompts = templates(picture, "dog, street, rainy", 8, vocabulary=None).prompts
    assert len(set(prompts)) == 8 and all("dog" in p for p in prompts)


@pytest.mark.parametrize("keywords", ["${alert(1)}", "<img src=x>", "{subject}{0}{", "مساء", "🌙", "a,,b;\n;c"])
def test_odd_keywords_are_text(picture, keywords):
    assert templates(picture, keywords, 2).prompts


def test_too_many_keywords_are_refused(picture):
    with pytest.raises(InputError, match="10,000 characters"):
        templates(picture, "k" * 10_000, 2)


def test_a_model_without_a_vocabulary_file_follows_free_text(preset):
    assert vocabulary_of(preset) is None
    (preset.path(preset.model) / "vocabulary.json").write_text(json.dumps({"actions": ACTIONS}))
    assert len(vocabulary_of(preset).actions) == 5
