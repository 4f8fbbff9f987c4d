"""Cards and files of a storyline, through the actions of the page."""

import json

import pytest

from studio.routes import PREFIX


@pytest.fixture
def film(quiet, new_film):
    return new_film(quiet, clips=3)


def prompts(state) -> list[str]:
    return [clip["prompt"] for clip in state["clips"]]


def ids(state) -> list[str]:
    return [clip["id"] for clip in state["clips"]]


def test_two_cards_become_one_and_one_becomes_two(film):
    first, second, third = ids(film.state())
    film.do("set_prompt", clip_id=first, prompt="A dog sleeps. It dreams.")
    state = film.do("merge", clip_id=first)
    assert prompts(state)[0] == "A dog sleeps. It dreams. Prompt 2" and ids(state) == [first, third]
    assert state["undo"]["label"] == "Merge clips 1 and 2"
    assert ids(film.do("undo")) == [first, second, third]
    state = film.do("split", clip_id=first)
    assert prompts(state)[:2] == ["A dog sleeps.", "It dreams."] and ids(state)[0] == first
    assert len(film.do("undo")["clips"]) == 3
    assert prompts(film.do("split", clip_id=first, at=5))[:2] == ["A dog", "sleeps. It dreams."]
    for wrong in ({"clip_id": third}, {"clip_id": "x"}, {}):
        assert film.act("merge", **wrong).status_code == 400
    assert film.act("split", clip_id=first, at="5").status_code == 400


def test_a_clip_has_a_negative_prompt_of_its_own_or_the_films(film):
    first = ids(film.state())[0]
    assert (
        film.do("set_negative_prompt", clip_id=first, negative_prompt="rain")["clips"][0]["negative_prompt"] == "rain"
    )
    assert film.do("set_negative_prompt", clip_id=first, negative_prompt=None)["clips"][0]["negative_prompt"] is None
    assert film.act("set_negative_prompt", clip_id=first, negative_prompt="x" * 3000).status_code == 400


@pytest.mark.parametrize("kind", ["txt", "json", "py", "md"])
def test_a_storyline_leaves_as_a_file_and_comes_back(film, kind):
    before = film.state()
    answer = film.client.get(before["story"]["exports"][kind])
    assert answer.status_code == 200 and answer.headers["content-disposition"].endswith(f'"storyline.{kind}"')
    film.do("delete", clip_id=ids(before)[0])
    state = film.do("import_storyline", name=f"storyline.{kind}", text=answer.text)
    assert prompts(state) == prompts(before) and state["undo"]["label"] == "Import storyline"
    assert len(film.do("undo")["clips"]) == 2


def test_an_imported_file_may_hold_captions_and_negative_prompts(film):
    clip = {"prompt": "A dog barks.", "caption": "Ein Hund bellt.", "negative_prompt": "cats"}
    state = film.do("import_storyline", name="x.json", text=json.dumps({"idea": "dog", "clips": [clip]}))
    assert [state["clips"][0][key] for key in clip] == list(clip.values()) and len(state["clips"]) == 1
    assert state["project"]["idea"] == "a hill, night"  # what the creator wrote stays


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.py", "prompts = [__import__('os').system('true')]"), ("x.json", "[" * 100_000), ("x.txt", ""), ("x.txt", 7),
     (None, "a"), ("x" * 300, "a"), ("x.txt", "\n".join("a" for _ in range(2000))), ("x.txt", "y" * 2000)],
)  # fmt: skip
def test_a_file_that_is_no_storyline_changes_nothing(film, name, text):
    before = prompts(film.state())
    answer = film.act("import_storyline", name=name, text=text)
    assert answer.status_code == 400 and answer.json()["message"]
    assert prompts(film.state()) == before


def test_remarks_stand_on_the_cards_they_are_about(film):
    state = film.do("set_prompt", clip_id=ids(film.state())[2], prompt="prompt 1")
    assert [len(clip["remarks"]) for clip in state["clips"]] == [0, 0, 1]
    assert "clip 1" in state["clips"][2]["remarks"][0].lower()


def test_a_storyline_of_an_empty_film_or_an_unknown_kind_is_not_there(quiet, new_film, film):
    empty = new_film(quiet)
    assert empty.get("storyline/txt").status_code == 404 and film.get("storyline/exe").status_code == 404
    assert film.client.get(f"{PREFIX}/p/{film.id}/storyline/txt").status_code == 404  # without a token


def test_another_idea_replaces_every_prompt(film):
    before = film.state()
    state = film.do("another_idea")
    assert ids(state) == ids(before) and not set(prompts(state)) & set(prompts(before))
    assert prompts(film.do("undo")) == prompts(before)


def test_drafters_that_are_not_there_are_refused(film):
    for source in ("qwen", "endpoint", "user", "../x", 3):
        assert film.act("draft", length=2, source=source).status_code == 400
    assert film.act("draft_again", source="template").json()["message"] == "There is no storyline to go on with."
    assert film.do("stop_draft")["phase"] == "ready"
