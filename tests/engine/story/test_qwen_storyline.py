"""Storylines by a tiny random Qwen2.5-VL: it has nothing to say, and says it in exactly as many beats as asked."""

import threading
from contextlib import closing
from dataclasses import replace

import pytest

from engine.domain import clean_prompt
from engine.story.drafter import Brief, draft
from engine.story.model_drafter import ModelDrafter

LONGEST = 600  # characters, as a drafter's prompts are bounded by default
SEEDS = 50


@pytest.fixture
def drafter(writer):
    return ModelDrafter("qwen", writer)


@pytest.fixture
def brief(picture):
    return Brief(picture, 3, keywords="dog, street")


def check_storyline(drafter, brief):
    """Exactly the beats asked for: English within bounds, all different, each about one and the same subject."""
    storyline = draft(drafter, brief)
    prompts = [beat.prompt for beat in storyline.beats]
    assert storyline.source == "qwen" and len(prompts) == brief.count
    assert all(
        prompt == clean_prompt(prompt) and prompt.isascii() and 40 <= len(prompt) <= LONGEST for prompt in prompts
    )
    assert len(set(prompts)) == len(prompts)
    if len(prompts) > 1:
        opening = prompts[0][: next(i for i, pair in enumerate(zip(*prompts, strict=False)) if len(set(pair)) > 1)]
        assert len(opening.strip()) >= 5, "the subject is not repeated"


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (1, 1), (10, 2), (50, 3)])
def test_a_storyline_has_exactly_the_beats_asked_for(drafter, brief, count, seed):
    check_storyline(drafter, replace(brief, count=count, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("count", [1, 10, 50, 200])
def test_whatever_the_seed_a_storyline_has_exactly_the_beats_asked_for(drafter, brief, count, seed):
    check_storyline(drafter, replace(brief, count=count, seed=seed))


def test_beats_come_one_by_one_and_in_the_order_of_the_whole_storyline(drafter, brief, passes):
    whole = draft(drafter, brief).beats
    passes.clear()
    grown = []
    with closing(drafter.beats(brief)) as beats:
        for beat in beats:
            grown.append((beat, len(passes)))
    assert tuple(beat for beat, _ in grown) == whole
    counts = [count for _, count in grown]
    assert counts == sorted(set(counts)) and counts[1] - counts[0] > 10, "a beat waited for the one after it"


def test_closing_a_draft_runs_the_model_no_further_and_keeps_the_beats_before(drafter, brief, passes):
    beats = drafter.beats(replace(brief, count=10))
    kept = [next(beats), next(beats)]
    count = len(passes)
    beats.close()
    assert len(passes) == count
    assert kept == list(draft(drafter, replace(brief, count=10)).beats[:2])


def test_an_interrupt_in_the_middle_of_a_beat_ends_the_draft_within_one_token(writer, drafter, brief, passes):
    with closing(drafter.beats(replace(brief, count=10))) as beats:
        kept = [next(beats)]
        stop_at = len(passes) + 5

        def stop(*_):
            if len(passes) == stop_at:
                thread = threading.Thread(target=drafter.interrupt)
                thread.start()
                thread.join(10)

        hook = writer.model.register_forward_hook(stop)
        try:
            kept += beats
        finally:
            hook.remove()
    assert len(kept) == 1 and len(passes) == stop_at
