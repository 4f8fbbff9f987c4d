import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domain import (
    ID_PATTERN,
    MAX_PROMPT_CHARACTERS,
    Beat,
    Clip,
    Resolution,
    clean_prompt,
    nearest_resolution,
    new_id,
)
from engine.errors import InputError, StudioError


@pytest.mark.parametrize("text", ["", "   ", "\x00\x07", "\u202e", "x" * (MAX_PROMPT_CHARACTERS + 1), "y" * 10_000])
def test_unusable_prompts_are_refused_with_a_sentence(text):
    with pytest.raises(InputError, match=r"\."):
        clean_prompt(text)


@pytest.mark.parametrize("text", ["${alert(1)}", "<img src=x onerror=alert(1)>", "مساء الخير", "🌙 night", "a" * 1000])
def test_hostile_looking_prompts_are_kept_as_text(text):
    assert clean_prompt(text) == text


def test_direction_overrides_are_removed():
    assert clean_prompt("night\u202e falls\u2066 now") == "night falls now"


def test_control_characters_of_either_set_are_removed():
    assert clean_prompt("night\x1b[31m falls\x07 now") == "night [31m falls now"
    assert clean_prompt("night\x9b31m falls\x85\x80now") == "night 31m falls now"


@pytest.mark.parametrize("caption", ["", " \n", "\x00\x07", "\x9b\u202e \ufeff"])
def test_a_caption_of_nothing_to_read_is_an_empty_one(caption):
    assert Beat(prompt="night falls", caption=caption).caption == ""


@given(st.text(max_size=2000))
def test_a_cleaned_prompt_is_stable(text):
    try:
        cleaned = clean_prompt(text)
    except StudioError:
        return
    assert clean_prompt(cleaned) == cleaned


def test_ids_have_the_published_form_and_differ():
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(ID_PATTERN.match(i) for i in ids)


def test_a_clip_refuses_a_foreign_id():
    with pytest.raises(ValueError):
        Clip(id="../etc", prompt="night")


def test_sides_are_multiples_of_16():
    with pytest.raises(InputError, match="100×64"):
        Resolution(100, 64)


def test_the_nearest_resolution_compares_aspects():
    offered = (Resolution(192, 128), Resolution(128, 192), Resolution(160, 160))
    assert nearest_resolution(4000, 3000, offered) == Resolution(192, 128)
    assert nearest_resolution(3000, 4000, offered) == Resolution(128, 192)
    assert nearest_resolution(1000, 1010, offered) == Resolution(160, 160)
