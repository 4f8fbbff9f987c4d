"""Writers without a model: one follows a script, one says anything that the question's schema allows."""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping

import llguidance.numpy
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from engine.story.schemas import ANY_SCRIPT
from engine.story.writer import Ask

BYTES = LLTokenizer("byte")  # one token a byte: the worst case for the length of an answer
WORDS = ("walks", "turns", "looks", "slowly", "past", "under", "tall", "trees", "stones", "wind", "camera", "closer")
OPTIONS = {"whitespace_flexible": False, "json_allowed_escapes": '"\\'}  # as the local model is held to


class ScriptedWriter:
    """Answers question n with `answer(ask, n)`, in pieces of `size` characters, and remembers the questions."""

    title = "The scripted model"

    def __init__(self, answer: Callable[[Ask, int], str] | None = None, *, size: int = 7) -> None:
        self.answer = answer or (lambda ask, number: obedient(ask))
        self.size = size
        self.asks: list[Ask] = []
        self.is_writing = self.closed = False
        self.pieces_written = 0
        self._stopped = False

    def write(self, ask: Ask) -> Iterator[str]:
        self._stream = self._pieces(ask)  # kept: who does not close it leaves it open
        return self._stream

    def _pieces(self, ask: Ask) -> Iterator[str]:
        assert not self.is_writing, "the answer before was not closed"
        self.asks.append(ask)
        self.is_writing, self._stopped = True, False
        try:
            text = self.answer(ask, len(self.asks) - 1)
            for start in range(0, len(text), self.size):
                if self._stopped:
                    return
                self.pieces_written += 1
                yield text[start : start + self.size]
        finally:
            self.is_writing = False

    def interrupt(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self.closed = True


class RandomWriter(ScriptedWriter):
    """What a model without any sense writes when it is held to the schema, byte by byte."""

    def __init__(self) -> None:
        super().__init__(lambda ask, number: anything(ask))


def obedient(ask: Ask) -> str:
    """An answer that follows the schema; checked with the grammar engine."""
    text = json.dumps(filled(ask.schema, random.Random(ask.seed)), ensure_ascii=False, separators=(",", ":"))
    assert follows(ask.schema, text), text
    return text


def filled(schema: Mapping, generator: random.Random) -> object:
    if schema["type"] == "object":
        return {key: filled(field, generator) for key, field in schema["properties"].items()}
    if schema["type"] == "array":
        return [filled(schema["items"], generator) for _ in range(schema["minItems"])]
    if "enum" in schema:
        return generator.choice(schema["enum"])
    pattern = schema["pattern"]
    if ANY_SCRIPT in pattern:
        return f"Le chien avance d'un pas, vers {generator.random()}"
    if pattern.startswith("^[A-Z]["):
        return "A small brown dog"
    most = int(re.search(r",(\d+)\}", pattern).group(1))
    opening = pattern[1 : pattern.index("[")]
    said = " ".join(generator.choice(WORDS) for _ in range(9))[:most].strip()
    return f"{opening} {said}." if opening else said


def grammar(schema: Mapping) -> LLMatcher:
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=OPTIONS))
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def follows(schema: Mapping, text: str) -> bool:
    matcher = grammar(schema)
    tokens = BYTES.tokenize_bytes(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def anything(ask: Ask) -> str:
    matcher, mask = grammar(ask.schema), llguidance.numpy.allocate_token_bitmask(1, BYTES.vocab_size)
    generator = np.random.default_rng(ask.seed)
    tokens: list[int] = []
    while not matcher.is_stopped():
        llguidance.numpy.fill_next_token_bitmask(matcher, mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[: BYTES.vocab_size])
        tokens.append(int(generator.choice(allowed)))
        assert matcher.consume_token(tokens[-1])
    tokens = [token for token in tokens if token != BYTES.eos_token]
    assert len(tokens) <= ask.max_tokens, "an answer that the schema allows would be cut off"
    return BYTES.decode_bytes(tokens).decode()
