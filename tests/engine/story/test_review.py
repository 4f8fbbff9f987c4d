import random
import time

import pytest

from engine.config import load_preset
from engine.pocket.phrases import OFFERS
from engine.story.drafter import Brief, draft
from engine.story.review import review
from engine.story.template import TemplateDrafter
from engine.story.tokens import token_counter, token_limit
from engine.story.vocabulary import vocabulary_of

DOG = "A small brown dog with a red collar"
STORY = [
    f"{DOG} lies on the stone step of a house in the morning and lifts its head. The camera stays close.",
    f"{DOG} gets up and stretches its front legs far forward, while leaves drift across the step.",
    f"{DOG} trots down the street past a baker's window. The camera follows at its side.",
    f"{DOG} stops at a puddle and drinks, and rings spread over the water in the noon light.",
    f"{DOG} shakes itself in front of a green gate as the sun slowly sets behind the roofs.",
    f"{DOG} lies down under a lamp in the quiet night, and the camera draws back to a wide view.",
]


def kinds(prompts, **about):
    return [(remark.index, remark.kind) for remark in review(prompts, **about)]


def test_a_sound_story_gets_no_remark():
    assert review(STORY) == () and review([]) == () and review(STORY[:1]) == ()


def test_a_prompt_that_was_there_before_is_named_with_its_clip():
    remarks = review([*STORY[:3], STORY[0].upper().replace(".", " !")])
    assert [(remark.index, remark.kind) for remark in remarks] == [(3, "repeat")]
    assert remarks[0].text == "This is the prompt of clip 1 again."


def test_nearly_the_same_prompt_is_noticed_and_the_same_subject_is_not_enough():
    assert kinds([*STORY, STORY[1].replace("far forward", "forwards")]) == [(6, "similar")]
    assert kinds([f"{DOG} barks.", f"{DOG} sits down on the grass."]) == []


@pytest.mark.parametrize("words", [30, 31, 33, 40])
def test_prompts_that_share_four_fifths_of_their_words_are_alike_wherever_they_stand(words):
    generator = random.Random(words)
    vocabulary = [f"word{number}" for number in range(400)]
    others = [" ".join(generator.sample(vocabulary, words)) for _ in range(100)]
    first = generator.sample(vocabulary, words)
    changed = words // 10  # of the words of either: shared / all = (n - c) / (n + c) > 0.8
    twin = [*first[changed:], *(f"new{number}" for number in range(changed))]
    assert kinds([*others[:50], " ".join(first), *others[50:], " ".join(twin)]) == [(101, "similar")]


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("stands in bright sunlight", "waits at midnight", ["time"]),
        ("sleeps under the stars", "eats in the sunny garden", ["time"]),
        ("stands in bright sunlight", "sits while night falls over the roofs", []),
        ("stands in bright sunlight", "watches the sunset and the first stars", []),
        ("sleeps under the stars", "wakes as the sun slowly rises into a clear day", []),
        ("walks in the morning", "walks on in the afternoon", []),
        ("waits at midnight", "stands still while soft light falls on it at noon", ["time"]),
    ],
)
def test_day_and_night_change_only_with_a_word_for_it(first, second, found):
    assert [remark.kind for remark in review([f"{DOG} {first}.", f"{DOG} {second}."])] == found


def test_a_change_of_light_in_between_counts():
    prompts = [f"{DOG} sits at noon.", f"{DOG} watches the sunset.", f"{DOG} sits at night."]
    assert kinds(prompts) == [] and kinds(prompts[::2]) == [(1, "time")]
    text = review([*STORY[:1], *prompts[::2]])[0].text
    assert text == "This is at night and clip 2 is in daylight: let night fall in between."


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("sits in the kitchen", "looks at the desert dunes", ["place"]),
        ("sits in the kitchen", "walks out of the door and down the street", []),
        ("swims in the sea", "rests in a dark forest", ["place"]),
        ("swims in the sea", "drifts on the ocean waves", []),
        ("stands in the street", "stands still, and the camera reveals the sea", []),
    ],
)
def test_places_change_only_with_a_way_there(first, second, found):
    assert [remark.kind for remark in review([f"{DOG} {first}.", f"{DOG} {second}."])] == found


def test_a_place_that_jumps_is_named():
    text = review([f"{DOG} sits in the kitchen.", f"{DOG} rolls over.", f"{DOG} digs in the desert."])[0].text
    assert text == "This is in a desert and clip 1 is indoors: show the way there."


def test_a_prompt_longer_than_the_encoder_reads_is_counted_exactly():
    def words(prompt):
        return len(prompt.split()) + 1

    long = "dog " * 539
    remarks = review([STORY[0], long], count_tokens=words, max_tokens=512)
    assert [remark.text for remark in remarks] == ["This prompt has 540 tokens; the film model reads the first 512."]
    assert review(["dog " * 511], count_tokens=words, max_tokens=512) == ()
    assert review([long]) == ()


def test_the_pocket_is_judged_by_its_moves_and_its_tokens(picture):
    preset = load_preset("pocket")
    vocabulary = vocabulary_of(preset)
    about = {"count_tokens": token_counter(preset), "max_tokens": token_limit(preset), "vocabulary": vocabulary}
    prompts = draft(TemplateDrafter(), Brief(picture, 60, keywords="lake", vocabulary=vocabulary)).prompts
    assert review(prompts, **about) == ()
    assert kinds([*prompts[:3], "The lake dances."], **about) == [(3, "move")]
    assert kinds([prompts[0], prompts[0]], **about) == [(1, "repeat")]
    everything = ". ".join(offer.phrases[0].format(subject="the lake") for offer in OFFERS if offer.kind != "stay")
    assert (0, "length") in kinds([everything], **about)


def test_several_prompts_in_a_shot_are_one_remark():
    assert kinds([STORY[0]] * 5, kind="steady") == []
    remarks = review([STORY[0], STORY[0], STORY[1], STORY[2]], kind="steady")
    assert [(remark.index, remark.kind) for remark in remarks] == [(2, "steady")]
    assert "3 different prompts" in remarks[0].text


def test_clips_that_share_a_prompt_on_purpose_are_no_repeats():
    twice = [prompt for prompt in STORY for _ in range(2)]
    assert kinds(twice, clips_per_prompt=2) == []
    assert [index for index, _ in kinds(twice)] == [1, 3, 5, 7, 9, 11]
    remarks = review([*twice, STORY[0], STORY[0]], clips_per_prompt=2)
    assert [(remark.index, remark.text) for remark in remarks if remark.kind == "repeat"] == [
        (12, "This is the prompt of clip 1 again.")
    ]


@pytest.mark.parametrize("alike", ["different", "nearly the same", "the same"])
def test_a_thousand_prompts_are_reviewed_in_the_time_of_a_few_pictures(alike):
    """Some 30 ms on an idle machine; the bound leaves room for a busy one."""
    generator = random.Random(0)
    words = [f"word{int(generator.paretovariate(0.6)) % 5000}" for _ in range(50_000)]
    prompts = [f"{DOG} {' '.join(words[50 * i : 50 * i + 50])}." for i in range(1000)]
    if alike != "different":
        prompts = [prompts[0] + (f" {i}" if alike == "nearly the same" else "") for i in range(1000)]
    times = []
    for _ in range(3):
        start = time.process_time()
        review(prompts)
        times.append(time.process_time() - start)
    assert min(times) < 0.2
