"""The OpenAI chat protocol, as far as storylines need it: a question as JSON, an answer out of server-sent events.

What comes in was written by a stranger: it is parsed strictly, and nothing in it is followed or run.
"""

import base64
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from PIL import Image

from engine.media import image
from engine.story.writer import Ask

LONGEST_SIDE = 768  # of the picture that is sent: at most (768 / 28)², 752, tokens of Qwen2.5-VL
JPEG_QUALITY = 90
MAX_LINE_BYTES = 2_000_000  # an event carries a few characters; a body without events is one line
IN_WORDS = "Answer with one JSON object and nothing else. It must be valid against this JSON schema:\n"


class Malformed(ValueError):
    """The bytes are not the protocol; the text says how, to go after “it”."""


class Refused(ValueError):
    """The model or its operator's filter would not write this."""


class Failing(ValueError):
    """The server reports an error of its own in the stream."""


def question(ask: Ask, model: str, *, knows_schemas: bool, without: Collection[str] = ()) -> dict[str, object]:
    """The body of a request. knows_schemas: the server holds its model to a JSON schema, else it gets the schema in
    words; without: optional fields that it does not know."""
    system = ask.system if knows_schemas else f"{ask.system}\n\n{IN_WORDS}{json.dumps(ask.schema, ensure_ascii=False)}"
    parts: list[dict[str, object]] = [{"type": "text", "text": ask.text}]
    if ask.picture is not None:
        parts.insert(0, {"type": "image_url", "image_url": {"url": picture_address(ask.picture)}})
    schema = {"name": "storyline", "schema": ask.schema, "strict": True}
    optional = {
        "response_format": {"type": "json_schema", "json_schema": schema} if knows_schemas else {"type": "json_object"},
        "max_tokens": ask.max_tokens,
        "seed": ask.seed,
    }
    return {
        "model": model,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": parts}],
        "stream": True,
        **{name: value for name, value in optional.items() if name not in without},
    }


def picture_address(picture: Path) -> str:
    """The picture as a data: address: re-encoded and small, so that its pixels travel and nothing else."""
    buffer = io.BytesIO()
    Image.fromarray(image.thumbnail(image.load(picture), LONGEST_SIDE)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class Answer:
    """Text out of the bytes of one answer, be it events or, from a server that does not stream, one JSON body."""

    def __init__(self, *, streamed: bool) -> None:
        self.is_complete = False
        self._streamed = streamed
        self._rest = b""

    def feed(self, data: bytes) -> str:
        """The text in `data`. Raises `Malformed`, `Refused`, `Failing`."""
        if not self._streamed:
            self._keep(self._rest + data)
            return ""
        return "".join(self._text_of(line) for line in self._lines(data))

    def end(self) -> str:
        """The text that is complete now that the body has ended, well."""
        if self._streamed:
            raise Malformed("stopped in the middle of an answer")
        return self._read(self._rest, "message")

    def _lines(self, data: bytes) -> Iterator[bytes]:
        *lines, rest = (self._rest + data).split(b"\n")
        self._keep(rest)
        for line in lines:
            if self.is_complete:
                return
            yield line.rstrip(b"\r")

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MAX_LINE_BYTES:
            raise Malformed("sent a line that does not end")
        self._rest = rest

    def _text_of(self, line: bytes) -> str:
        if not line.startswith(b"data:"):
            return ""  # comments, names of events, the blank lines between them
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            self.is_complete = True
            return ""
        return self._read(data, "delta")

    def _read(self, data: bytes, part: str) -> str:
        """The text of one JSON object of the protocol, whose choice holds it under `part`."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as err:
            raise Malformed("sent something that is not JSON") from err
        if not isinstance(found, dict):
            raise Malformed("sent something that is not an answer")
        if found.get("error"):
            raise Failing
        choices = found.get("choices")
        if choices == [] and part == "delta":
            return ""  # figures about the use, from some servers
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise Malformed("sent something that is not an answer")
        return self._text_in(choices[0], part)

    def _text_in(self, choice: Mapping[str, object], part: str) -> str:
        message = choice.get(part)
        if not isinstance(message, dict):
            raise Malformed("sent something that is not an answer")
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            raise Refused
        self.is_complete = bool(choice.get("finish_reason")) or part == "message"
        text = message.get("content") or ""
        if not isinstance(text, str):
            raise Malformed("sent something that is not text")
        return text
