"""A studio whose storylines an endpoint writes: threads beside the lane, faults, the operator's key."""

import logging
import time

import pytest

from tests.loopback_llm import MODEL, LoopbackLLM

KEY = "sk-test-0123456789-never-to-be-seen"


@pytest.fixture
def llm():
    with LoopbackLLM() as server:
        yield server


@pytest.fixture
def studio(open_studio, llm, monkeypatch):
    return open_studio("slow", endpoint_url=llm.url, endpoint_model=MODEL, endpoint_key=KEY)


def test_an_endpoint_writes_while_another_film_is_made(studio, new_film, llm):
    busy, film = new_film(studio, clips=40), new_film(studio)
    busy.do("generate")
    busy.until_phase("generating")
    film.do("draft", keywords="a dog, street", length=3)
    state = film.until(lambda s: len(s["clips"]) == 3 and s["phase"] == "ready", 30)
    assert busy.state()["phase"] == "generating", "an endpoint's answer does not wait for the lane"
    assert state["project"]["storyline_source"] == "endpoint"
    assert {clip["prompt"][:6] for clip in state["clips"]} == {"A dog "}, "every prompt names the subject again"
    assert "a dog" in llm.questions[0].text and len(llm.questions[0].pictures) == 1


def test_stopping_leaves_the_connection_at_once(studio, new_film, llm):
    llm.chunk_s = 0.02
    film = new_film(studio)
    film.do("draft", keywords="a dog", length=20)
    film.until(lambda s: len(s["clips"]) >= 2, 60)
    kept = len(film.do("stop_draft")["clips"])
    assert llm.gone.wait(5)
    state = film.until(lambda s: s["phase"] == "ready")
    assert kept <= len(state["clips"]) <= kept + 1 and state["story"]["problem"] is None


def test_a_server_that_fails_midway_keeps_the_cards_and_asks_what_to_do(studio, new_film, llm):
    film = new_film(studio)
    llm.chunk_s = 0.01
    film.do("draft", keywords="a dog", length=14)
    film.until(lambda s: len(s["clips"]) >= 2, 60)  # in the middle of an answer: the next one fails
    llm.fault = "not json"
    problem = film.until(lambda s: s["story"]["problem"], 60)["story"]["problem"]
    assert 2 <= problem["kept"] < 14 and problem["message"].startswith(MODEL)
    assert [choice["source"] for choice in problem["choices"]] == ["endpoint", "template"]
    llm.fault = "none"
    film.do("draft_again")
    assert len(film.until(lambda s: s["phase"] == "ready" and not s["story"]["problem"], 60)["clips"]) == 14


def test_a_studio_that_closes_does_not_wait_for_an_endpoint(studio, new_film, llm):
    llm.fault = "hang"
    film = new_film(studio)
    film.do("draft", keywords="a dog", length=3)
    assert llm.asked.wait(10)
    began = time.monotonic()
    studio.close()
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("fault", ["none", "reflect", "error event", "cut"])
def test_the_key_is_in_no_log_state_or_file(studio, new_film, llm, fault, caplog):
    caplog.set_level(logging.DEBUG)
    llm.fault = fault
    film = new_film(studio)
    film.do("draft", keywords="a dog", length=2)
    state = film.until(lambda s: s["phase"] != "drafting", 60)
    assert any(request.headers.get("authorization") == f"Bearer {KEY}" for request in llm.requests)
    secret = KEY.split("-")[2]
    assert secret not in str(state) + str(studio.config) + str(studio.actions.health()) + caplog.text
    files = [file for file in studio.data.rglob("*") if file.is_file()]
    assert len(files) > 3 and not [file for file in files if secret.encode() in file.read_bytes()]
