"""Draft and full quality: the dial, the action, what is said about cost, and how long either takes."""

import json

import pytest

from engine import storyboard
from engine.config import load_preset
from engine.errors import InputError
from studio import dial
from studio.feed import Pace, Paces
from tests.conftest import PRESET
from tests.studio.conftest import OWNER, finish, upload

DRAFTING = (
    PRESET
    + """\
quality: {fast: 2, best: 8}
hd_resolutions: [[128, 96], [96, 128]]
draft:
  num_inference_steps: 3
  loras: [{lora: distilled.safetensors}]
"""
)


@pytest.fixture
def drafting(tmp_path, preset, open_studio):
    """A studio without a worker whose preset makes drafts and two sizes."""
    (tmp_path / "tiny.yaml").write_text(DRAFTING)
    (tmp_path / "distilled.safetensors").write_bytes(b"stand-in")
    return open_studio(start=False)


@pytest.fixture
def draft_film(drafting, new_film):
    """Three finished drafts."""
    film = new_film(drafting, clips=3)
    film.do("set_settings", quality="draft")
    finish(film)
    return film


def ids(state) -> list[str]:
    return [clip["id"] for clip in state["clips"]]


def drafts(state) -> list[bool]:
    return [clip["draft"] for clip in state["clips"]]


def statuses(state) -> list[str]:
    return [clip["status"] for clip in state["clips"]]


def test_draft_comes_first_and_only_where_the_preset_has_it(drafting, preset):
    assert list(dial.levels(drafting.preset)) == ["draft", "fast", "best"]
    assert dial.about(drafting.preset, "draft") == "3 steps with the distilled LoRA, for trying a storyline"
    assert "draft" not in dial.levels(preset)


def test_a_project_can_begin_as_a_draft_and_keeps_the_steps_of_full_quality(drafting, picture):
    created = drafting.actions.create(OWNER, upload(drafting, picture), quality="draft", num_inference_steps=8)
    project = drafting.actions.library.project(created.project_id)
    assert project.draft and project.num_inference_steps == 8
    state = drafting.actions.state(created.project_id)
    assert state["project"]["quality"] == "draft" and state["project"]["draft_steps"] == 3


def test_the_dial_turns_a_film_into_drafts_and_back(drafting, new_film):
    film = new_film(drafting, clips=1)
    state = film.do("set_settings", quality="draft")
    assert (state["project"]["quality"], state["project"]["num_inference_steps"]) == ("draft", 2)
    assert film.do("set_settings", num_inference_steps=5)["project"]["quality"] == "draft"
    assert film.do("set_settings", quality="best")["project"]["quality"] == "best"
    film.do("undo")
    assert film.state()["project"]["quality"] == "draft"


def test_a_draft_is_refused_where_there_is_none(quiet, new_film, picture):
    film = new_film(quiet, clips=1)
    assert "no quality “draft”" in film.act("set_settings", quality="draft").json()["message"]
    with pytest.raises(InputError, match="no quality"):
        quiet.actions.create(OWNER, upload(quiet, picture), quality="draft")
    answer = film.act("set_quality", clip_ids=ids(film.state()), draft=True)
    assert answer.status_code == 400 and "no drafts" in answer.json()["message"]


def test_a_large_film_is_large_from_its_first_clip_on(drafting, picture):
    large = drafting.actions.create(OWNER, upload(drafting, picture), hd=True)
    assert drafting.actions.library.project(large.project_id).resolution.width == 128
    assert drafting.actions.state(large.project_id)["project"]["hd"]
    with pytest.raises(InputError, match="true or false"):
        drafting.actions.create(OWNER, upload(drafting, picture), hd="yes")


def test_finished_drafts_are_marked_and_can_be_finished_at_once(draft_film):
    state = draft_film.state()
    assert drafts(state) == [True] * 3 and state["drafts"]["clip_ids"] == ids(state)
    assert state["drafts"]["text"].startswith("All clips are drafts. In full quality each takes 2 steps")
    state = draft_film.do("set_quality", clip_ids=state["drafts"]["clip_ids"], draft=False)
    assert state["phase"] == "queued" and state["drafts"] is None
    assert [clip["badge"] for clip in state["clips"]] == ["made as a draft"] * 3
    assert state["project"]["quality"] == "fast", "the whole film is full quality from here on"
    finish(draft_film)
    assert drafts(draft_film.state()) == [False] * 3


def test_one_clip_in_full_quality_leaves_the_drafts_after_it_drafts(draft_film):
    second = ids(draft_film.state())[1]
    state = draft_film.do("set_quality", clip_ids=[second], draft=False)
    assert statuses(state) == ["done", "stale", "stale"]
    assert [clip["stays_draft"] for clip in state["clips"]] == [True, False, True]
    finish(draft_film)
    state = draft_film.state()
    assert drafts(state) == [True, False, True] and statuses(state) == ["done"] * 3
    assert state["drafts"]["clip_ids"] == [ids(state)[0], ids(state)[2]]
    assert "1 clip after them is made again, to fit." in state["drafts"]["text"]
    assert [len(clip["takes"]) for clip in state["clips"]] == [1, 2, 2], "the drafts are kept as takes"


def test_only_this_clip_keeps_what_the_later_ones_show(draft_film):
    second = ids(draft_film.state())[1]
    state = draft_film.do("set_quality", clip_ids=[second], draft=False, scope="only_this")
    assert statuses(state) == ["done", "stale", "done"]


def test_back_to_draft_finds_the_draft_that_is_there(draft_film):
    second = ids(draft_film.state())[1]
    draft_film.do("set_quality", clip_ids=[second], draft=False)
    draft_film.do("stop")
    state = draft_film.do("set_quality", clip_ids=[second], draft=True)
    assert statuses(state) == ["done"] * 3 and state["job"] is None, "nothing has to be made"


def test_a_quality_chosen_before_the_clip_is_made_starts_nothing(drafting, new_film):
    film = new_film(drafting, clips=2)
    state = film.do("set_quality", clip_ids=[ids(film.state())[1]], draft=True, generate=False)
    assert state["phase"] == "ready" and [clip["stays_draft"] for clip in state["clips"]] == [False, True]
    finish(film)
    assert drafts(film.state()) == [False, True]


def test_a_choice_of_quality_can_be_undone(draft_film):
    everything = ids(draft_film.state())
    answer = draft_film.act("set_quality", clip_ids=everything, draft=False).json()
    assert draft_film.state()["undo"]["label"] == "Full quality for 3 clips"
    draft_film.do("stop")
    state = draft_film.do("undo", id=answer["undo_id"])
    assert state["project"]["quality"] == "draft" and statuses(state) == ["done"] * 3


@pytest.mark.parametrize(
    "details",
    [
        {"clip_ids": [], "draft": False},
        {"clip_ids": "all", "draft": False},
        {"clip_ids": [7], "draft": False},
        {"clip_ids": ["0" * 26], "draft": False},
        {"clip_ids": ["x" * 50], "draft": False},
        {"clip_ids": None, "draft": False},
        {"draft": "no"},
        {"draft": None},
        {"draft": False, "scope": "everything"},
        {"draft": False, "generate": "yes"},
    ],
    ids=json.dumps,
)
def test_wrong_arguments_change_nothing(draft_film, details):
    before = draft_film.state()
    answer = draft_film.act("set_quality", **({"clip_ids": ids(before)} | details))
    assert answer.status_code == 400 and len(answer.json()["message"]) > 10
    assert draft_film.state()["clips"] == before["clips"] and draft_film.state()["undo"] == before["undo"]


def test_a_full_disk_is_said_before_a_quality_is_changed(draft_film):
    actions = draft_film.studio.actions
    actions.config = actions.config.model_copy(update={"reserve_bytes": 10**18})
    answer = draft_film.act("set_quality", clip_ids=ids(draft_film.state()), draft=False)
    assert "No room" in answer.json()["message"] and draft_film.state()["project"]["quality"] == "draft"


def test_drafts_and_full_quality_have_paces_of_their_own(drafting, new_film, tmp_path):
    film = new_film(drafting, clips=1)
    project = drafting.actions.library.project(film.id)
    paces = Paces(tmp_path / "timings.json")
    paces.add(project, step_s=10.0, finish_s=0.0)
    paces.add(project, step_s=1.0, finish_s=0.0, draft_steps=project.num_inference_steps)
    paces.save()
    again = Paces(tmp_path / "timings.json")
    assert again.of(project) == Pace(10.0, 0.0)
    assert again.of(project, draft_steps=project.num_inference_steps) == Pace(1.0, 0.0), "same number of steps"


def test_what_is_left_counts_drafts_as_drafts(draft_film):
    store = draft_film.studio.actions.library.store(draft_film.id)
    project = store.edit(lambda before: storyboard.append(before, ["one", "two"]))
    paces = draft_film.studio.queue.paces
    paces.add(project, step_s=2.0, finish_s=0.0, draft_steps=3)
    assert "about 20 s to make" in draft_film.state()["message"], "two drafts of three steps"
    fourth = ids(draft_film.state())[3]
    state = draft_film.do("set_quality", clip_ids=[fourth], draft=False, generate=False)
    assert "to make" not in state["message"], "full quality was never measured"
    paces.add(project, step_s=60.0, finish_s=0.0)
    assert "2–3 min to make" in draft_film.state()["message"]
    assert draft_film.state()["seconds_a_clip"] == {"full": 120.0, "draft": 6.0}
    assert "(4 clips, 2–3 min each)" in draft_film.state()["drafts"]["text"]


def test_the_worker_measures_drafts_apart(tmp_path, preset, open_studio, new_film):
    (tmp_path / "tiny.yaml").write_text(DRAFTING)
    (tmp_path / "distilled.safetensors").write_bytes(b"stand-in")
    film = new_film(open_studio("slow"), clips=1)
    film.do("set_settings", quality="draft")
    film.do("generate")
    film.until_phase("finished")
    each = film.state()["seconds_a_clip"]
    assert each["full"] is None and each["draft"] >= 3 * 0.15


def test_a_preset_that_lost_its_draft_still_opens_its_films(draft_film):
    folder = draft_film.studio.data.parent
    (folder / "tiny.yaml").write_text(PRESET)
    library = draft_film.studio.actions.library
    library._presets["tiny"] = load_preset(str(folder / "tiny.yaml"))
    library.changed(draft_film.id)
    state = draft_film.state()
    assert len(state["film"]["segments"]) == 3 and "no draft quality" in state["primary"]["reason"]
