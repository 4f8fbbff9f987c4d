"""S24: the endpoint's key stands in one header of one request and nowhere else, whatever goes wrong."""

import logging
import pickle
import traceback
from contextlib import closing

import pytest

from engine import cli, film
from engine.config import Config
from engine.errors import ConfigError, StudioError
from engine.events import BeatDrafted
from engine.story import exchange
from engine.story.choose import choose, offered, open_drafter
from engine.story.drafter import Brief, draft
from tests.loopback_llm import MODEL, LoopbackLLM

KEY = "zebra-4711-quagga-okapi"
PLACES = [
    *(("status", status) for status in (400, 401, 404, 429, 500)),
    *(
        ("fault", fault)
        for fault in (
            "none",
            "cut",
            "not json",
            "error event",
            "redirect",
            "content type",
            "refusal",
            "reflect",
            "not a chat",
        )
    ),
]


@pytest.fixture
def server(monkeypatch):
    with LoopbackLLM(retry_after="0") as server:
        monkeypatch.setenv("SVI_ENDPOINT_KEY", KEY)
        monkeypatch.setenv("SVI_ENDPOINT_URL", server.url)
        monkeypatch.setenv("SVI_ENDPOINT_MODEL", MODEL)
        yield server


@pytest.fixture
def everything_logged(caplog):
    """All that any library logs, down to the bytes of HTTP."""
    for name in ("", "httpx", "httpcore", "asyncio", "engine"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def attempted(preset, picture):
    """What one draft leaves behind, as texts: its storyline and events, or its error with all that a debugger sees."""
    config = Config.load()
    try:
        with closing(open_drafter(choose(config, preset, None), config)) as drafter:
            storyline = draft(drafter, Brief(picture, 2, keywords="dog"))
    except StudioError as err:
        seen = traceback.TracebackException.from_exception(err, capture_locals=True)
        return [str(err), repr(err), "".join(seen.format()), repr(pickle.dumps(err))]
    events = [BeatDrafted(index, beat.prompt) for index, beat in enumerate(storyline.beats)]
    return [storyline.model_dump_json(), repr(pickle.dumps(events)), *(str(event.to_json()) for event in events)]


@pytest.mark.parametrize(("how", "value"), PLACES, ids=str)
def test_no_draft_leaves_the_key_in_a_log_an_error_or_an_event(
    server, preset, picture, everything_logged, capfd, how, value
):
    setattr(server, how, value)
    left = attempted(preset, picture)
    assert server.questions[0].headers["authorization"] == f"Bearer {KEY}", "the key was not even used"
    assert any(record.name.startswith("httpcore") for record in everything_logged.records), "nothing was logged"
    for question in server.questions:
        others = {name: text for name, text in question.headers.items() if name != "authorization"}
        assert KEY not in f"{others} {question.path} {question.body}"
    for text in (*left, everything_logged.text, *map(repr, everything_logged.records), *capfd.readouterr()):
        assert KEY not in text


def test_the_settings_never_show_the_key(server, preset):
    config = Config.load()
    choices = offered(config, preset, None)
    for text in (repr(config), str(config), repr(config.model_dump()), config.model_dump_json(), repr(choices)):
        assert KEY not in text
    assert KEY not in repr(vars(open_drafter(choices[0], config).writer))


@pytest.mark.parametrize(
    ("name", "value"),
    [("SVI_ENDPOINT_URL", f"https://user:{KEY}@example.org/v1"), ("SVI_ENDPOINT_KEY", f"{KEY}\n"), ("SVI_PORT", "x")],
)
def test_wrong_settings_are_named_without_the_key(server, preset, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as err:
        choose(Config.load(), preset, None)
    assert KEY not in "".join(traceback.format_exception(err.value))


def test_the_command_line_leaves_the_key_nowhere(server, picture, tmp_path, everything_logged, capfd):
    out = tmp_path / "storyline.json"
    command = ["draft", "--image", str(picture), "--keywords", "dog", "--clips", "2", "--verbose", "--out", str(out)]
    assert cli.main(command) == 0
    server.status = 401
    assert cli.main([*command[:-1], str(tmp_path / "second.json")]) != 0
    assert {question.headers["authorization"] for question in server.questions} == {f"Bearer {KEY}"}
    said = capfd.readouterr()
    assert "does not accept the key" in said.err
    assert KEY not in said.out + said.err + everything_logged.text + out.read_text()


def test_a_film_made_from_a_draft_holds_no_key_in_any_file(server, preset, picture, tmp_path):
    config = Config.load()
    with closing(open_drafter(choose(config, preset, None), config)) as drafter:
        storyline = draft(drafter, Brief(picture, 3, keywords="dog"))
    store = film.create(tmp_path / "film", picture, preset, prompts=list(storyline.prompts))
    for suffix, form in exchange.FORMATS.items():
        (tmp_path / "film" / f"storyline{suffix}").write_text(exchange.write(store.load(), form))
    files = [path for path in (tmp_path / "film").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path.name for path in files if KEY.encode() in path.read_bytes()]
