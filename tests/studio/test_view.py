"""The contract with the page, phase by phase. No files are read here besides the plan of a small project."""

import json
from dataclasses import replace

import pytest

from engine import film, storyboard
from engine.events import TakeCommitted
from studio.feed import Live, Pace
from studio.view import ExportFacts, Facts, JobFacts, Outcome, eta_text, state
from tests.fakes import ScriptedBackend


def facts_of(store, preset, **more) -> Facts:
    takes = {}
    for take in sorted(store.takes().values(), key=lambda take: take.created):
        takes[take.clip_id] = (*takes.get(take.clip_id, ()), take)
    return Facts(plan=film.plan(store, preset), preset=preset, takes=takes, media_base="/m", token="t", **more)


def render(store, preset, clips: int) -> None:
    events = film.render(store, ScriptedBackend(), preset, reserve_bytes=0)
    for event in events:
        clips -= isinstance(event, TakeCommitted)
        if not clips:
            events.close()


@pytest.fixture
def facts(store, preset):
    return facts_of(store, preset)


def live(facts, index=0, **more) -> Live:
    return Live(facts.plan.clips[index].clip.id, index, "d", **more)


def test_a_project_without_clips_asks_for_a_storyline(store, preset):
    store.edit(lambda project: storyboard.with_clips(project, ()))
    seen = state(facts_of(store, preset))
    assert (seen["phase"], seen["primary"]["action"]) == ("draft", "draft")
    assert seen["film"]["segments"] == [] and not seen["film"]["complete"]
    assert seen["film"]["planned_s"] == 0


def test_clips_that_were_never_made_are_ready_to_generate(facts):
    seen = state(facts)
    assert (seen["phase"], seen["primary"]["label"], seen["stop"]["enabled"]) == ("ready", "Generate", False)
    assert [clip["status"] for clip in seen["clips"]] == ["draft"] * 3
    assert "3 clips to generate" in seen["message"]


def test_a_waiting_job_tells_its_place_and_the_wait(facts):
    seen = state(replace(facts, job=JobFacts("j", "waiting", place=2, ahead_s=350.0)))
    assert seen["phase"] == "queued"
    assert seen["message"] == "2 jobs before yours, 5–6 min."
    assert seen["primary"]["label"] == "Pause" and seen["job"]["place"] == 2
    assert {clip["status"] for clip in seen["clips"]} == {"queued"}


def test_loading_names_the_model(facts):
    seen = state(replace(facts, job=JobFacts("j", "running"), loading="Pocket"))
    assert seen["phase"] == "loading" and "Pocket" in seen["message"]
    again = state(replace(facts, job=JobFacts("j", "running"), loading="Pocket", loading_s=31.0))
    assert "about 40 s" in again["message"]


def test_generating_says_what_how_far_and_how_long(facts):
    working = replace(
        facts, job=JobFacts("j", "running"), live=live(facts, 1, step=3, of=10, preview=7), pace=Pace(30.0, 0.0)
    )
    seen = state(working)
    assert seen["phase"] == "generating"
    assert seen["message"].startswith("Clip 2 of 3 · step 3 of 10 · ")
    card = seen["clips"][1]
    assert (card["status"], card["step"], card["of"], card["editable"]) == ("running", 3, 10, False)
    assert card["preview_url"] == "/m/preview/7?token=t"
    assert seen["clips"][2]["editable"]
    assert seen["stop"] == {"enabled": True, "label": "Stop"}


def test_nothing_is_promised_before_it_was_measured(facts):
    seen = state(replace(facts, job=JobFacts("j", "running"), live=live(facts, step=1, of=10)))
    assert seen["job"]["eta_s"] is None and seen["job"]["eta_text"] == "measuring"


def test_a_stall_raises_the_estimate(facts):
    working = replace(facts, job=JobFacts("j", "running"), live=live(facts, step=1, of=2), pace=Pace(10.0, 0.0))
    assert state(replace(working, live_s=5.0))["job"]["eta_s"] < state(working)["job"]["eta_s"]
    assert state(replace(working, live_s=40.0))["job"]["eta_s"] > state(working)["job"]["eta_s"]


def test_stop_says_what_it_keeps(store, preset):
    render(store, preset, 2)
    facts = facts_of(store, preset)
    seen = state(replace(facts, job=JobFacts("j", "running"), live=live(facts, 2)))
    assert seen["stop"] == {"enabled": True, "label": "Stop, keep 2 clips"}


def test_a_job_that_is_ending_cannot_be_ended_twice(facts):
    seen = state(replace(facts, job=JobFacts("j", "stopping", ending="pause"), live=live(facts)))
    assert seen["primary"] == {
        "label": "Pausing…", "action": "pause", "enabled": False, "reason": "after the current step"
    }  # fmt: skip
    assert not seen["stop"]["enabled"]


def test_paused_offers_resume_and_marks_the_clip(facts):
    clip_id = facts.plan.clips[1].clip.id
    seen = state(replace(facts, outcome=Outcome("paused", "Paused at clip 2. Nothing is lost.", clip_id=clip_id)))
    assert (seen["phase"], seen["primary"]["label"]) == ("paused", "Resume")
    assert seen["clips"][1]["status"] == "canceled" and seen["error"] is None


def test_failed_shows_the_cause_on_its_card_and_offers_retry(facts):
    clip_id = facts.plan.clips[1].clip.id
    outcome = Outcome("failed", "No memory.", "Close programs.", "ab12", clip_id)
    seen = state(replace(facts, outcome=outcome))
    assert (seen["phase"], seen["primary"]["label"]) == ("failed", "Retry")
    assert (
        seen["error"] == seen["clips"][1]["error"] == {"message": "No memory.", "hint": "Close programs.", "id": "ab12"}
    )
    assert [clip["status"] for clip in seen["clips"]] == ["draft", "failed", "draft"]


def test_a_failed_regenerate_is_shown_though_an_older_take_plays(store, preset):
    render(store, preset, 3)
    last = store.load().clips[2].id
    store.edit(lambda project: storyboard.set_seed(project, last, 99))
    seen = state(facts_of(store, preset, outcome=Outcome("failed", "No memory.", "Retry.", "ab12", last)))
    assert [clip["status"] for clip in seen["clips"]] == ["done", "done", "failed"]
    assert seen["clips"][2]["error"]["id"] == "ab12" and len(seen["film"]["segments"]) == 3


def test_a_full_disk_is_a_pause_with_an_error(facts):
    seen = state(replace(facts, outcome=Outcome("full", "No room.", "Free space, then resume.")))
    assert (seen["phase"], seen["primary"]["label"], seen["error"]["message"]) == ("paused", "Resume", "No room.")


def test_a_complete_film_offers_extend(store, preset):
    render(store, preset, 3)
    seen = state(facts_of(store, preset, codec="avc1.64000A"))
    assert (seen["phase"], seen["primary"]["label"]) == ("finished", "Extend")
    assert seen["film"]["complete"] and seen["film"]["mime"] == 'video/mp4; codecs="avc1.64000A"'
    starts = [segment["start_frame"] for segment in seen["film"]["segments"]]
    assert starts == [0, 9, 13], "the head of later clips is trimmed by the motion frames"
    assert seen["film"]["duration_s"] == seen["film"]["planned_s"] == 17 / 8
    assert seen["clips"][2]["takes"][0]["shown"]


def test_editing_a_clip_makes_later_ones_stale_with_the_reason(store, preset):
    render(store, preset, 3)
    first = store.load().clips[0].id
    store.edit(lambda project: storyboard.set_prompt(project, first, "another morning"))
    seen = state(facts_of(store, preset))
    assert seen["phase"] == "ready"
    assert [clip["badge"] for clip in seen["clips"]] == [
        "made from an older prompt", "made from an older clip 1", "made from an older clip 2"
    ]  # fmt: skip
    assert all(segment["stale"] for segment in seen["film"]["segments"]), "stale clips stay playable"


def test_a_take_without_trained_weights_says_so_once_there_are_some(store, preset):
    render(store, preset, 1)
    store.edit(lambda project: storyboard.set_seed(project, project.clips[0].id, 5))
    facts = facts_of(store, preset)
    first = facts.plan.clips[0]
    noise = first.take.model_copy(update={"backend": "tiny · random weights", "seed": 5})
    clips = (replace(first, take=noise), *facts.plan.clips[1:])
    assert (
        state(replace(facts, plan=replace(facts.plan, clips=clips)))["clips"][0]["badge"] == "made with random weights"
    )


def test_a_card_has_the_meter_of_the_take_it_shows_and_none_while_a_new_one_is_made(store, preset):
    render(store, preset, 2)
    facts = facts_of(store, preset)
    seen = state(replace(facts, job=JobFacts("j", "running"), live=live(facts, 1)))
    shown = facts.plan.clips[0].take.drift
    assert seen["clips"][0]["drift"]["structure"] == shown.structure
    assert seen["clips"][1]["drift"] is None and seen["clips"][2]["drift"] is None
    assert seen["drift"]["text"]


def test_an_interrupted_clip_is_marked_while_it_is_tried_again(facts):
    outcome = Outcome("interrupted", "Clip 1 was interrupted.", clip_id=facts.plan.clips[0].clip.id)
    seen = state(replace(facts, job=JobFacts("j", "waiting"), outcome=outcome))
    assert seen["phase"] == "queued" and seen["clips"][0]["badge"] == "interrupted"


def test_who_may_only_view_is_offered_a_copy_and_nothing_else(facts):
    seen = state(replace(facts, view_only=True, undo="Edit prompt", job=JobFacts("j", "running")))
    assert seen["view_only"] and seen["primary"]["action"] == "copy"
    assert not seen["stop"]["enabled"] and seen["undo"] is None
    assert not any(clip["editable"] for clip in seen["clips"])


def test_missing_weights_disable_generating_and_say_why(facts):
    seen = state(replace(facts, blocked="The weights are not here."))
    assert seen["primary"]["enabled"] is False and seen["primary"]["reason"] == "The weights are not here."


def test_an_export_has_an_address_once_it_is_there(facts):
    assert state(replace(facts, export=ExportFacts("running", "film-a.mp4")))["export"]["url"] is None
    done = state(replace(facts, export=ExportFacts("done", "film-a.mp4", 17)))["export"]
    assert (done["url"], done["frames"]) == ("/m/export/film-a.mp4?token=t", 17)


def test_the_state_is_plain_json(facts):
    assert json.loads(json.dumps(state(facts)))["project"]["variant"] == "film"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "measuring"),
        (0.2, "a few seconds"),
        (6, "about 10 s"),
        (31, "about 40 s"),
        (40, "about 40 s"),
        (58, "about 1 min"),
        (100, "1–2 min"),
        (200, "3–4 min"),
        (11 * 60, "about 15 min"),
        (58 * 60, "about 1 h"),
        (75 * 60, "about 1 h 20 min"),
        (10 * 3600, "about 10 h"),
    ],
)
def test_estimates_are_words(seconds, text):
    assert eta_text(seconds) == text
