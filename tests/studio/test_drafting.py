"""Storylines written by a language model in the job lane: card by card, stopped, failed, gone on with."""

import time
from dataclasses import replace

import pytest

from engine.errors import InputError
from studio.limits import MAX_PER_HOUR
from tests.studio.drafters import FOLDER


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The folder of the files that steer the scripted drafter in the worker."""
    folder = tmp_path / "told"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


@pytest.fixture
def writing(open_studio, told, tmp_path):
    """A studio whose worker writes storylines with the scripted drafter."""
    folder = tmp_path / "Qwen for tests"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"stand-in")
    studio = open_studio("fast", start=False, drafter="qwen", drafter_model=str(folder))
    studio.queue._options = replace(studio.queue._options, drafter="tests.studio.drafters:scripted")
    studio.start()
    return studio


def prompts(state) -> list[str]:
    return [clip["prompt"] for clip in state["clips"]]


def test_cards_appear_one_at_a_time_and_are_one_edit(writing, new_film, told):
    (told / "hold").write_text("3")
    film = new_film(writing)
    film.do("draft", keywords="a dog", length=4)
    state = film.until(lambda s: (s["story"]["drafting"] or {}).get("done") == 2 and len(s["clips"]) == 2)
    assert state["phase"] == "drafting" and state["primary"]["action"] == "stop_draft"
    drafting = {
        "state": "writing",
        "title": "Qwen for tests",
        "done": 2,
        "of": 4,
        "first": 0,
        "awaited": [],
        "fresh": 2,
    }
    assert state["story"]["drafting"] == drafting
    assert "Writing card 3 of 4 with Qwen for tests" in state["message"]
    film.do("set_prompt", clip_id=state["clips"][0]["id"], prompt="Mine, edited meanwhile.")
    (told / "hold").unlink()
    done = film.until(lambda s: s["phase"] == "ready")
    assert prompts(done) == ["Mine, edited meanwhile.", *(f"a dog: beat {n} after 0." for n in (2, 3, 4))]
    assert done["story"]["drafting"] is None and done["project"]["storyline_source"] == "qwen"
    film.do("undo")
    assert film.do("undo")["clips"] == []


def test_a_stopped_draft_keeps_the_written_cards(writing, new_film, told):
    (told / "hold").write_text("3")
    film = new_film(writing)
    film.do("draft", keywords="a dog", length=9)
    film.until(lambda s: len(s["clips"]) == 2)
    film.do("stop_draft")
    state = film.until(lambda s: s["phase"] == "ready")
    assert len(state["clips"]) == 2 and state["story"]["problem"] is None
    assert "2 cards kept" in state["announce"]


def test_nobody_steps_in_for_a_failed_drafter_until_asked(writing, new_film, told):
    (told / "fail-3").touch()
    film = new_film(writing)
    film.do("draft", keywords="a dog", length=5)
    state = film.until(lambda s: s["story"]["problem"])
    assert len(state["clips"]) == 2 and state["phase"] == "ready"
    problem = state["story"]["problem"]
    assert problem["message"] == "The model wrote nothing that can be used." and problem["kept"] == 2
    assert [choice["source"] for choice in problem["choices"]] == ["qwen", "template"]
    state = film.do("draft_again", source="template")
    assert len(state["clips"]) == 5 and state["story"]["problem"] is None
    assert prompts(state)[1] == "a dog: beat 2 after 0."


def test_trying_again_goes_on_where_it_stopped(writing, new_film, told):
    (told / "fail-3").touch()
    film = new_film(writing)
    film.do("draft", keywords="a dog", length=4)
    film.until(lambda s: s["story"]["problem"])
    (told / "fail-3").unlink()
    film.do("draft_again")
    state = film.until(lambda s: len(s["clips"]) == 4 and s["phase"] == "ready")
    assert prompts(state)[2:] == ["a dog: beat 1 after 2.", "a dog: beat 2 after 2."]
    film.do("undo")
    assert film.state()["clips"] == []


@pytest.mark.parametrize(("file", "words"), [("exhaust-2", "no memory left"), ("die-2", "stopped the studio's worker")])
def test_trouble_while_drafting_leaves_films_alone(writing, new_film, told, file, words):
    (told / file).touch()
    film, other = new_film(writing), new_film(writing, clips=1)
    film.do("draft", keywords="a dog", length=3)
    other.do("generate")
    state = film.until(lambda s: s["story"]["problem"], 30)
    assert words in state["story"]["problem"]["message"] and len(state["clips"]) == 1
    other.until_phase("finished", 30)


def test_redrafting_from_a_card_keeps_the_ones_before_and_their_takes(writing, new_film, told):
    film = new_film(writing, clips=4)
    film.do("generate")
    before = film.until_phase("finished")
    film.do("redraft_from", clip_id=before["clips"][2]["id"])
    state = film.until(lambda s: s["phase"] == "ready")
    assert prompts(state)[:2] == ["prompt 1", "prompt 2"]
    assert prompts(state)[2:] == [f"a hill, night: beat {n} after 2." for n in (1, 2)]
    assert [clip["status"] for clip in state["clips"]] == ["done", "done", "stale", "stale"]
    assert (told / "briefs").read_text().split() == ["2", "2", "4.png"]  # from the last frame of clip 2


def test_a_shorter_storyline_takes_the_place_of_a_longer_one_only_when_complete(writing, new_film, told):
    (told / "hold").write_text("2")
    film = new_film(writing, clips=4)
    film.do("draft", length=2)
    assert len(film.until(lambda s: s["story"]["drafting"] and s["story"]["drafting"]["done"] == 1)["clips"]) == 4
    (told / "hold").unlink()
    assert len(film.until(lambda s: s["phase"] == "ready")["clips"]) == 2
    assert len(film.do("undo")["clips"]) == 4


def test_extend_drafts_from_the_last_frame_and_then_generates(writing, new_film, told):
    film = new_film(writing, clips=1)
    film.do("generate")
    film.until_phase("finished")
    film.do("extend", count=1)
    state = film.until(lambda s: s["phase"] == "finished" and len(s["clips"]) == 2)
    assert prompts(state)[1] == "a hill, night: beat 1 after 1."
    assert (told / "briefs").read_text().split() == ["1", "1", "4.png"]


def test_a_film_without_end_asks_for_one_beat_after_another(writing, new_film, told):
    film = new_film(writing, clips=1)
    film.do("extend", count="forever")
    film.until(lambda s: len(s["clips"]) >= 4 and s["clips"][3]["status"] == "done", 40)
    film.act("stop")  # whatever it is doing at this moment, one click ends it
    state = film.until(lambda s: s["phase"] in ("finished", "paused", "ready"))
    count, asked = len(state["clips"]), len((told / "briefs").read_text().splitlines())
    assert prompts(state)[1:4] == [f"a hill, night: beat 1 after {n}." for n in (1, 2, 3)]
    time.sleep(0.5)
    assert len(film.state()["clips"]) == count and len((told / "briefs").read_text().splitlines()) == asked


@pytest.mark.parametrize("action", ["stop", "pause", "stop_draft"])
def test_a_film_without_end_ends_while_its_next_beat_is_written(writing, new_film, told, action):
    (told / "hold").write_text("1")
    film = new_film(writing, clips=1)
    film.do("extend", count="forever")
    film.until(lambda s: s["phase"] == "drafting")
    film.do(action)
    (told / "hold").unlink()
    state = film.until(lambda s: s["phase"] != "drafting")
    assert state["phase"] == "finished" and len(state["clips"]) == 1 and not writing.queue.busy(film.id)


def test_the_next_beat_is_a_card_and_no_clip(writing, new_film):
    film = new_film(writing, clips=1)
    film.do("next_beat")
    state = film.until(lambda s: len(s["clips"]) == 2 and s["phase"] == "ready")
    assert [clip["status"] for clip in state["clips"]] == ["draft", "draft"]


def test_a_shot_keeps_its_one_prompt_without_asking(writing, new_film, told):
    film = new_film(writing)
    film.do("set_settings", variant="shot")
    film.do("draft", keywords="a dog", length=3)
    film.until(lambda s: len(s["clips"]) == 3 and s["phase"] == "ready")
    state = film.do("next_beat")
    assert prompts(state)[3] == prompts(state)[0] and state["project"]["storyline_source"] == "qwen"
    assert len((told / "briefs").read_text().splitlines()) == 1


def test_nothing_is_generated_or_drafted_while_a_storyline_is_written(writing, new_film, told):
    (told / "hold").write_text("2")
    film = new_film(writing)
    film.do("draft", keywords="a dog", length=3)
    film.until(lambda s: len(s["clips"]) == 1)
    for action, details in (("generate", {}), ("draft", {}), ("extend", {}), ("undo", {}), ("another_idea", {})):
        assert "still being written" in film.act(action, **details).json()["message"]
    assert "Stop it first" in film.act("delete_project").json()["hint"]
    film.do("stop_draft")
    film.until(lambda s: s["phase"] == "ready")


def test_captions_come_in_the_language_asked_for(writing, new_film):
    film = new_film(writing)
    state = film.do("set_settings", language="de", tone="comedy", pace="lively")
    assert state["story"]["telling"] == {"tone": "comedy", "pace": "lively", "language": "de"}
    film.do("draft", keywords="a dog", length=2)
    state = film.until(lambda s: s["phase"] == "ready")
    assert [clip["caption"] for clip in state["clips"]] == ["Bild 1", "Bild 2"]
    edited = film.do("set_prompt", clip_id=state["clips"][0]["id"], prompt="Something else.")
    assert edited["clips"][0]["caption"] == ""
    for wrong in ({"language": "xx"}, {"tone": "loud"}, {"pace": 3}):
        assert film.act("set_settings", **wrong).status_code == 400


def test_drafts_wait_their_turn_in_the_lane(writing, new_film, told):
    (told / "hold").write_text("1")
    first, second = new_film(writing), new_film(writing)
    first.do("draft", keywords="one", length=1)
    second.do("draft", keywords="two", length=1)
    state = second.until(lambda s: "before your storyline" in s["message"])
    assert state["phase"] == "drafting"
    second.do("stop_draft")
    assert second.until(lambda s: s["phase"] == "draft")["clips"] == []
    (told / "hold").unlink()
    first.until_phase("ready")


def test_a_film_that_could_not_follow_its_storyline_is_asked_for_again(writing, new_film):
    film = new_film(writing, clips=1)
    reserve = film.studio.actions.config.reserve_bytes
    film.do("next_beat")
    film.until(lambda s: s["phase"] == "ready")
    drafting = film.studio.actions.drafting
    film.studio.actions.config = film.studio.actions.config.model_copy(update={"reserve_bytes": 10**18})
    film.studio.actions.storylines.continue_with(
        film.id, 1, film.studio.actions.storylines.chosen(film.id), then="generate"
    )
    state = film.until(lambda s: s["story"]["problem"])
    assert len(state["clips"]) == 3 and "room" in state["story"]["problem"]["message"].lower()
    film.studio.actions.config = film.studio.actions.config.model_copy(update={"reserve_bytes": reserve})
    film.do("draft_again")
    assert len(film.until_phase("finished")["clips"]) == 3 and not drafting.under_way(film.id)


def test_a_studio_that_closes_while_drafting_keeps_the_cards(writing, open_studio, new_film, told):
    (told / "hold").write_text("3")
    film = new_film(writing)
    film.do("draft", keywords="a dog", length=9)
    film.until(lambda s: len(s["clips"]) == 2)
    writing.close()
    again = open_studio("fast", start=False)
    film.studio, film.client = again, new_film(again).client
    film.token = again.tokens.give(film.id, "edit")
    state = film.state()
    assert len(state["clips"]) == 2 and state["phase"] == "ready" and not again.queue.busy(film.id)
    problem = state["story"]["problem"]
    assert "restarted" in problem["message"] and (problem["kept"], problem["of"]) == (2, 9) and not problem["choices"]
    assert film.do("stop_draft")["story"]["problem"] is None


def test_a_film_without_end_goes_on_after_a_restart_in_the_middle_of_a_draft(writing, open_studio, new_film, told):
    (told / "hold").write_text("1")
    film = new_film(writing, clips=1)
    film.do("extend", count="forever")
    film.until(lambda s: s["phase"] == "drafting")
    writing.close()
    again = open_studio("fast", start=False)
    assert again.queue.job_of(film.id).forever


def test_the_lane_is_as_patient_with_a_language_model_as_with_an_unknown_film_model(writing, new_film, told):
    film = new_film(writing, clips=1)
    film.do("generate")
    film.until_phase("finished")
    (told / "hold").write_text("1")
    film.do("next_beat")
    film.until(lambda s: s["phase"] == "drafting" and s["story"]["drafting"]["state"] == "loading")
    assert writing.queue._stall_limit_s(writing.queue.job_of(film.id, "draft")) >= 1800
    film.do("stop_draft")
    film.until(lambda s: s["phase"] == "finished")


def test_a_draft_that_the_lane_refuses_leaves_no_trace(writing, new_film, monkeypatch):
    film = new_film(writing)

    def full(*_: object, **__: object) -> None:
        raise InputError("You have 4 jobs under way, the limit here.")

    monkeypatch.setattr(writing.queue, "enqueue", full)
    assert film.act("draft", length=2).status_code == 400
    assert film.state()["phase"] == "draft"


@pytest.mark.expects_errors
def test_a_bug_when_the_last_card_is_there_is_a_problem_with_an_id(writing, new_film, monkeypatch):
    film = new_film(writing)
    monkeypatch.setattr(writing.actions.drafting, "_leave", lambda *_: 1 / 0)
    film.do("draft", length=1)
    problem = film.until(lambda s: s["story"]["problem"])["story"]["problem"]
    assert len(problem["id"]) == 8 and problem["kept"] == 1


def test_clips_under_way_are_not_rewritten(writing, new_film, told):
    film = new_film(writing, clips=3)
    ids = [clip["id"] for clip in film.state()["clips"]]
    (told / "fail-2").touch()
    film.do("redraft_from", clip_id=ids[0])
    film.until(lambda s: s["story"]["problem"])
    film.do("generate")
    for action, details in (("redraft_from", {"clip_id": ids[2]}), ("draft_again", {})):
        assert "Pause first" in film.act(action, **details).json()["hint"]
    film.until_phase("finished")


def test_a_failed_draft_is_forgotten_once_its_cards_are_gone(writing, new_film, told):
    (told / "fail-3").touch()
    film = new_film(writing)
    film.do("draft", keywords="a dog", length=4)
    film.until(lambda s: s["story"]["problem"])
    assert film.do("undo")["story"]["problem"] is None
    film.do("draft", keywords="a dog", length=4)
    film.until(lambda s: s["story"]["problem"])
    assert film.do("import_storyline", name="a.txt", text="One.\nTwo.\nThree.")["story"]["problem"] is None
    film.do("draft", keywords="a dog", length=4)
    state = film.until(lambda s: s["story"]["problem"])
    film.do("delete", clip_id=state["clips"][0]["id"])
    assert "not there any more" in film.act("draft_again").json()["message"]
    assert film.state()["story"]["problem"] is None


def test_a_refused_second_try_keeps_the_problem(writing, new_film, told, monkeypatch):
    (told / "fail-2").touch()
    film = new_film(writing)
    film.do("draft", keywords="a dog", length=3)
    film.until(lambda s: s["story"]["problem"])
    others = [new_film(writing) for _ in range(4)]
    owner = writing.actions.library.owner(film.id)
    for other in others:
        writing.queue.enqueue("export", other.id, owner)
    if film.act("draft_again").status_code == 400:
        assert film.state()["story"]["problem"]["kept"] == 1


def test_cards_keep_their_order_when_others_go_or_come_meanwhile(writing, new_film, told):
    (told / "hold").write_text("2")
    film = new_film(writing, clips=4)
    film.do("draft", keywords="a dog", length=4)
    state = film.until(lambda s: (s["story"]["drafting"] or {}).get("done") == 1)
    ids = [clip["id"] for clip in state["clips"]]
    assert state["story"]["drafting"]["awaited"] == ids[1:]
    film.do("delete", clip_id=ids[2])
    film.do("set_prompt", clip_id=ids[3], prompt="Typed by me just now.")
    film.do("insert", after=ids[0], prompt="Put in between.")
    drafting = film.state()["story"]["drafting"]
    assert drafting["awaited"] == [ids[1]] and drafting["fresh"] == 1  # the deleted one is written as a card of its own
    (told / "hold").unlink()
    state = film.until(lambda s: s["phase"] == "ready")
    told_in_order = ["a dog: beat 1 after 0.", "Put in between.", "a dog: beat 2 after 0.", "a dog: beat 3 after 0."]
    assert prompts(state) == [*told_in_order, "Typed by me just now."]


def test_undoing_a_draft_keeps_a_title_given_meanwhile(writing, new_film, told):
    (told / "hold").write_text("2")
    film = new_film(writing)
    film.do("draft", keywords="a dog", length=2)
    film.until(lambda s: len(s["clips"]) == 1)
    film.do("set_settings", title="My great film")
    (told / "hold").unlink()
    film.until(lambda s: s["phase"] == "ready")
    assert film.do("undo")["project"]["title"] == "My great film"


def test_a_whole_storyline_is_not_taken_from_under_a_film(open_studio, new_film):
    film = new_film(open_studio("gated"))
    film.do("draft", length=2)
    film.do("generate")
    assert "Pause first" in film.act("undo").json()["hint"]


def test_asking_and_stopping_in_the_lanes_own_moments_never_locks_up(writing, new_film, monkeypatch):
    monkeypatch.setitem(MAX_PER_HOUR, "draft", 1000)
    films = [new_film(writing) for _ in range(2)]
    for _ in range(25):
        for film in films:
            film.until(lambda s: s["phase"] != "drafting")
            film.do("draft", keywords="a dog", length=2)
        for film in films:
            film.do("stop_draft")
    for film in films:
        film.until(lambda s: s["phase"] in ("draft", "ready"))
