"""A writer behind an OpenAI-compatible server that the operator has set up: vLLM, llama.cpp, Ollama, a cloud.

One question is one request in a thread of its own, so that whoever waits can leave at any moment, also before the first
byte. The key travels in one header; it is in no error, because no error here keeps the exception that it came from:
an httpx exception leads to its request, and that to the header.
"""

import asyncio
import logging
import re
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

import httpx
from pydantic import SecretStr

from engine.errors import BackendUnavailable, StorylineError, StudioError
from engine.story.address import allowed_address, checked_model, has_key
from engine.story.chat import Answer, Failing, Malformed, Refused, question
from engine.story.reader import MAX_ANSWER_CHARACTERS
from engine.story.writer import Ask

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64_000_000  # on the wire: an event around a token takes some 300 bytes
MAX_COMPLAINT_BYTES = 64_000  # read of an error's body, to see which field it names
BUSY = (429, 500, 502, 503, 504)
OPTIONAL = ("max_tokens", "seed")
LEAST_SECRET = 12  # characters of a key that is looked for in answers: a shorter one may be a word of the story
LEAVING_S = 2.0  # for the connection's closing when the caller has left
SAFE = "Nothing is lost."
TO_DO = "Draft again, or use templates."
OPERATOR = "The operator of this studio can mend it; templates need no endpoint."

Put = Callable[[str], None]


@dataclass(frozen=True)
class Patience:
    """How long is waited for what, in seconds. tries: requests for one question, while no text has come."""

    connect_s: float = 5.0
    first_byte_s: float = 120.0
    between_s: float = 60.0
    answer_s: float = 900.0
    tries: int = 3
    pause_s: float = 1.0  # before the second try, doubled before each further one
    longest_pause_s: float = 30.0  # that a server may ask for


class EndpointWriter:
    """Asks `model` at `url`. Raises `ConfigError` when the address is not allowed or the key cannot be one.

    hosts: where besides this computer an endpoint may be, with commas.
    """

    def __init__(
        self, url: str, model: str, key: SecretStr, *, hosts: str = "", patience: Patience | None = None
    ) -> None:
        self.title = checked_model(model)
        self._address = allowed_address(url, hosts=hosts, has_key=has_key(key))
        self._key = key
        self._patience = patience or Patience()
        self._knows_schemas = True
        self._without: frozenset[str] = frozenset()
        self._conversation: _Conversation | None = None

    def write(self, ask: Ask) -> Iterator[str]:
        self._conversation = _Conversation(lambda put: self._talk(ask, put))
        return self._conversation.pieces()

    def interrupt(self) -> None:
        if self._conversation:
            self._conversation.leave()

    def close(self) -> None:
        self.interrupt()

    # ---- in the conversation's thread

    async def _talk(self, ask: Ask, put: Put) -> None:
        """Ask until something comes. Every way to fail is a `_Failed`."""
        limits = httpx.Timeout(None, connect=self._patience.connect_s)  # the other waits are counted in _listen
        try:
            async with (
                asyncio.timeout(self._patience.answer_s),
                httpx.AsyncClient(timeout=limits, trust_env=False, follow_redirects=False) as client,
            ):
                await self._ask(client, ask, put)
        except TimeoutError:
            raise self._down(f"took longer than {self._patience.answer_s:g} s for one answer", TO_DO) from None

    async def _ask(self, client: httpx.AsyncClient, ask: Ask, put: Put) -> None:
        tries = 0
        while True:
            body = question(ask, self.title, knows_schemas=self._knows_schemas, without=self._without)
            try:
                return await self._listen(client, body, put)
            except _Unknown as err:
                if not self._do_without(err.complaint):
                    raise self._refused(err.status) from None
            except _Busy as err:
                tries += 1
                pause = err.pause_s if err.pause_s is not None else self._patience.pause_s * 2 ** (tries - 1)
                if tries >= self._patience.tries or pause > self._patience.longest_pause_s:
                    raise _Failed(err.error) from None
                await asyncio.sleep(pause)

    def _do_without(self, complaint: str) -> bool:
        """Leave out what the server named, from here on; False when there is nothing left to leave out."""
        if self._knows_schemas and re.search("response_format|json_schema", complaint):
            self._knows_schemas = False
            return True
        if "response_format" not in self._without and re.search("response_format|json_object", complaint):
            self._without |= {"response_format"}
            return True
        named = next((name for name in OPTIONAL if name in complaint and name not in self._without), None)
        self._without |= {named} if named else set()
        return named is not None

    async def _listen(self, client: httpx.AsyncClient, body: dict[str, object], put: Put) -> None:
        """One request; its text goes to `put` as it comes."""
        headers = {"Accept": "text/event-stream, application/json", "Accept-Encoding": "identity"}
        if secret := self._key.get_secret_value():
            headers["Authorization"] = f"Bearer {secret}"
        request = client.build_request("POST", f"{self._address.base}/chat/completions", json=body, headers=headers)
        heard = _Heard()
        try:
            async with asyncio.timeout(self._patience.first_byte_s) as patience:
                response = await client.send(request, stream=True)
                try:
                    await self._check(response)
                    async for text in self._texts(response, patience, heard):
                        put(text)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise self._too_slow(heard) from None
        except httpx.TransportError as err:
            raise self._lost(err, heard) from None
        except Malformed as err:
            raise self._down(str(err), OPERATOR) from None
        except Failing:
            raise self._down("reported an error of its own", TO_DO) from None
        except Refused:
            raise _Failed(StorylineError(f"{self.title} refused to write this storyline.", f"{SAFE} {TO_DO}")) from None

    async def _texts(self, response: httpx.Response, patience: asyncio.Timeout, heard: "_Heard") -> AsyncIterator[str]:
        """The answer's text in pieces, within its bounds."""
        loop = asyncio.get_running_loop()
        answer = Answer(streamed=response.headers.get("content-type", "").startswith("text/event-stream"))
        async for data in response.aiter_raw():
            patience.reschedule(loop.time() + self._patience.between_s)
            heard.num_bytes += len(data)
            if text := self._checked(answer.feed(data), heard):
                yield text
            if answer.is_complete:
                return
        if text := self._checked(answer.end(), heard):
            yield text

    def _checked(self, text: str, heard: "_Heard") -> str:
        """`text`, the next of an answer, when the answer keeps to its bounds and does not repeat the key."""
        heard.num_characters += len(text)
        if heard.num_bytes > MAX_ANSWER_BYTES or heard.num_characters > MAX_ANSWER_CHARACTERS:
            raise _Failed(StorylineError(f"The answer of {self.title} does not end.", f"{SAFE} {TO_DO}"))
        secret = self._key.get_secret_value()
        latest = heard.latest + text
        if len(secret) >= LEAST_SECRET and secret in latest:
            raise _Failed(StorylineError(f"The answer of {self.title} repeats the endpoint's key.", OPERATOR))
        heard.latest = latest[-len(secret) :] if secret else ""
        return text

    async def _check(self, response: httpx.Response) -> None:
        """Go on with an answer only. What a server says about an error is never shown: it may repeat the key."""
        status = response.status_code
        if status in (400, 422):
            raise _Unknown(status, await self._complaint(response))
        if status in BUSY:
            said = "is busy" if status in (429, 503) else f"failed (HTTP {status})"
            raise _Busy(self._down(said, TO_DO).error, retry_after(response.headers.get("retry-after", "")))
        if 300 <= status < 400:
            raise self._down("sends the question on to another address, which is not followed", OPERATOR)
        if status != 200:
            raise self._refused(status)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._down("sent a packed answer that was not asked for", OPERATOR)
        if not response.headers.get("content-type", "").startswith(("text/event-stream", "application/json")):
            raise self._down("answered with a page instead of a chat, so its URL may be wrong", OPERATOR)

    async def _complaint(self, response: httpx.Response) -> str:
        text = b""
        async for data in response.aiter_raw():
            text += data
            if len(text) > MAX_COMPLAINT_BYTES:
                break
        return text.decode("utf-8", errors="replace")

    # ---- what went wrong, in words

    def _down(self, what: str, to_do: str) -> "_Failed":
        return _Failed(BackendUnavailable(f"The endpoint at {self._address.host} {what}.", f"{SAFE} {to_do}"))

    def _refused(self, status: int) -> "_Failed":
        match status:
            case 401 | 403 if not self._key.get_secret_value():
                what = "wants a key, which the operator sets as SVI_ENDPOINT_KEY"
            case 401 | 403:
                what = "does not accept the key"
            case 404:
                what = f"has no model “{self.title}”, or its URL is wrong"
            case 400 | 413 | 422:
                what = f"does not take the question (HTTP {status}): its model may not read pictures or have no room"
            case _:
                what = f"answered with HTTP {status}"
        return self._down(what, OPERATOR)

    def _too_slow(self, heard: "_Heard") -> "_Failed":
        if heard.num_bytes:
            return self._down(f"fell silent for {self._patience.between_s:g} s in the middle of an answer", TO_DO)
        return self._down(f"did not begin to answer within {self._patience.first_byte_s:g} s", TO_DO)

    def _lost(self, err: httpx.TransportError, heard: "_Heard") -> "_Failed | _Busy":
        """What a broken connection means: worth another try as long as no text has come."""
        if is_about_certificates(err):
            return self._down("has a certificate that cannot be verified", OPERATOR)
        if heard.num_characters:
            return self._down("stopped in the middle of an answer", TO_DO)
        if isinstance(err, httpx.ConnectError | httpx.ConnectTimeout):
            return _Busy(self._down("cannot be reached", OPERATOR).error, None)
        return _Busy(self._down("broke the connection off before it answered", TO_DO).error, None)


def retry_after(text: str) -> float | None:
    """The seconds that a server asks for; a date, or anything else, is as if it had not asked."""
    return float(text) if re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text) else None


def is_about_certificates(err: BaseException | None) -> bool:
    while err is not None:
        if isinstance(err, ssl.SSLCertVerificationError):
            return True
        err = err.__cause__ or err.__context__
    return False


@dataclass
class _Heard:
    """What has come of one answer. latest: the end of its text, as long as the key."""

    num_bytes: int = 0
    num_characters: int = 0
    latest: str = ""


class _Failed(Exception):
    def __init__(self, error: StudioError) -> None:
        super().__init__()
        self.error = error


class _Busy(Exception):
    """Worth another try, after `pause_s` when the server has named a time."""

    def __init__(self, error: StudioError, pause_s: float | None) -> None:
        super().__init__()
        self.error, self.pause_s = error, pause_s


class _Unknown(Exception):
    """The server does not take the question as it stands, and says why in `complaint`."""

    def __init__(self, status: int, complaint: str) -> None:
        super().__init__()
        self.status, self.complaint = status, complaint


class _Conversation:
    """One question in a thread and an event loop of its own: its end is one cancellation, whatever it waits for."""

    def __init__(self, talk: Callable[[Put], Awaitable[None]]) -> None:
        self._talk = talk
        self._came: SimpleQueue[str | BaseException | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._has_left = False
        self._cancel: Callable[[], object] | None = None

    def pieces(self) -> Iterator[str]:
        thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        thread.start()
        try:
            while (item := self._came.get()) is not None and not self._has_left:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.leave()
            thread.join(LEAVING_S)

    def leave(self) -> None:
        """End it, from any thread: the connection is closed, and `pieces` ends without an error."""
        with self._lock:
            self._has_left = True
            if self._cancel:
                self._cancel()
        self._came.put(None)

    def _run(self) -> None:
        try:
            asyncio.run(self._converse())
        except asyncio.CancelledError:
            log.debug("the endpoint's answer was not wanted any more")
        except _Failed as failed:
            self._came.put(failed.error)
        except Exception as err:  # a bug: it belongs to whoever waits, not to this thread
            self._came.put(err)
        self._came.put(None)

    async def _converse(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        with self._lock:
            if self._has_left or task is None:
                return
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            await self._talk(self._came.put)
        finally:
            with self._lock:
                self._cancel = None
