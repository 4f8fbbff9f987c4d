import itertools
import json
import random
import re

import numpy as np
import pytest
from PIL import Image

from engine.config import load_preset
from engine.domain import Telling
from engine.errors import InputError
from engine.pocket.asked import OPPOSITES
from engine.story.drafter import Brief, draft
from engine.story.review import review
from engine.story.template import TemplateDrafter, phrase_for
from engine.story.vocabulary import Vocabulary, vocabulary_of

TONES = ("as the picture", "drama", "comedy", "science fiction")
PACES = ("slow", "steady", "lively")
KINDS = {"camera", "light", "living"}
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
    assert all("the dog and the street" in prompt.lower() for prompt in prompts)


def drawn(kind, generator):
    """uint8 (64, 96, 3): one colour, noise, a gradient between two colours, or patches."""
    one, other = generator.integers(0, 256, (2, 3))
    if kind == "noise":
        level, spread = generator.uniform(0, 255), generator.uniform(0, 80)
        return generator.normal(level, spread, (64, 96, 3)).clip(0, 255).astype(np.uint8)
    if kind == "patches":
        return generator.integers(0, 256, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    share = np.linspace(0, 1, 96)[None, :, None] if kind == "gradient" else np.zeros((1, 96, 1))
    return np.broadcast_to(one * (1 - share) + other * share, (64, 96, 3)).astype(np.uint8)


KEYWORDS = (
    "",
    "dog, street",
    "two boats",
    "lake, mountains, calm",
    "harbour at night, fog",
    "an old man",
    "storm, rain",
)


def test_storylines_of_40_random_pictures_stay_within_what_the_pocket_knows(tmp_path):
    pocket = vocabulary_of(load_preset("pocket"))
    generator = np.random.default_rng(0)
    kinds = ["one colour", "noise", "gradient", "patches"] * 10
    starts = set()
    for number, kind in enumerate(kinds):
        path = tmp_path / f"{number}.png"
        Image.fromarray(drawn(kind, generator)).save(path)
        about = {"vocabulary": pocket, "seed": number, "telling": Telling(pace=("slow", "steady")[number % 2])}
        prompts = templates(path, KEYWORDS[number % len(KEYWORDS)], 12, **about).prompts
        moves = [pocket.action_of(prompt) for prompt in prompts]
        assert len(prompts) == 12 and all(moves), prompts
        assert all(a.name != b.name for a, b in itertools.pairwise(moves)), prompts
        assert prompts == templates(path, KEYWORDS[number % len(KEYWORDS)], 12, **about).prompts
        assert prompts != templates(path, KEYWORDS[number % len(KEYWORDS)], 12, **about | {"seed": number + 1}).prompts
        starts.add(moves[0].name)
    assert len(starts) >= 4, "every story begins with the same move"


def test_a_phrase_comes_again_only_when_all_of_its_move_were_used(picture):
    pocket = vocabulary_of(load_preset("pocket"))
    prompts = templates(picture, "castle", 40, vocabulary=pocket).prompts
    assert len(set(prompts)) == 40


@pytest.mark.parametrize(
    ("keywords", "subject"),
    [
        ("dog, street", "the dog and the street"),
        ("An old harbour", "an old harbour"),
        ("Two children on a beach", "two children on a beach"),
        ("street at night", "the street"),
        ("foggy harbour in the rain", "the harbour"),
        ("still life", "the still life"),
        ("night", "the scene"),
        ("", "the scene"),
        ("my house, the garden, more", "my house and the garden"),
    ],
)
def test_the_subject_reads_as_a_sentence_wants_it(picture, keywords, subject):
    pocket = vocabulary_of(load_preset("pocket"))
    for prompt in templates(picture, keywords, 16, vocabulary=pocket, seed=4).prompts:
        assert subject in prompt or subject[0].upper() + subject[1:] in prompt


@pytest.mark.parametrize("keywords", ["dog, street", "boats", "two old men"])
def test_several_things_get_no_verb_of_a_single_one(picture, keywords):
    pocket = vocabulary_of(load_preset("pocket"))
    for pace in ("slow", "steady"):
        prompts = templates(picture, keywords, 60, vocabulary=pocket, telling=Telling(pace=pace)).prompts
        wrong = re.compile(r"(street|boats|men) (is|lies|disappears|becomes|grows|freezes|rests|waits|stays)\b")
        assert not [prompt for prompt in prompts if wrong.search(prompt)]
    assert any("becomes" in p or "lies" in p for p in templates(picture, "boat", 60, vocabulary=pocket).prompts)


def test_the_slow_pace_rests_after_each_move(picture):
    prompts = templates(picture, "cat", 6, telling=Telling(pace="slow")).prompts
    assert [VOCABULARY.action_of(prompt).kind for prompt in prompts] == ["light", "stay"] * 3
    more = templates(picture, "cat", 2, telling=Telling(pace="slow"), so_far=prompts[:5]).prompts
    assert [VOCABULARY.action_of(prompt).kind for prompt in more] == ["stay", "light"]


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


def names_of(prompts):
    """Moves of each prompt by the shipped vocabulary, () for a rest."""
    pocket = vocabulary_of(load_preset("pocket"))
    return [tuple(name for name in pocket.reading(prompt).names if name != "stay") for prompt in prompts]


def away(prompts):
    """Camera moves that are not undone."""
    left = []
    for name in itertools.chain.from_iterable(names_of(prompts)):
        if OPPOSITES.get(name) in left:
            left.remove(OPPOSITES[name])
        elif name in OPPOSITES:
            left.append(name)
    return left


@pytest.fixture
def shore(tmp_path):
    """A clear sky over water, with grass before it."""
    rows = np.linspace(0, 1, 200)[:, None, None]
    sky = np.array([110, 160, 230]) + rows * 60
    water = np.array([40, 90, 140]) + 25 * np.sin(rows * 90)
    pixels = np.broadcast_to(np.where(rows < 0.5, sky, water), (200, 300, 3)).copy()
    noise = np.random.default_rng(0).normal(0, 30, (50, 300, 1))
    pixels[150:] = np.array([60, 130, 40]) + noise
    path = tmp_path / "shore.png"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("count", [4, 6, 10, 25])
def test_the_camera_is_back_where_it_began_when_a_story_ends(shore, count, pace):
    pocket = vocabulary_of(load_preset("pocket"))
    for seed in range(12):
        prompts = templates(shore, "boat", count, vocabulary=pocket, seed=seed, telling=Telling(pace=pace)).prompts
        assert away(prompts) == [], prompts
        assert all(len(away(prompts[:number])) <= 2 for number in range(count)), "there is no room to go on and on"


def test_a_story_that_is_asked_for_clip_by_clip_comes_back_too(shore):
    pocket = vocabulary_of(load_preset("pocket"))
    for seed in range(6):
        so_far = ()
        for number in range(24):
            so_far += templates(shore, "boat", 1, vocabulary=pocket, seed=100 * seed + number, so_far=so_far).prompts
        depths = [len(away(so_far[:number])) for number in range(25)]
        assert max(depths) in (1, 2) and depths[1:].count(0) >= 4, so_far
        assert {kind for names in names_of(so_far) for name in names if (kind := pocket.of(name).kind)} == KINDS


def test_a_story_has_camera_light_and_life_and_rests(shore):
    pocket = vocabulary_of(load_preset("pocket"))
    for seed in range(12):
        names = names_of(templates(shore, "boat", 10, vocabulary=pocket, seed=seed).prompts)
        assert {pocket.of(name).kind for name in itertools.chain.from_iterable(names)} == KINDS
        assert all(not set(first) & set(second) for first, second in itertools.pairwise(names))
        assert sum(not name or name == ("calm",) for name in names) in (1, 2, 3)


def test_a_lively_story_names_two_moves_in_most_prompts_and_a_slow_one_in_few(shore):
    pocket = vocabulary_of(load_preset("pocket"))

    def pairs(pace):
        about = {"vocabulary": pocket, "telling": Telling(pace=pace)}
        stories = (names_of(templates(shore, "boat", 20, seed=seed, **about).prompts) for seed in range(8))
        return sum(len(names) == 2 for story in stories for names in story) / 160

    assert pairs("slow") < pairs("steady") < pairs("lively") and 0.35 < pairs("lively") < 0.8 and pairs("slow") < 0.12


def test_what_lives_is_offered_only_where_the_picture_has_it(shore, tmp_path):
    pocket = vocabulary_of(load_preset("pocket"))
    indoors = tmp_path / "wall.png"
    Image.fromarray(np.full((200, 300, 3), (150, 110, 90), np.uint8)).save(indoors)

    def living(path):
        stories = (names_of(templates(path, "boat", 30, vocabulary=pocket, seed=seed).prompts) for seed in range(6))
        return {name for story in stories for names in story for name in names if pocket.of(name).kind == "living"}

    assert living(indoors) == set()
    assert {"ripple", "drift"} <= living(shore) and "twinkle" not in living(shore)
    assert names_of(templates(indoors, "rain, boat", 1, vocabulary=pocket).prompts) == [("rain",)], "it was asked for"


def test_weather_does_not_stay_for_ever(shore):
    pocket = vocabulary_of(load_preset("pocket"))
    for seed in range(8):
        names = names_of(templates(shore, "rain, boat", 20, vocabulary=pocket, seed=seed).prompts)
        assert any("calm" in one for one in names[1:12]), names


def test_another_seed_tells_another_story_of_the_same_picture(shore):
    pocket = vocabulary_of(load_preset("pocket"))
    stories = {tuple(names_of(templates(shore, "boat", 6, vocabulary=pocket, seed=s).prompts)) for s in range(20)}
    assert len(stories) >= 18 and len({story[0] for story in stories}) >= 5


def test_a_shot_is_told_to_do_what_can_go_on(shore):
    pocket = vocabulary_of(load_preset("pocket"))
    for seed in range(8):
        prompts = templates(shore, "boat", 3, vocabulary=pocket, kind="steady", seed=seed).prompts
        assert len(set(prompts)) == 1 and pocket.action_of(prompts[0]).kind == "living"
    zoom = templates(shore, "boat, zoom in", 3, vocabulary=pocket, kind="steady").prompts
    assert set(names_of(zoom)) == {("zoom_in",)}


def test_a_keyword_that_is_the_title_of_a_move_asks_for_it(picture):
    pocket = vocabulary_of(load_preset("pocket"))
    for action in pocket.actions:
        [prompt] = templates(picture, f"boat, {action.title}", 1, vocabulary=pocket).prompts
        assert pocket.reading(prompt).names == (action.name,) and "the boat" in prompt.lower()


def test_a_shot_has_one_prompt(picture):
    prompts = templates(picture, "cat", 3, kind="steady").prompts
    assert len(set(prompts)) == 1
    assert set(templates(picture, "cat", 2, kind="steady", so_far=prompts).prompts) == set(prompts)


@pytest.mark.parametrize("keywords", KEYWORDS)
def test_fifty_free_prompts_are_fifty_and_no_two_say_nearly_the_same(picture, keywords):
    subjects = ("dog", "boats", "man", "lake", "harbour", "scene", "storm")
    for seed in range(4):
        about = {"vocabulary": None, "seed": seed, "telling": Telling(tone=TONES[seed], pace=PACES[seed % 3])}
        prompts = templates(picture, keywords, 50, **about).prompts
        assert len(set(prompts)) == 50 and review(prompts) == ()
        assert all(any(subject in prompt for subject in subjects) for prompt in prompts)
        assert prompts == templates(picture, keywords, 50, **about).prompts
        first = prompts[:20]
        more = templates(picture, keywords, 30, **about | {"seed": seed + 9}, so_far=first).prompts
        assert more == prompts[20:], "a story goes on as if it had never stopped"
        other = templates(picture, keywords, 30, **about, so_far=first, other_than=more).prompts
        assert not set(other) & {*first, *more} and len(set(other)) == 30


def test_the_longest_film_has_no_free_prompt_twice(picture):
    assert len(set(templates(picture, "dog", 1000, vocabulary=None).prompts)) == 1000


def test_a_phrase_for_a_move_asks_for_that_move_alone():
    pocket = vocabulary_of(load_preset("pocket"))
    for action, seed in itertools.product(pocket.actions, range(60)):
        prompt = phrase_for(action, pocket, "a small brown dog", random.Random(seed))
        assert pocket.action_of(prompt) == action, prompt


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


@pytest.mark.parametrize(
    ("keywords", "first"), [("golden retriever", ""), ("golden hour", "sunset"), ("golden", "sunrise")]
)
def test_a_golden_animal_asks_for_no_sunrise_and_golden_light_does(picture, keywords, first):
    pocket = vocabulary_of(load_preset("pocket"))
    prompt = templates(picture, f"{keywords}, fog", 1, vocabulary=pocket).prompts[0]
    assert pocket.reading(prompt).names == ((first,) if first else ("fog",))
    assert ("the golden retriever" in prompt) is not bool(first)
