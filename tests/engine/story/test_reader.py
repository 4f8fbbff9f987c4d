import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.story.reader import MAX_ANSWER_CHARACTERS, Unreadable, read_items, read_object

TEXTS = st.text(max_size=20)
ITEMS = st.lists(st.dictionaries(st.sampled_from(["prompt", "caption", "a\\b"]), TEXTS, max_size=3), max_size=5)


@st.composite
def answers_in_pieces(draw):
    items = draw(ITEMS)
    indent, ascii_only = draw(st.sampled_from([None, 2])), draw(st.booleans())
    text = json.dumps({"beats": items}, indent=indent, ensure_ascii=ascii_only)
    text = draw(st.sampled_from(["", "Sure! {here} it is:\n```json\n"])) + text + draw(st.sampled_from(["", "\n```"]))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return items, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=150, deadline=None)
@given(answers_in_pieces())
def test_however_an_answer_is_cut_its_items_are_the_same(answer):
    items, pieces = answer
    assert list(read_items(iter(pieces), "beats")) == items


def test_an_item_is_there_as_soon_as_its_last_character_is():
    seen = []

    def pieces():
        for character in '{"beats": [{"prompt": "a } b"}, {"prompt": "c"}]}':
            seen.append(character)
            yield character

    items = read_items(pieces(), "beats")
    assert next(items) == {"prompt": "a } b"} and "".join(seen).endswith('b"}')
    assert next(items) == {"prompt": "c"} and "".join(seen).endswith('c"}')


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("", "breaks off"),
        (', {"prompt": "half', "breaks off"),
        (', {"prompt": ["nested"]}]}', "lists or objects"),
        (', {"prompt": {"deep": "er"}}]}', "lists or objects"),
        (", 3]}", "other than objects"),
        (', {"prompt": 3}]}', "numbers"),
        (", {prompt: 'a'}]}", "not valid JSON"),
        (', {"prompt": "a\nb"}]}', "not valid JSON"),
        (', {"a": "' + "x" * MAX_ANSWER_CHARACTERS, "does not end"),
        (', {"a": ' + "9" * 10_000 + "}]}", "not valid JSON"),
    ],
)
def test_what_came_before_the_damage_is_kept(rest, reason):
    text = '{"beats": [{"prompt": "kept"}' + rest
    items = read_items((text[i : i + 100] for i in range(0, len(text), 100)), "beats")
    assert next(items) == {"prompt": "kept"}
    with pytest.raises(Unreadable, match=reason):
        list(items)


@pytest.mark.parametrize("text", ["", "I cannot help with that.", '["a", "b"]', '{"prompts": []}', "{" * 5000])
def test_an_answer_without_the_list_is_refused(text):
    with pytest.raises(Unreadable):
        list(read_items([text], "beats"))


def test_an_endless_answer_is_refused_in_time_that_grows_with_its_length_only():
    def endless(piece):
        while True:
            yield piece

    for piece in ("", " ", '{"beats": ', '{"beats": [' + "{}," * 10):
        start = time.process_time()
        with pytest.raises(Unreadable):
            for _ in read_items(endless(piece), "beats"):
                pass
        assert time.process_time() - start < 3


def test_an_object_is_found_among_prose_and_other_objects():
    text = 'I think {so}: {"a": "1"} and then ```{"a": "1", "b": ["2"]}``` {"a": "3", "b": []}'
    assert read_object(list(text), ["a", "b"]) == {"a": "1", "b": ["2"]}


@pytest.mark.parametrize(
    "text", ["", "no", '{"a": "1"}', '{"a": "1", "b": "2", "c": "3"}', '{"a":' * 100_000, "[" * 9999]
)
def test_an_object_with_other_keys_or_without_an_end_is_refused(text):
    with pytest.raises(Unreadable):
        read_object([text], ["a", "b"])
