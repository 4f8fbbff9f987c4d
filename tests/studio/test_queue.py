"""The lane and a real, spawned worker process; only its backend is scripted."""

import os
import signal
import threading
import time

import pytest

from engine.domain import new_id
from engine.events import JobDone
from engine.media import video
from engine.project.store import Store
from studio import actions as actions_module
from studio import queue as queue_module
from tests.studio.conftest import client_of, finish


def worker_pid(film) -> int:
    return film.studio.actions.health()["pid"]


def statuses(state) -> list[str]:
    return [clip["status"] for clip in state["clips"]]


def open_gate(studio) -> None:
    (studio.preset.folder / "gate").touch()


def test_generate_makes_every_clip_and_plays_as_it_grows(shared, new_film):
    film = new_film(shared, clips=3)
    rev = film.state()["rev"]
    film.do("generate")
    first = film.until(lambda state: state["film"]["segments"])
    done = film.until_phase("finished")
    assert statuses(done) == ["done"] * 3 and done["announce"] == "Your film is complete."
    assert done["rev"] > rev and done["film"]["generation"] == first["film"]["generation"], "appending is seamless"
    kinds = {event.name for _, event in film.studio.actions.feed.since(film.id, rev)}
    assert {"clip_started", "clip_step", "take_committed"} <= kinds
    init = film.client.get(done["film"]["init_url"])
    segments = [film.client.get(segment["url"]) for segment in done["film"]["segments"]]
    assert init.content[4:8] == b"ftyp" and all(answer.content[4:8] == b"moof" for answer in segments)
    assert "immutable" in segments[0].headers["cache-control"]
    assert film.client.get(done["clips"][0]["poster_url"]).headers["content-type"] == "image/jpeg"
    film.do("export")
    exported = film.until(lambda state: (state["export"] or {}).get("state") == "done")["export"]
    assert exported["frames"] == 17
    answer = film.client.get(exported["url"])
    assert answer.status_code == 200 and "attachment" in answer.headers["content-disposition"]


def test_a_step_down_for_lack_of_memory_is_said_on_its_card_and_kept_in_the_films_log(open_studio, new_film):
    film = new_film(open_studio("lowered"), clips=3)
    film.do("generate")
    state = film.until(lambda state: state["clips"][1]["notice"])
    assert state["clips"][1]["status"] == "running" and "tiled" in state["clips"][1]["notice"]
    assert film.state()["clips"][1]["notice"], "a reload asks again"
    open_gate(film.studio)
    state = film.until_phase("finished")
    assert [clip["notice"] for clip in state["clips"]] == ["", "", ""]
    assert state["notices"] == [{"number": 2, "text": "Not enough GPU memory: going on with a tiled VAE."}]
    assert "tiled VAE" in (film.studio.actions.library.folder(film.id) / "events.jsonl").read_text()


@pytest.mark.expects_errors
def test_an_export_that_a_damaged_clip_cut_short_is_never_handed_out_as_the_film(open_studio, new_film):
    studio = open_studio()
    film = new_film(studio, clips=2)
    finish(film)
    (whole,) = (studio.data / "films" / film.id / "exports").iterdir()
    frames = video.probe(whole).num_frames
    whole.unlink()
    last = studio.actions.library.snapshot(film.id).plan.clips[1].take.digest
    segment = studio.data / "films" / film.id / "takes" / last / "segment.mp4"
    segment.write_bytes(segment.read_bytes()[:-100] + bytes(100))
    film.do("export")
    failed = film.until(lambda state: (state["export"] or {}).get("state") == "failed")
    assert "damaged" in failed["export"]["message"]
    film.do("export")
    short = film.until(lambda state: state["export"]["state"] == "done")["export"]
    assert (short["clips"], short["of"]) == (1, 2) and short["name"] != whole.name
    film.do("generate")
    film.until_phase("finished")
    film.do("export")
    again = film.until(lambda state: state["export"]["clips"] == 2 and not state["job"])["export"]
    assert (again["name"], again["frames"]) == (whole.name, frames)


def test_an_export_asked_for_too_early_holds_the_film_as_it_is_when_it_starts(open_studio, new_film):
    film = new_film(open_studio("gated"), clips=1)
    finish(film)
    film.do("extend", count=1)
    film.do("set_settings", title="Another name")
    film.do("export")
    open_gate(film.studio)
    exported = film.until(lambda state: state["export"]["state"] == "done" and not state["job"])["export"]
    assert (exported["clips"], exported["of"]) == (2, 2) and film.client.get(exported["url"]).status_code == 200
    film.do("extend", count=2)
    earlier = film.state()["export"]
    assert (earlier["url"], earlier["clips"], earlier["of"]) == (exported["url"], 2, 4)


def test_a_moving_preview_is_served_while_a_clip_is_made(open_studio, new_film):
    film = new_film(open_studio("held"), clips=2)
    film.do("generate")
    seen = film.until(lambda state: state["clips"][0]["preview_url"])
    answer = film.client.get(seen["clips"][0]["preview_url"])
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/webp"
    assert 0 < len(answer.content) <= 100_000
    open_gate(film.studio)
    done = film.until_phase("finished")
    assert done["clips"][0]["preview_url"] is None
    assert film.client.get(seen["clips"][0]["preview_url"]).status_code == 404


def test_pause_ends_within_a_step_and_resume_finishes(shared, new_film):
    film = new_film(shared, clips=3)
    film.do("set_settings", num_inference_steps=20)
    film.do("generate")
    film.until(lambda state: (state["job"] or {}).get("step", 0) >= 2)
    began = time.monotonic()
    film.act("pause")
    paused = film.until_phase("paused")
    assert time.monotonic() - began <= 0.5
    assert paused["message"].startswith("Paused at clip 1. Nothing is lost.")
    assert statuses(paused) == ["canceled", "draft", "draft"] and paused["primary"]["label"] == "Resume"
    film.do("set_settings", num_inference_steps=2)
    film.do("resume")
    assert statuses(film.until_phase("finished")) == ["done"] * 3


def test_stop_keeps_finished_clips_and_a_waiting_job_leaves_the_lane_at_once(open_studio, new_film):
    studio = open_studio("gated")
    first, second = (new_film(studio, clips=2) for _ in range(2))
    first.do("generate")
    second.do("generate")
    assert second.state()["message"].startswith("1 job before yours")
    assert second.do("stop")["phase"] == "paused"
    open_gate(studio)
    first.until(lambda state: "done" in statuses(state))
    first.act("stop")
    ended = first.until(lambda state: state["phase"] in ("paused", "finished"))
    assert statuses(ended)[0] == "done"


def test_jobs_run_first_come_first_served(open_studio, new_film):
    studio = open_studio("gated")
    films = [new_film(studio, clips=1) for _ in range(3)]
    for film in films:
        film.do("generate")
    assert [film.state()["job"]["place"] for film in films] == [0, 1, 2]
    open_gate(studio)
    for film in films:
        film.until_phase("finished")
    created = [Store(studio.data / "films" / film.id).takes().popitem()[1].created for film in films]
    assert created == sorted(created)


def test_a_second_click_on_generate_is_the_same_job(open_studio, new_film):
    film = new_film(open_studio("gated"), clips=1)
    first, second = film.act("generate", key="one").json(), film.act("generate", key="two").json()
    assert first["job_id"] == second["job_id"]
    assert film.studio.actions.health()["jobs"] == 1


def test_the_clip_being_made_is_locked_and_later_ones_are_not(open_studio, new_film):
    film = new_film(open_studio("gated"), clips=2)
    film.do("generate")
    state = film.until(lambda state: statuses(state)[0] == "running")
    active, later = (clip["id"] for clip in state["clips"])
    assert film.act("set_prompt", clip_id=active, prompt="too late").status_code == 400
    assert film.act("delete", clip_id=active).status_code == 400
    assert film.act("set_settings", variant="shot").status_code == 400
    assert film.act("draft", length=2).status_code == 400
    film.do("set_prompt", clip_id=later, prompt="in time")
    open_gate(film.studio)
    film.until_phase("finished")
    prompts = {take.clip_id: take.prompt for take in Store(film.studio.data / "films" / film.id).takes().values()}
    assert prompts[later] == "in time"


def test_regenerate_adds_a_take_and_choosing_the_earlier_one_is_instant(shared, new_film):
    film = new_film(shared, clips=2)
    film.do("generate")
    before = film.until_phase("finished")
    clip = before["clips"][0]
    film.do("regenerate", clip_id=clip["id"], scope="only_this")
    after = film.until_phase("finished")
    assert len(after["clips"][0]["takes"]) == 2
    assert after["film"]["segments"][1]["digest"] == before["film"]["segments"][1]["digest"], "the later clip is kept"
    assert after["film"]["generation"] != before["film"]["generation"]
    back = film.do("pin", clip_id=clip["id"], digest=clip["takes"][0]["digest"])
    assert back["film"]["segments"] == before["film"]["segments"] and back["phase"] == "finished"


def test_until_i_stop_goes_on_until_it_is_stopped(shared, new_film):
    film = new_film(shared, clips=1)
    film.do("extend", count="forever")
    grown = film.until(lambda state: len(state["clips"]) >= 4)
    assert grown["job"]["forever"]
    film.act("stop")
    ended = film.until(lambda state: state["job"] is None)
    count = len(ended["clips"])
    assert count >= 4 and ended["phase"] in ("paused", "finished")
    assert len(film.state()["clips"]) == count


def test_until_i_stop_lets_others_have_their_turn(shared, new_film):
    endless, other = new_film(shared, clips=1), new_film(shared, clips=1)
    endless.do("extend", count="forever")
    other.do("generate")
    other.until_phase("finished")
    assert endless.state()["job"]["forever"]
    endless.act("stop")
    endless.until(lambda state: state["job"] is None)


def test_a_killed_worker_is_replaced_and_the_film_is_finished(open_studio, new_film):
    studio = open_studio("gated")
    film = new_film(studio, clips=2)
    film.do("generate")
    film.until(lambda state: statuses(state)[0] == "running")
    pid = worker_pid(film)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    marked = film.until(lambda state: state["clips"][0]["badge"] == "interrupted", timeout_s=30)
    assert time.monotonic() - began < 30
    assert "Nothing is lost" in marked["announce"]
    assert client_of(studio).get("/gradio_api/studio/health").status_code == 200
    open_gate(studio)
    done = film.until_phase("finished")
    assert worker_pid(film) != pid and done["clips"][0]["badge"] == ""


@pytest.mark.reliability
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_a_frozen_worker_is_noticed_by_its_heartbeat(open_studio, new_film):
    studio = open_studio("gated", beat_s=0.25)
    film = new_film(studio, clips=1)
    film.do("generate")
    film.until(lambda state: statuses(state)[0] == "running")
    pid = worker_pid(film)
    os.kill(pid, signal.SIGSTOP)
    open_gate(studio)
    film.until(lambda state: worker_pid(film) not in (pid, None), timeout_s=30)
    film.until_phase("finished")


@pytest.mark.reliability
def test_a_hung_step_is_noticed_though_the_heart_beats(open_studio, new_film, monkeypatch):
    monkeypatch.setattr(queue_module, "STALL_FLOOR_S", 0.5)
    studio = open_studio("gated")
    film = new_film(studio, clips=1)
    project = studio.actions.library.project(film.id)
    studio.queue.paces.add(project, step_s=0.01, finish_s=0.01)
    film.do("generate")
    film.until(lambda state: statuses(state)[0] == "running")
    pid = worker_pid(film)
    film.until(lambda state: worker_pid(film) not in (pid, None), timeout_s=30)
    open_gate(studio)
    film.until_phase("finished")


def test_a_full_size_model_may_think_for_minutes_between_two_steps(quiet, new_film):
    film = new_film(quiet, clips=1)
    library = quiet.actions.library
    quiet.queue.paces.add(library.project(film.id), step_s=2.0, finish_s=2.0)
    film.do("generate")
    job = quiet.queue.job_of(film.id)
    assert quiet.queue._stall_limit_s(job) == queue_module.STALL_FLOOR_S
    library._presets["tiny"] = quiet.preset.model_copy(update={"family": "wan"})
    assert quiet.queue._stall_limit_s(job) == 600


def test_a_clip_that_keeps_killing_the_worker_fails_and_the_studio_lives(open_studio, new_film):
    film = new_film(open_studio("suicidal"), clips=2)
    film.do("generate")
    failed = film.until_phase("failed", timeout_s=40)
    assert "3 times" in failed["error"]["message"]
    assert failed["primary"]["label"] == "Retry"
    assert film.client.get("/gradio_api/studio/health").json()["ok"]


def test_a_bug_in_a_clip_shows_an_id_and_retry_goes_on(open_studio, new_film):
    film = new_film(open_studio("buggy"), clips=3)
    film.do("generate")
    failed = film.until_phase("failed")
    assert failed["error"]["id"] and "illegal access" not in str(failed)
    assert statuses(failed) == ["done", "failed", "draft"]
    film.do("retry")
    assert statuses(film.until_phase("finished")) == ["done"] * 3


def test_an_error_before_a_clip_begins_is_not_blamed_on_the_finished_one(open_studio, new_film):
    film = new_film(open_studio(), clips=2)
    actions = film.studio.actions
    second = actions.library.snapshot(film.id).plan.clips[1]
    actions.library.store(film.id).set_attempt(second.digest, 99)
    film.do("generate")
    failed = film.until_phase("failed")
    assert statuses(failed)[0] == "done" and film.studio.queue.outcome(film.id).clip_id == ""


def test_weights_that_are_missing_are_said_on_the_button(open_studio, new_film):
    film = new_film(open_studio("missing"), clips=1)
    seen = film.until(lambda state: not state["primary"]["enabled"])
    assert "weights" in seen["primary"]["reason"]
    film.do("generate")
    assert "weights" in film.until_phase("failed")["error"]["message"]


def test_weights_that_arrive_later_are_found_without_a_restart(open_studio, new_film, monkeypatch):
    monkeypatch.setattr(queue_module, "LOAD_AGAIN_S", (0.2, 0.5))
    film = new_film(open_studio("missing"), clips=1)
    film.until(lambda state: not state["primary"]["enabled"])
    rev = film.state()["rev"]
    (film.studio.preset.folder / "weights-here").touch()
    seen = film.until(lambda state: state["primary"]["enabled"])
    assert seen["rev"] > rev, "the page hears of it"
    film.do("generate")
    film.until_phase("finished")


def test_the_pace_is_measured_and_kept(shared, new_film):
    film = new_film(shared, clips=2)
    film.do("generate")
    film.until_phase("finished")
    pace = shared.queue.paces.of(shared.actions.library.project(film.id))
    assert 0.1 < pace.step_s < 2.0 and pace.finish_s is not None
    assert (shared.data / "timings.json").is_file()


def test_a_job_of_a_project_that_is_gone_does_not_block_the_lane(open_studio, new_film):
    studio = open_studio()
    film = new_film(studio, clips=1)
    studio.queue.enqueue("generate", new_id(), "nobody")
    film.do("generate")
    film.until_phase("finished")


def test_clips_added_just_before_the_job_ends_are_made(open_studio, new_film):
    film = new_film(open_studio("gated"), clips=1)
    handle, added = film.studio.queue._handle, threading.Event()

    def late(answer, *more):
        if isinstance(answer.event, JobDone) and not added.is_set():
            added.set()
            film.do("extend", count=1)  # the worker has found nothing missing, the server does not know it yet
        handle(answer, *more)

    film.studio.queue._handle = late
    film.do("generate")
    open_gate(film.studio)
    film.until(lambda state: statuses(state) == ["done", "done"])


def test_an_interruption_that_nobody_asked_for_begins_the_clip_again(open_studio, new_film):
    film = new_film(open_studio("startled"), clips=2)
    film.do("generate")
    assert statuses(film.until_phase("finished")) == ["done", "done"]


def test_a_model_that_cannot_be_loaded_again_does_not_block_the_lane(open_studio, new_film):
    film = new_film(open_studio("exhausted"), clips=1)
    film.do("generate")
    assert "weights" in film.until_phase("failed")["error"]["message"]
    (film.studio.preset.folder / "weights-here").touch()
    film.do("retry")
    film.until_phase("finished")


@pytest.mark.expects_errors
def test_a_disk_that_refuses_one_answer_costs_that_job_only(open_studio, new_film, monkeypatch):
    studio = open_studio("gated")
    film, other = new_film(studio, clips=1), new_film(studio, clips=1)

    def refuse(job) -> bool:
        raise OSError(5, "Input/output error")

    studio.queue.listener.film_done = refuse
    film.do("extend", count="forever")
    other.do("generate")
    open_gate(studio)
    other.until_phase("finished")
    outcome = studio.queue.outcome(film.id)
    assert outcome.kind == "failed" and outcome.error_id


@pytest.mark.expects_errors
def test_a_disk_that_refuses_before_a_job_starts_does_not_block_the_lane(open_studio, new_film, monkeypatch):
    studio = open_studio()
    film, other = new_film(studio, clips=1), new_film(studio, clips=1)
    finish(film)
    preset, refusals = studio.actions.library.preset, [OSError(5, "Input/output error")]

    def refuse_once(project):
        if refusals:
            raise refusals.pop()
        return preset(project)

    monkeypatch.setattr(studio.actions.library, "preset", refuse_once)
    studio.queue.enqueue("export", film.id, studio.actions.library.owner(film.id))
    deadline = time.monotonic() + 15
    while refusals and time.monotonic() < deadline:
        time.sleep(0.01)
    other.do("generate")
    other.until_phase("finished")
    assert film.state()["export"]["state"] == "failed"


def test_a_film_without_end_that_meets_a_limit_says_so(open_studio, new_film, monkeypatch):
    monkeypatch.setattr(actions_module, "MAX_CLIPS", 2)
    film = new_film(open_studio(), clips=1)
    film.do("extend", count="forever")
    ended = film.until_phase("finished")
    assert len(ended["clips"]) == 2 and "the most one project holds. Export it." in ended["message"]


def test_a_refused_extend_or_regenerate_changes_nothing(quiet, new_film):
    films = [new_film(quiet, clips=1, owner="busy-owner") for _ in range(5)]
    for film in films[:4]:
        film.do("generate")
    before = films[4].state()
    assert "the limit here" in films[4].act("extend", count=1).json()["message"]
    assert "the limit here" in films[4].act("regenerate", clip_id=before["clips"][0]["id"]).json()["message"]
    after = films[4].state()
    assert after["clips"] == before["clips"] and after["undo"] is None


def test_a_step_that_takes_long_is_told_every_ten_seconds_only(quiet, new_film):
    film = new_film(quiet, clips=1)
    film.do("generate")
    queue = quiet.queue
    queue._lane.job, queue._lane.sent = queue.job_of(film.id), True
    queue._lane.last_event = time.monotonic() - 60
    rev = quiet.actions.feed.rev(film.id)
    for _ in range(3):
        queue._raise_stalled_estimates()
    assert quiet.actions.feed.rev(film.id) == rev + 1
    queue._lane.job, queue._lane.sent = None, False
