import io
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydantic import SecretStr

from engine.errors import BackendUnavailable, ConfigError, StorylineError, StudioError
from engine.story.chat import LONGEST_SIDE
from engine.story.drafter import Brief
from engine.story.endpoint import EndpointWriter, Patience
from engine.story.model_drafter import ModelDrafter
from engine.story.reader import MAX_ANSWER_CHARACTERS
from engine.story.schemas import english, list_of, object_of
from engine.story.writer import Ask
from tests.loopback_llm import FAULTS, MODEL, LoopbackLLM

KEY = "zebra-4711-quagga"
QUICK = Patience(connect_s=2, first_byte_s=4, between_s=4, answer_s=8, tries=3, pause_s=0.01, longest_pause_s=0.5)
SOON = {  # for servers that fall silent
    "hang": replace(QUICK, first_byte_s=0.3),
    "hang after headers": replace(QUICK, first_byte_s=0.3),
    "hang midway": replace(QUICK, between_s=0.5),
    "comments": replace(QUICK, answer_s=0.8),
}
SHAPE = object_of({"beats": list_of(object_of({"prompt": english(60, 300, opening="The dog", ending="[.]")}), 3)})
# What a writer makes of each way to answer; a text may still be nonsense, which is for the reader to find out.
WHOLE = "a text"
CUT_SHORT = "half a text"
ENDS: dict[str, tuple[type[StudioError], str] | str] = {
    "none": WHOLE,
    "hang": (BackendUnavailable, "did not begin to answer within 0.3 s"),
    "hang after headers": (BackendUnavailable, "did not begin to answer"),
    "hang midway": (BackendUnavailable, "fell silent for 0.5 s in the middle"),
    "cut": (BackendUnavailable, "stopped in the middle"),
    "cut at once": (BackendUnavailable, "broke the connection off"),
    "not http": (BackendUnavailable, "broke the connection off"),
    "redirect": (BackendUnavailable, "another address, which is not followed"),
    "content type": (BackendUnavailable, "a page instead of a chat"),
    "gzip bomb": (BackendUnavailable, "packed answer"),
    "endless line": (BackendUnavailable, "a line that does not end"),
    "endless": (StorylineError, "does not end"),
    "endless after the answer": (StorylineError, "does not end"),
    "comments": (BackendUnavailable, "took longer than 0.8 s"),
    "error event": (BackendUnavailable, "an error of its own"),
    "not a chat": (BackendUnavailable, "not an answer"),
    "broken events": (BackendUnavailable, "not JSON"),
    "empty": CUT_SHORT,
    "no done": WHOLE,
    "never closed": WHOLE,
    "not streamed": WHOLE,
    "no json_schema": WHOLE,
    "no response_format": WHOLE,
    "no max_tokens": WHOLE,
    "out of tokens": CUT_SHORT,
    "refusal": (StorylineError, "refused to write"),
    "refusal in words": CUT_SHORT,
    "not json": CUT_SHORT,
    "prose": WHOLE,
    "fence": WHOLE,
    "wrong schema": CUT_SHORT,
    "too few": CUT_SHORT,
    "too many": CUT_SHORT,
    "duplicates": WHOLE,
    "hostile text": CUT_SHORT,
    "reflect": (StorylineError, "repeats the endpoint's key"),
}
# Ways to lie that a draft gets over: by asking again, or because the lie is around the answer.
HARMLESS = {
    "none", "no done", "never closed", "not streamed", "no json_schema", "no response_format", "no max_tokens",
    "prose", "fence", "duplicates",
}  # fmt: skip


@pytest.fixture
def server():
    with LoopbackLLM() as server:
        yield server


@pytest.fixture
def large_picture(tmp_path):
    """1200×900, with a text that says more than its pixels do."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "made at home by Jane")
    path = tmp_path / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)).save(path, pnginfo=notes)
    return path


def asking(picture=None):
    return Ask("You write films.", 'Data: {"keywords": "dog, street"}', picture, SHAPE.schema, SHAPE.longest, seed=7)


def writer(server, *, patience=QUICK, key=KEY):
    return EndpointWriter(server.url, MODEL, SecretStr(key), patience=patience)


def drafter(server, patience=QUICK):
    return ModelDrafter("endpoint", writer(server, patience=patience))


def text(writer, ask=None):
    with closing(writer.write(ask or asking())) as pieces:
        return "".join(pieces)


def prompts(answer):
    return [beat["prompt"] for beat in json.loads(answer)["beats"]]


def is_as_asked(answer):
    pattern = SHAPE.schema["properties"]["beats"]["items"]["properties"]["prompt"]["pattern"]
    return len(prompts(answer)) == 3 and all(re.search(pattern, prompt) for prompt in prompts(answer))


# ---- what is sent


def test_an_answer_comes_in_pieces_and_follows_the_schema(server):
    with closing(writer(server).write(asking())) as answer:
        pieces = list(answer)
    assert len(pieces) > 10
    assert len(set(prompts("".join(pieces)))) == 3


def test_a_question_holds_the_schema_the_texts_and_the_limits_and_nothing_else(server):
    text(writer(server))
    [question] = server.questions
    assert question.headers["authorization"] == f"Bearer {KEY}"
    assert set(question.headers) == {
        "host", "accept", "accept-encoding", "connection", "user-agent", "authorization", "content-length",
        "content-type",
    }  # fmt: skip
    assert question.body == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You write films."},
            {"role": "user", "content": [{"type": "text", "text": asking().text}]},
        ],
        "stream": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "storyline", "schema": SHAPE.schema, "strict": True},
        },
        "max_tokens": SHAPE.longest,
        "seed": 7,
    }


def test_the_picture_travels_small_and_without_what_was_written_into_its_file(server, large_picture):
    text(writer(server), asking(large_picture))
    [sent] = server.questions[0].pictures
    with Image.open(io.BytesIO(sent)) as picture:
        assert picture.format == "JPEG" and picture.size == (LONGEST_SIDE, 576)
        assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert b"Jane" not in sent


def test_without_a_key_no_authorization_is_sent(server):
    text(writer(server, key=""))
    assert "authorization" not in server.questions[0].headers


def test_a_proxy_of_the_environment_is_not_used(server, monkeypatch):
    with LoopbackLLM() as proxy:
        for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        assert prompts(text(writer(server)))
        assert not proxy.requests


# ---- servers that are slow, broken or lying


def test_every_way_to_answer_has_an_end_here():
    assert set(ENDS) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_answer_ends_as_text_or_as_one_error_that_says_what_to_do(server, fault):
    server.fault = fault
    patience = SOON.get(fault, QUICK)
    began = time.monotonic()
    end = ENDS[fault]
    if isinstance(end, str):
        answer = text(writer(server, patience=patience))
        complete = re.search(r'\{"beats": \[.*\]\}', answer, re.DOTALL)
        fits = complete is not None and is_as_asked(complete.group())
        assert fits == (end == WHOLE)
    else:
        kind, said = end
        with pytest.raises(kind, match=said) as err:
            text(writer(server, patience=patience))
        assert err.value.hint.endswith(".") and KEY not in str(err.value)
        assert err.value.__cause__ is None and err.value.__context__ is None
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("fault", FAULTS)
def test_every_draft_ends_in_all_its_beats_or_in_one_error(server, picture, fault):
    server.fault = fault
    patience = SOON.get(fault, QUICK)
    brief = Brief(picture, 2, keywords="dog, street")
    beats = []
    try:
        with closing(drafter(server, patience).beats(brief)) as coming:
            beats += coming
    except (BackendUnavailable, StorylineError) as err:
        assert err.hint and KEY not in str(err)
        assert fault not in HARMLESS, err
    else:
        assert len(beats) == 2
    for beat in beats:
        assert not set(beat.prompt) & set("\u202e\x07\x1b<>{}$")


@pytest.mark.parametrize(
    ("status", "said", "requests"),
    [
        (400, "does not take the question", 1),
        (401, "does not accept the key", 1),
        (403, "does not accept the key", 1),
        (404, "has no model “loopback-vl”", 1),
        (413, "does not take the question", 1),
        (418, "HTTP 418", 1),
        (429, "is busy", 3),
        (500, r"failed \(HTTP 500\)", 3),
        (502, r"failed \(HTTP 502\)", 3),
        (503, "is busy", 3),
    ],
)
def test_a_status_is_said_in_words_and_tried_again_only_when_that_may_help(server, status, said, requests):
    server.status = status
    with pytest.raises(BackendUnavailable, match=said) as err:
        text(writer(server))
    assert len(server.requests) == requests and KEY not in str(err.value)


def test_an_endpoint_that_wants_a_key_says_where_to_put_it(server):
    server.status = 401
    with pytest.raises(BackendUnavailable, match="SVI_ENDPOINT_KEY"):
        text(writer(server, key=""))


def test_a_busy_server_gets_the_pause_that_it_asks_for(server):
    server.status, server.retry_after, server.times = 429, "0.3", 2
    began = time.monotonic()
    assert len(prompts(text(writer(server)))) == 3
    assert len(server.requests) == 3 and time.monotonic() - began > 0.6


@pytest.mark.parametrize("asked", ["3600", "86400"])
def test_a_pause_that_is_too_long_ends_the_question_at_once(server, asked):
    server.status, server.retry_after = 503, asked
    with pytest.raises(BackendUnavailable, match="busy"):
        text(writer(server))
    assert len(server.requests) == 1


@pytest.mark.parametrize("asked", ["-1", "nan", "inf", "Wed, 21 Oct 2026 07:28:00 GMT", "1e9"])
def test_a_pause_that_makes_no_sense_is_not_taken(server, asked):
    server.status, server.retry_after, server.times = 503, asked, 1
    assert prompts(text(writer(server)))


def test_nothing_is_asked_again_once_text_has_come(server):
    server.fault = "cut"
    pieces = writer(server).write(asking())
    had = ""
    with pytest.raises(BackendUnavailable, match="in the middle"):
        for piece in pieces:
            had += piece
    assert had.startswith('{"beats": [') and len(server.requests) == 1


def test_a_server_that_is_not_there_is_tried_three_times():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nobody = EndpointWriter(f"http://127.0.0.1:{port}/v1", MODEL, SecretStr(""), patience=QUICK)
    with pytest.raises(BackendUnavailable, match=f"127.0.0.1:{port} cannot be reached"):
        text(nobody)


def test_a_redirect_is_never_followed(server):
    with LoopbackLLM() as other:
        server.fault, server.redirect_to = "redirect", other.url
        with pytest.raises(BackendUnavailable, match="not followed"):
            text(writer(server))
        assert not other.requests and len(server.requests) == 1


@pytest.mark.parametrize("url", ["http://10.1.2.3/v1", "https://example.org/v1", "http://127.1/v1"])
def test_a_writer_cannot_be_made_for_an_address_that_is_not_allowed(url):
    with pytest.raises(ConfigError):
        EndpointWriter(url, MODEL, SecretStr(KEY))


def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_key_is_sent(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl is needed to make a certificate")
    made = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert"), "-subj", "/CN=127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *made]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with LoopbackLLM() as server:
        server.use_tls(context)
        with pytest.raises(BackendUnavailable, match="certificate that cannot be verified"):
            text(EndpointWriter(server.url.replace("http:", "https:"), MODEL, SecretStr(KEY), patience=QUICK))
        assert not server.requests


class Says:
    """A story whose every answer says the same, whatever is asked."""

    def __init__(self, words):
        self.words = words

    def answer(self, schema, text, *, change):
        return {"beats": [{"prompt": self.words}]}


@pytest.mark.parametrize("fault", ["none", "not streamed"])
def test_the_key_is_in_no_text_however_the_answer_is_sent(server, fault):
    server.fault, server.story = fault, Says(f"The dog says {KEY} and runs on.")
    had = ""
    with pytest.raises(StorylineError, match="repeats the endpoint's key"):
        for piece in writer(server).write(asking()):
            had += piece
    assert KEY not in had


@pytest.mark.parametrize("fault", ["none", "not streamed"])
def test_an_answer_is_as_long_as_it_may_be_however_it_is_sent(server, fault):
    server.chunk_characters = 65536
    server.fault, server.story = fault, Says("x" * MAX_ANSWER_CHARACTERS)
    with pytest.raises(StorylineError, match="does not end"):
        text(writer(server))


@pytest.mark.parametrize("key", ["key", "still", "ollama", "dog"])
def test_a_key_that_is_a_word_keeps_no_story_from_being_told(server, key):
    server.story = Says(f"The dog finds the {key} and stands still.")
    assert key in text(writer(server, key=key))


# ---- servers that know less


def test_a_server_without_json_schemas_gets_the_schema_in_words_from_then_on(server):
    server.fault = "no json_schema"
    asks = writer(server)
    assert len(prompts(text(asks))) == len(prompts(text(asks))) == 3
    kinds = [question.body["response_format"]["type"] for question in server.questions]
    assert kinds == ["json_schema", "json_object", "json_object"]
    assert json.dumps(SHAPE.schema) in server.questions[1].body["messages"][0]["content"]


def test_a_server_that_knows_no_response_format_is_asked_without_it_from_then_on(server):
    server.fault = "no response_format"
    asks = writer(server)
    assert len(prompts(text(asks))) == len(prompts(text(asks))) == 3
    kinds = [question.body.get("response_format", {}).get("type") for question in server.questions]
    assert kinds == ["json_schema", "json_object", None, None]
    assert json.dumps(SHAPE.schema) in server.questions[-1].body["messages"][0]["content"]


def test_a_server_that_cannot_hold_the_longest_answer_is_asked_without_that_limit(server):
    server.fault = "no max_tokens"
    asks = writer(server)
    assert len(prompts(text(asks))) == len(prompts(text(asks))) == 3
    assert ["max_tokens" in question.body for question in server.questions] == [True, False, False]


# ---- leaving


def gone_in(server, seconds=1.5):
    return server.gone.wait(seconds)


def test_closing_an_answer_closes_the_connection(server):
    server.chunk_s = 0.02
    pieces = writer(server).write(asking())
    assert next(pieces)
    pieces.close()
    assert gone_in(server)


@pytest.mark.parametrize("fault", ["hang", "hang after headers", "hang midway"])
def test_an_interruption_ends_an_answer_at_once_without_an_error(server, fault):
    server.fault = fault
    asks = writer(server)
    ended: list[str] = []
    reader = threading.Thread(target=lambda: ended.append(text(asks)), daemon=True)
    reader.start()
    assert server.asked.wait(4)
    began = time.monotonic()
    asks.interrupt()
    reader.join(3)
    assert ended and time.monotonic() - began < 1.5
    assert gone_in(server)


def test_an_interruption_ends_the_pause_before_another_try(server):
    server.status, server.retry_after = 503, "300"
    asks = writer(server, patience=Patience(longest_pause_s=1000))
    ended: list[str] = []
    reader = threading.Thread(target=lambda: ended.append(text(asks)), daemon=True)
    reader.start()
    assert server.asked.wait(4)
    asks.interrupt()
    reader.join(3)
    assert ended == [""] and len(server.requests) == 1


def test_an_interruption_before_the_first_piece_is_not_forgotten(server):
    asks = writer(server)
    pieces = asks.write(asking())
    asks.interrupt()
    assert list(pieces) == [] and not server.requests


def test_a_writer_can_be_asked_again_after_it_was_interrupted(server):
    asks = writer(server)
    pieces = asks.write(asking())
    next(pieces)
    asks.interrupt()
    assert len(list(pieces)) <= 1
    assert len(prompts(text(asks))) == 3


def test_no_thread_is_left_behind(server):
    before = threading.active_count()
    asks = writer(server)
    for _ in range(3):
        pieces = asks.write(asking())
        next(pieces)
        pieces.close()
    for thread in threading.enumerate():
        if thread.name == "endpoint":
            thread.join(2)
    assert not [thread for thread in threading.enumerate() if thread.name == "endpoint"]
    assert threading.active_count() <= before + 3  # the server's own, one a connection
