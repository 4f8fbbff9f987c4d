"""What is left after the studio ended, gracefully or not, and who may use a data folder."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from engine.config import Config
from engine.errors import ProjectLocked
from studio import open_studio as open_real_studio
from tests.studio.conftest import Film, client_of, finish


def again(studio_maker, film: Film, backend: str = "fast", *, start: bool = True) -> Film:
    studio = studio_maker(backend, start=start)
    return Film(studio, client_of(studio), film.id, film.token)


def test_a_waiting_job_goes_on_after_a_restart(open_studio, new_film):
    film = new_film(open_studio(start=False), clips=2)
    rev = film.do("generate")["rev"]
    film.studio.close()
    film = again(open_studio, film)
    done = film.until_phase("finished")
    assert done["rev"] > rev, "a page that reconnects sees a newer revision"


def test_a_job_that_asked_to_wait_is_resumed_by_a_click(open_studio, new_film):
    film = new_film(open_studio(start=False), clips=1)
    film.do("generate", after_restart="wait")
    film.studio.close()
    film = again(open_studio, film)
    stopped = film.state()
    assert stopped["phase"] == "paused" and "Stopped, nothing lost" in stopped["message"]
    assert stopped["primary"]["label"] == "Resume" and stopped["job"] is None
    film.do("resume")
    film.until_phase("finished")


def test_closing_gives_up_the_clip_keeps_the_others_and_goes_on_next_time(open_studio, new_film):
    film = new_film(open_studio("slow"), clips=3)
    film.do("generate")
    film.until(lambda state: state["clips"][0]["status"] == "done")
    began = time.monotonic()
    film.studio.close()
    assert time.monotonic() - began < 5
    assert not film.studio.queue._thread.is_alive()
    before = json.loads((film.studio.data / "jobs.json").read_text())
    assert [job["state"] for job in before["jobs"]] == ["waiting"]
    film = again(open_studio, film)
    done = film.until_phase("finished")
    assert [len(clip["takes"]) for clip in done["clips"]] == [1, 1, 1], "no clip is made twice"


def test_a_stop_just_before_the_studio_closes_is_not_forgotten(open_studio, new_film):
    film = new_film(open_studio("gated"), clips=2)
    film.do("generate")
    film.until(lambda state: state["clips"][0]["status"] == "running")
    film.studio.queue._send = lambda command: None  # the worker never hears of it
    film.do("stop")
    film.studio.queue.close(timeout_s=0.2)
    film.studio.close()
    film = again(open_studio, film, start=False)
    stopped = film.state()
    assert (stopped["phase"], stopped["job"]) == ("paused", None) and "Stopped" in stopped["message"]


def test_the_last_export_keeps_its_link_after_a_restart_though_the_film_grew(open_studio, new_film):
    film = new_film(open_studio(start=False), clips=1)
    finish(film)
    film.do("extend", count=2)
    film.studio.close()
    film = again(open_studio, film, start=False)
    exported = film.state()["export"]
    assert (exported["state"], exported["clips"], exported["of"]) == ("done", 1, 3)
    assert film.client.get(exported["url"]).status_code == 200


def test_what_a_project_was_told_last_survives_a_restart(open_studio, new_film):
    film = new_film(open_studio("missing"), clips=1)
    film.do("generate")
    message = film.until_phase("failed")["error"]["message"]
    film.studio.close()
    film = again(open_studio, film, start=False)
    assert film.state()["error"]["message"] == message


def test_a_damaged_journal_costs_the_queue_but_no_project(open_studio, new_film):
    film = new_film(open_studio(start=False), clips=1)
    film.do("generate")
    film.studio.close()
    (film.studio.data / "jobs.json").write_bytes(b'{"jobs": [{"id"')
    film = again(open_studio, film, start=False)
    assert film.state()["phase"] == "ready" and len(film.state()["clips"]) == 1


def test_a_folder_half_made_by_a_crash_is_swept_and_not_listed(open_studio, new_film):
    film = new_film(open_studio(start=False), clips=1)
    film.studio.close()
    leftover = film.studio.data / "films" / ".new-abc"
    half_deleted = film.studio.data / "films" / ".trash-abc"
    for folder in (leftover, half_deleted):
        (folder / "inputs").mkdir(parents=True)
    film = again(open_studio, film, start=False)
    assert not leftover.exists() and not half_deleted.exists() and film.state()["phase"] == "ready"


def test_a_second_studio_on_the_same_data_refuses_in_a_sentence(open_studio):
    first = open_studio(start=False)
    with pytest.raises(ProjectLocked, match=f"process {os.getpid()} .* running a studio"):
        open_studio(start=False)
    first.close()
    open_studio(start=False)


def serve(config: Config, backend: str, ready) -> None:
    studio = open_real_studio(config, backend=backend)
    studio.start()
    ready.send(studio.actions.health())
    time.sleep(60)


def test_a_killed_server_takes_its_worker_along_and_the_next_one_finishes(open_studio, new_film, tmp_path):
    film = new_film(open_studio("slow", start=False), clips=3)
    film.do("generate")
    config = film.studio.config
    film.studio.close()

    context = multiprocessing.get_context("spawn")
    ready, far_end = context.Pipe()
    server = context.Process(target=serve, args=(config, "tests.studio.backends:slow", far_end))
    server.start()
    assert ready.poll(30)
    ready.recv()
    takes = film.studio.data / "films" / film.id / "takes"
    deadline = time.monotonic() + 20
    while not [take for take in takes.iterdir() if not take.name.startswith(".")]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(server.pid, signal.SIGKILL)
    server.join(5)

    film = again(open_studio, film)
    began = time.monotonic()
    film.until(lambda state: state["phase"] in ("generating", "finished"))
    assert time.monotonic() - began < 5
    done = film.until_phase("finished")
    assert [len(clip["takes"]) for clip in done["clips"]] == [1, 1, 1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "project.json is damaged"), (None, "project.json is missing"), ('{"schema_version": 99}', "later version")],
)
def test_a_project_that_cannot_be_read_after_a_restart_says_why(open_studio, new_film, content, sentence):
    film = new_film(open_studio(start=False), clips=1)
    film.do("set_settings", title="Once")
    film.do("generate")
    film.studio.close()
    file = film.studio.data / "films" / film.id / "project.json"
    file.write_text(content) if content else file.unlink()
    film = again(open_studio, film)
    answer = film.get("state")
    assert answer.status_code == 400 and sentence in answer.json()["message"]
    assert answer.json().get("action") == (None if "later" in sentence else "restore_previous")


def test_the_last_good_version_of_a_damaged_project_can_be_put_back(open_studio, new_film):
    film = new_film(open_studio(start=False), clips=1)
    film.do("set_settings", title="Kept")
    film.do("insert", prompt="lost")
    assert "not damaged" in film.act("restore_previous").json()["message"]
    file = film.studio.data / "films" / film.id / "project.json"
    file.write_text("{")
    state = film.do("restore_previous")
    assert state["project"]["title"] == "Kept" and len(state["clips"]) == 1
    assert file.with_name("project.damaged.json").read_text() == "{"


def test_outcomes_of_projects_that_are_gone_leave_the_journal(open_studio, new_film):
    film = new_film(open_studio(start=False), clips=1)
    film.do("generate")
    film.do("stop")
    film.studio.close()
    (film.studio.data / "films" / film.id).rename(film.studio.data / "elsewhere")
    studio = open_studio(start=False)
    assert film.id not in (studio.data / "jobs.json").read_text()
