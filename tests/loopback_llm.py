"""A small server on 127.0.0.1 that speaks the OpenAI chat protocol, truthfully or not, and keeps what it was sent.

Its answers follow the JSON schema of the question and read like a film story: the schema decides the shape, a counter
makes every prompt another one. `fault` and `status` make it slow, broken or lying, for all or for the next few answers.
"""

import base64
import contextlib
import functools
import gzip
import itertools
import json
import math
import re
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, get_args

Fault = Literal[
    "none",
    "hang",  # no byte of an answer, ever
    "hang after headers",
    "hang midway",
    "cut",  # the connection ends in the middle of the answer
    "cut at once",  # … before a byte of it
    "not http",
    "redirect",  # to another host
    "content type",  # a web page with status 200
    "gzip bomb",
    "endless line",
    "endless",  # an answer that never ends, in valid pieces
    "endless after the answer",
    "comments",  # bytes without text, for ever
    "error event",  # status 200, then an error in the stream
    "not a chat",  # JSON without choices
    "broken events",
    "empty",
    "no done",
    "never closed",  # finished, and neither [DONE] nor the end of the connection
    "not streamed",  # the whole answer as one JSON body although a stream was asked for
    "no json_schema",  # 400 until response_format is json_object
    "no response_format",  # 400 as long as there is a response_format
    "no max_tokens",  # 400 until max_tokens is left out, as from a model with a short context
    "out of tokens",
    "refusal",
    "refusal in words",
    "not json",
    "prose",  # around the JSON
    "fence",
    "wrong schema",
    "too few",
    "too many",
    "duplicates",
    "hostile text",  # control characters, bidirectional overrides and code in the strings
    "reflect",  # the Authorization header as text of the answer
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
MODEL = "loopback-vl"
HOSTILE = (
    "\u202eevil\u202c\x07\x1b[31m <script>alert(1)</script> ${process.env} '; DROP TABLE films; -- ../../etc/passwd "
)
BROKEN_EVENTS = (b'{"choices": [', b"\xff\xfe", b"7", b'{"choices": {"a": 1}}')

ACTIONS = (
    "walks on with steady steps",
    "stops and looks around",
    "turns towards the camera",
    "leans forward and listens",
    "follows a drifting leaf",
    "rests for a moment and breathes out",
    "moves past a row of old houses",
    "crosses to the other side",
    "looks up as clouds gather",
    "comes closer until the face fills the frame",
    "waits while a few people pass by",
    "goes around a corner and slows down",
    "stands still while the wind rises",
)
CAMERAS = (
    "the camera follows at eye level",
    "the camera slowly moves closer",
    "the camera glides to the side",
    "the camera pulls back to a wide view",
    "the camera holds still",
    "the camera circles once around",
    "a low angle shows the ground in front",
    "a high angle shows the whole place",
    "the focus shifts from the background to the front",
    "a slow tilt reveals the sky",
    "a long lens flattens the distance",
)
DETAILS = (
    "Soft shadows lie on the ground.",
    "Dust glitters in the air.",
    "Colours stay warm and natural.",
    "Small reflections move on wet stone.",
    "Leaves tremble at the edge of the frame.",
    "The background stays softly out of focus.",
    "Fine texture is visible everywhere.",
)
LITERAL_STOP = re.compile(r"(?<!\\)[.\[({^$*+?|]")


@dataclass(frozen=True)
class Received:
    """One request as it came in: `headers` with lower-case names, `body` as JSON (None when it had none)."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, object] | None

    @property
    def text(self) -> str:
        """What the user's message says, its pictures left out."""
        return "\n".join(part["text"] for part in self._parts() if part["type"] == "text")

    @property
    def pictures(self) -> list[bytes]:
        addresses = [part["image_url"]["url"] for part in self._parts() if part["type"] == "image_url"]
        return [base64.b64decode(address.partition("base64,")[2]) for address in addresses]

    def _parts(self) -> list[dict]:
        contents = [message["content"] for message in (self.body or {})["messages"] if message["role"] == "user"]
        return [part for c in contents for part in (c if isinstance(c, list) else [{"type": "text", "text": c}])]


class Story:
    """Writes a value for any JSON schema, in which strings are a story about `subject`. The counter never repeats."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    def answer(self, schema: Mapping, about: str, *, change: Fault = "none") -> object:
        """`change`: "too few", "too many" or "duplicates" items than the schema asks for, or "hostile text"."""
        return _Telling(self, schema, subject_of(about), change).value(schema, "")

    def next_number(self) -> int:
        with self._lock:
            self._count += 1
            return self._count


@dataclass
class _Telling:
    story: Story
    root: Mapping
    subject: str
    change: Fault

    def value(self, schema: Mapping, name: str) -> object:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            steady = name in ("time", "time_of_day")
            return schema["enum"][0 if steady else (self.story.next_number() - 1) % len(schema["enum"])]
        kind = schema.get("type", "object")
        match kind if isinstance(kind, str) else kind[0]:
            case "object":
                return {key: self.value(part, key) for key, part in schema.get("properties", {}).items()}
            case "array":
                return self._items(schema, name)
            case "integer" | "number":
                return schema.get("minimum", 0)
            case "boolean":
                return True
            case "null":
                return None
        return self._string(schema, name)

    def _resolved(self, schema: Mapping) -> Mapping:
        if "$ref" in schema:
            found: Mapping = self.root
            for key in schema["$ref"].removeprefix("#/").split("/"):
                found = found[key]
            return self._resolved(found)
        for choices in ("anyOf", "oneOf"):
            if choices in schema:
                return self._resolved(schema[choices][0])
        return schema

    def _items(self, schema: Mapping, name: str) -> list:
        least = schema.get("minItems", 1)
        count = min(max(least, 1), schema.get("maxItems", least or 1))
        count += {"too many": 3, "too few": -1}.get(self.change, 0)
        first = [self.value(part, name) for part in schema.get("prefixItems", [])]
        rest = [self.value(schema.get("items", {}), name) for _ in range(max(0, count - len(first)))]
        items = first + rest
        return [items[0]] * len(items) if self.change == "duplicates" and items else items

    def _string(self, schema: Mapping, name: str) -> str:
        pattern = schema.get("pattern", "")
        start, number = literal_start(pattern), self.story.next_number()
        words = self._words(name, number, named=bool(start))
        if self.change == "hostile text":
            return start + HOSTILE + words
        least, most = schema.get("minLength", 0), schema.get("maxLength", 4000)
        for text in variations(start + words, [DETAILS[(number + 1 + i) % len(DETAILS)] for i in range(40)]):
            if least <= len(text) <= most and re.search(pattern, text):
                return text
        raise ValueError(f"no text of {least} to {most} characters for the pattern {pattern}")

    def _words(self, name: str, number: int, *, named: bool) -> str:
        """What a text called `name` says; `named`: something before it names the subject."""
        subject = self.subject[0].upper() + self.subject[1:]
        action, camera = ACTIONS[number % len(ACTIONS)], CAMERAS[number % len(CAMERAS)]
        match name:
            case "subject":
                return subject
            case "place":
                return "An old street lined with stone houses"
            case "time":
                return "Late afternoon"
            case "style":
                return "A photograph in natural colours with soft light"
            case "caption":
                return f"Szene {number}: {self.subject}, Bild für Bild."
            case "action":
                return f"{subject} {action}"
            case "camera" | "view":
                return camera[0].upper() + camera[1:]
        who = "" if named else subject
        return f"{who} {action} in the old street, and {camera}. {DETAILS[number % len(DETAILS)]}"


def variations(text: str, details: Sequence[str]) -> Iterator[str]:
    """`text` with other ends: as it is, with more sentences, then cut shorter, at words before anywhere."""
    longer = [text, *(f"{text} {' '.join(details[:count])}" for count in range(1, len(details) + 1))]
    yield from longer
    whole = longer[-1]
    at_words = (at for at in range(len(whole) - 1, 0, -1) if whole[at] == " ")
    for cut in itertools.chain(at_words, range(len(text), 0, -1)):
        for end in ("", ".", "!", "a"):
            yield whole[:cut].rstrip(" ,.") + end


def subject_of(text: str) -> str:
    """The first keyword in a message, with an article."""
    found = re.search(r"(?i)keywords?[^:\n]*:\s*[“\"']?([^\n“”\"',;.]+)", text)
    word = found.group(1).strip()[:60] if found else ""
    if not word:
        return "the traveller"
    return word if re.match(r"(?i)(a|an|the)\b", word) else f"the {word}"


def literal_start(pattern: str) -> str:
    """What a pattern such as ^The\\ old\\ dog.* must begin with."""
    if not pattern.startswith("^"):
        return ""
    body = pattern[1:]
    stop = LITERAL_STOP.search(body)
    return re.sub(r"\\(.)", r"\1", body[: stop.start()] if stop else body)


@dataclass
class LoopbackLLM:
    """`with LoopbackLLM() as server:` listens at `server.url`; its attributes may be changed while it runs.

    first_byte_s, chunk_s: waits before the answer and between its pieces. status: an HTTP status in the place of an
    answer, with `retry_after`. times: how many answers misbehave before all is well again, None: all of them.
    `gone` is set when a client leaves in the middle of an answer.
    """

    first_byte_s: float = 0.0
    chunk_s: float = 0.0
    chunk_characters: int = 16
    fault: Fault = "none"
    status: int = 200
    retry_after: str = ""
    times: int | None = None
    redirect_to: str = "http://localhost:9/v1"
    requests: list[Received] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)
    story: Story = field(default_factory=Story)

    def __enter__(self) -> "LoopbackLLM":
        owner = self

        class Handler(_Handler):
            llm = owner

        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def use_tls(self, context: ssl.SSLContext) -> None:
        """Speak TLS from the next connection on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def questions(self) -> list[Received]:
        return [request for request in self.requests if request.path.endswith("/chat/completions")]

    def next_behaviour(self) -> tuple[Fault, int]:
        """The fault and the status of this answer; counts it when only a few misbehave."""
        with self._lock:
            if self.times is None:
                return self.fault, self.status
            if self.times <= 0:
                return "none", 200
            self.times -= 1
            return self.fault, self.status


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, address: object) -> None:
        """A client that leaves is not worth a traceback; anything else is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, address)


class _Handler(BaseHTTPRequestHandler):
    llm: LoopbackLLM
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet: tests read `requests`."""

    def do_GET(self) -> None:
        self._record(None)
        if self.path != "/v1/models":
            return self._json(404, {"error": {"message": "no such page"}})
        self._json(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "loopback"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        request = self._record(body)
        with contextlib.suppress(ConnectionError, _Left):
            self._answer(request, body)

    def _record(self, body: Mapping | None) -> Received:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.command, self.path, headers, body)
        self.llm.requests.append(request)
        self.llm.asked.set()
        return request

    def _answer(self, request: Received, body: Mapping) -> None:
        if self.path != "/v1/chat/completions":
            return self._json(404, {"error": {"message": "no such page"}})
        fault, status = self.llm.next_behaviour()
        self._wait(self.llm.first_byte_s)
        if status != 200:
            error = {"error": {"message": f"status {status} for {request.headers.get('authorization', 'nobody')}"}}
            return self._json(status, error, {"Retry-After": self.llm.retry_after} if self.llm.retry_after else {})
        kind = body.get("response_format", {}).get("type")
        if (fault == "no json_schema" and kind == "json_schema") or (fault == "no response_format" and kind):
            return self._json(400, {"error": {"message": f"response_format.type: unknown value '{kind}'"}})
        if fault == "no max_tokens" and "max_tokens" in body:
            return self._json(400, {"error": {"message": "max_tokens is too large for 4096 tokens of context"}})
        if breaks := getattr(self, "_" + fault.replace(" ", "_"), None):
            return breaks(request)
        try:
            text = self._text(request, body, fault)
        except ValueError as err:
            return self._json(400, {"error": {"message": str(err)}})
        if body.get("stream") and fault != "not streamed":
            self._stream(text, fault)
        else:
            self._json(200, whole(text, "stop"))

    # ---- what an answer says

    def _text(self, request: Received, body: Mapping, fault: Fault) -> str:
        schema = schema_of(body, request.text)
        match fault:
            case "empty" | "refusal":
                return ""
            case "refusal in words":
                return "I'm sorry, but I can't help with that picture."
            case "not json":
                return '{"subject": "a dog", "prompts": [{"prompt": the dog runs away}, }'
            case "wrong schema":
                return json.dumps({"title": 7, "prompts": {"first": ["a dog"]}, "mood": None})
            case "reflect":
                return json.dumps({"subject": request.headers.get("authorization", "")})
            case "endless":
                return '{"subject": "' + "a dog and " * 400_000
        text = json.dumps(self.llm.story.answer(schema, request.text, change=fault), ensure_ascii=fault != "none")
        match fault:
            case "prose":
                return f"Sure! Here is your storyline:\n\n{text}\n\nLet me know if you want another {{one}}."
            case "fence":
                return f"```json\n{text}\n```"
            case "endless after the answer":
                return text + "\n" * 4_000_000
            case "cut" | "hang midway" | "out of tokens":
                return text[: math.ceil(len(text) * 0.6)]
        return text

    # ---- how it is sent

    def _stream(self, text: str, fault: Fault) -> None:
        self._head()
        self._event(delta({"role": "assistant"}))
        size = 65536 if fault.startswith("endless") else self.llm.chunk_characters
        for start in range(0, len(text), size):
            if start:
                self._wait(self.llm.chunk_s)
            self._event(delta({"content": text[start : start + size]}))
        if fault == "cut":
            return self._drop()
        if fault == "hang midway":
            return self._wait(math.inf)
        if fault == "refusal":
            self._event(delta({"refusal": "I cannot describe this picture."}))
        self._event(delta({}, finish_reason="length" if fault == "out of tokens" else "stop"))
        if fault == "never closed":
            return self._wait(math.inf)
        if fault != "no done":
            self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _hang(self, _: Received) -> None:
        self._wait(math.inf)

    def _hang_after_headers(self, _: Received) -> None:
        self._head()
        self._wait(math.inf)

    def _cut_at_once(self, _: Received) -> None:
        self._drop()

    def _not_http(self, _: Received) -> None:
        self.wfile.write(b"\x16\x03\x01\x02\x00 nobody speaks like that \x00\xff\r\n\r\n")
        self._drop()

    def _redirect(self, _: Received) -> None:
        self._json(307, {}, {"Location": f"{self.llm.redirect_to}/chat/completions"})

    def _content_type(self, _: Received) -> None:
        page = b"<!doctype html><title>Sign in to the hotel's network</title>"
        self._plain(200, page, {"Content-Type": "text/html"})

    def _gzip_bomb(self, _: Received) -> None:
        self._plain(200, bomb(), {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"})

    def _endless_line(self, _: Received) -> None:
        self._head()
        self._chunk(b"data: ")
        while True:
            self._chunk(b"x" * 65536)

    def _comments(self, _: Received) -> None:
        self._head()
        while True:
            self._chunk(b": still thinking\n\n")
            self._wait(0.01)

    def _error_event(self, request: Received) -> None:
        self._head()
        self._event({"error": {"message": f"out of memory for {request.headers.get('authorization')}", "code": 500}})
        self._chunk(b"")

    def _not_a_chat(self, _: Received) -> None:
        self._json(200, {"object": "text", "choices": [{"index": 0}], "answer": ["a dog"]})

    def _broken_events(self, _: Received) -> None:
        self._head()
        for data in BROKEN_EVENTS:
            self._chunk(b"data: " + data + b"\n\n")
        self._chunk(b"")

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _event(self, data: Mapping) -> None:
        self._chunk(b"data: " + json.dumps(data).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        """One chunk of the body; the empty one ends it. Raises `_Left` when the client is not there any more."""
        try:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        except OSError as err:
            self.llm.gone.set()
            raise _Left from err

    def _json(self, status: int, data: Mapping, headers: Mapping[str, str] | None = None) -> None:
        self._plain(status, json.dumps(data).encode(), {"Content-Type": "application/json"} | dict(headers or {}))

    def _plain(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _wait(self, seconds: float) -> None:
        """Wait, for ever if asked to; the client's leaving and the server's end are noticed."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.llm.stopping.is_set():
                raise _Left
            readable, _, _ = select.select([self.connection], [], [], min(left, 0.02))
            if readable and not self._peek():
                self.llm.gone.set()
                raise _Left

    def _peek(self) -> bytes:
        try:
            return self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return b""


class _Left(Exception):
    """The client is gone, or the server is being stopped."""


@functools.cache
def bomb() -> bytes:
    """50 MB of blanks in 50 kB."""
    return gzip.compress(b"data: " + b" " * 50_000_000, compresslevel=6)


def schema_of(body: Mapping, text: str) -> Mapping:
    """The schema of a question: in its response_format, else in the words of its messages."""
    written = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if written:
        return written
    for candidate in [*_system(body), text]:
        for found in re.finditer(r"\{", candidate):
            with contextlib.suppress(ValueError):
                schema, _ = json.JSONDecoder().raw_decode(candidate[found.start() :])
                if isinstance(schema, dict) and "properties" in schema:
                    return schema
    return {"type": "object", "properties": {"answer": {"type": "string"}}}


def _system(body: Mapping) -> Iterator[str]:
    return (m["content"] for m in body["messages"] if m["role"] == "system" and isinstance(m["content"], str))


def delta(change: Mapping, finish_reason: str | None = None) -> dict:
    choice = {"index": 0, "delta": change, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}


def whole(text: str, finish_reason: str) -> dict:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": MODEL, "choices": [choice]}
