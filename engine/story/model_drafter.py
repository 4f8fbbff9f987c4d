"""Storylines written by a vision-language model, wherever it runs: asks, reads, checks, asks again.

A draft is one question about the picture and then one for each window of beats, which carries the state of the story.
What comes back is text of a stranger until it has been checked here (S12): the model has no tools and nothing to tell.
"""

import math
import random
import re
import threading
import unicodedata
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing

from engine.domain import Beat, Source, clean_prompt
from engine.errors import InputError, StorylineError
from engine.story.drafter import Brief
from engine.story.instructions import (
    ALIKE,
    TIMES,
    Limits,
    Story,
    beat_shape,
    beats_ask,
    beats_at_once,
    common_opening,
    max_subject,
    moves,
    num_parts,
    story_ask,
    story_shape,
)
from engine.story.reader import Unreadable, read_items, read_object
from engine.story.schemas import ANY_SCRIPT, ENGLISH, PHRASE
from engine.story.template import parse_keywords, phrase_for
from engine.story.writer import Ask, Writer

NO_SUBJECT = {"camera", "scene", "view", "picture", "light"}
LINKING = {"a", "an", "and", "at", "by", "from", "in", "near", "of", "on", "or", "the", "to", "under", "with"}
VERB = re.compile(r"[a-z]*[^\Ws]s\b")  # of one thing: “runs”, “is”; that of several looks like any word
MAX_MISSES = 2  # questions in a row that may go without a usable answer after a first one
TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": "'", "”": "'", '"': "'", "—": " - ", "–": "-", "…": "..."})
TRAILING = re.compile(r"(?i)(\s*,|\s+(a|an|the|and|or|of|in|on|at|with|under|by|to|from|near))+\s*$")


class Unusable(ValueError):
    """A part of an answer that cannot be used; the text says why, to go after “the answer”."""


class ModelDrafter:
    """Asks `writer` for storylines.

    max_prompt_characters: of the longest prompt, subject included. window: beats asked for at once, fewer when the
    answer would get too long. overlap: earlier prompts that a question repeats.

    Where the brief has a vocabulary, every beat names a move of it; a prompt that does not ask for the move it names
    (by `action_of`, as the film model was measured) is replaced by one of the move's own phrases.
    """

    def __init__(
        self, source: Source, writer: Writer, *, max_prompt_characters: int = 600, window: int = 10, overlap: int = 3
    ) -> None:
        self.source = source
        self.writer = writer
        self.limits = Limits(max_prompt_characters, window, overlap)
        self._stopped = threading.Event()

    def beats(self, brief: Brief) -> Iterator[Beat]:
        """See `StorylineDrafter.beats`. An interruption counts from here on, be the first beat asked for or not."""
        self._stopped = threading.Event()
        return self._beats(brief, self._stopped)

    def _beats(self, brief: Brief, stopped: threading.Event) -> Iterator[Beat]:
        parse_keywords(brief.keywords)
        if brief.kind != "stream" and brief.so_far:
            yield from [Beat(prompt=brief.so_far[0])] * brief.count
            return
        with closing(self._written(_Draft(brief, self.limits), stopped)) as written:
            for beat in written:
                yield from [beat] * (1 if brief.kind == "stream" else brief.count)

    def interrupt(self) -> None:
        self._stopped.set()
        self.writer.interrupt()

    def close(self) -> None:
        self.writer.close()

    def _written(self, draft: "_Draft", stopped: threading.Event) -> Iterator[Beat]:
        """Question after question, until every beat is there or too many questions in a row brought nothing."""
        misses = 0
        while not draft.is_done and not stopped.is_set():
            before = draft.progress
            problem = yield from self._answer(draft, stopped)
            misses = 0 if draft.progress > before else misses + 1
            if misses > MAX_MISSES and not stopped.is_set():
                raise self._useless(problem, draft.num_beats)

    def _answer(self, draft: "_Draft", stopped: threading.Event) -> Generator[Beat, None, str]:
        """What one more question brings: the story when there is none, else beats. Returns what was wrong, if so."""
        ask, wanted = draft.next_ask()
        problem = "holds nothing that was asked for"
        try:
            with closing(self.writer.write(ask)) as pieces:
                if stopped.is_set():  # the writer may have taken the interruption for one of the answer before
                    return ""
                if draft.story is None:
                    draft.begin(read_object(pieces, draft.story_keys))
                    return ""
                with closing(read_items(pieces, "beats")) as items:
                    for item in items:
                        try:
                            beat = draft.add(item)
                        except Unusable as err:
                            problem = str(err)
                            continue
                        yield beat
                        wanted -= 1
                        if not wanted or stopped.is_set():
                            break
        except (Unreadable, Unusable) as err:
            problem = str(err)
        return problem

    def _useless(self, problem: str, kept: int) -> StorylineError:
        safe = {0: "No card was drafted.", 1: "The card drafted before is kept."}
        return StorylineError(
            f"{self.writer.title} wrote nothing that can be used: its answer {problem}.",
            f"{safe.get(kept, f'The {kept} cards drafted before are kept.')} Draft again, or use templates.",
        )


class _Draft:
    """One draft on its way: what is asked next, and what of an answer is taken."""

    def __init__(self, brief: Brief, limits: Limits) -> None:
        self.brief, self.limits = brief, limits
        self.story: Story | None = None
        self._num_parts = num_parts(brief, limits)
        self._num_asked = 0
        self._moves = {action.name: action for action in moves(brief)}
        self._known = {fingerprint(prompt) for prompt in (*brief.so_far, *brief.other_than)}
        self._last_move = self._move_of(brief.so_far[-1]) if brief.so_far else None

    @property
    def num_beats(self) -> int:
        return len(self.story.prompts) if self.story else 0

    @property
    def progress(self) -> int:
        return self.num_beats + (self.story is not None)

    @property
    def wanted(self) -> int:
        """Prompts to write: those of a steady film are one."""
        return self.brief.count if self.brief.kind == "stream" else 1

    @property
    def is_done(self) -> bool:
        return self.num_beats >= self.wanted

    @property
    def story_keys(self) -> frozenset[str]:
        return story_shape(self.brief, self._num_parts).keys

    def next_ask(self) -> tuple[Ask, int]:
        """The next question, and how many beats it asks for."""
        number, self._num_asked = self._num_asked, self._num_asked + 1
        if self.story is None:
            return story_ask(self.brief, self.limits, number), 0
        missing = self.wanted - self.num_beats
        count = math.ceil(missing / math.ceil(missing / beats_at_once(self.brief, self.limits)))
        return beats_ask(self.brief, self.limits, self.story, count, number), count

    def begin(self, found: Mapping[str, object]) -> None:
        """Take the story's header from an answer. Raises `Unusable` where it names no subject to repeat."""
        texts = {key: value for key, value in found.items() if isinstance(value, str)}
        parts = found.get("parts", [])
        if not isinstance(parts, list) or len(texts) + ("parts" in found) < len(found):
            raise Unusable("holds something other than texts")
        time = texts["time_of_day"]
        self.story = Story(
            scene=note(texts["scene"], 400),
            subject=self._same_subject(self._subject(texts["subject"])),
            place=note(texts["place"], 60),
            time_of_day=time if time in TIMES else "not visible",
            style=note(texts["style"], 100),
            parts=tuple(note(part, 140) for part in parts[: self._num_parts] if isinstance(part, str)),
        )

    def add(self, item: Mapping[str, str]) -> Beat:
        """The beat in one item of an answer. Raises `Unusable` where there is none."""
        story = self.story
        assert story is not None
        if set(item) != beat_shape(self.brief, story.subject, self.limits).keys:
            raise Unusable("has other keys than were asked for")
        notes = {key: note(item[key], 90) for key in item if key not in ("prompt", "caption")}
        prompt = checked_prompt(item["prompt"], story.subject)
        if self._moves:
            prompt = self._with_move(prompt, item["move"], story)
        elif fingerprint(prompt) in self._known:
            raise Unusable("repeats an earlier prompt")
        self._known.add(fingerprint(prompt))
        self.story = story.after(prompt, notes)
        return Beat(prompt=prompt, caption=checked_caption(item.get("caption", "")))

    def _with_move(self, prompt: str, name: str, story: Story) -> str:
        """`prompt` where it asks for the move called `name`, else one of that move's phrases."""
        if name not in self._moves:
            raise Unusable("names a move that is not known")
        if name == self._last_move and len(self._moves) > 1:
            raise Unusable("repeats the move before")
        self._last_move = name
        vocabulary = self.brief.vocabulary
        if vocabulary is None or self._move_of(prompt) == name:
            return prompt
        subject = story.subject[0].lower() + story.subject[1:]
        generator = random.Random(f"{self.brief.seed}/{len(self.brief.so_far)}/{self.num_beats}")
        return phrase_for(self._moves[name], vocabulary, subject, generator)

    def _move_of(self, prompt: str) -> str | None:
        action = self.brief.vocabulary.action_of(prompt) if self.brief.vocabulary else None
        return action.name if action else None

    def _same_subject(self, subject: str) -> str:
        """`subject`, unless the prompts so far surely name it in other words: then those."""
        so_far = self.brief.so_far
        if not so_far or self._moves or subject.casefold() in so_far[-1].casefold():
            return subject
        opening = common_opening(so_far)
        fits = re.fullmatch(f"[A-Z]{PHRASE}{{4,{max_subject(self.brief)}}}", opening)
        return opening if fits and names(opening, subject, so_far[-ALIKE:]) else subject

    def _subject(self, text: str) -> str:
        """The subject as it can start every prompt; for a small model, without words that ask for a move."""
        subject = plain(text).rstrip(".")
        if self._moves:
            words = [word for word in subject.split() if not self._move_of(word)]
            subject = TRAILING.sub("", " ".join(words))
            subject = subject if len(subject.split()) > 1 else "The scene"
        subject = subject[:1].upper() + subject[1:]
        if not re.fullmatch(f"[A-Z]{PHRASE}{{1,{max_subject(self.brief)}}}", subject):
            raise Unusable("names no subject that can be repeated")
        return subject


def names(opening: str, subject: str, prompts: Sequence[str]) -> bool:
    """Whether the `opening` of all `prompts` is a noun phrase for `subject` and holds nothing that happens.

    In doubt it does not. It must share a noun with the subject, which nothing but “in a meadow” or the like may follow,
    and in every prompt a verb comes next: “A grey horse in a meadow” | lies, runs; not “The dog runs” | across, to.
    """
    said = opening.casefold().split()
    shared = [place for place, word in enumerate(said) if word in subject.casefold().split() and word not in LINKING]
    if NO_SUBJECT & set(said[:2]) or not shared or said[-1] in LINKING:
        return False
    after_noun = said[shared[-1] + 1 :]
    rests = [prompt.split()[len(said) :] for prompt in prompts]
    return (not after_noun or after_noun[0] in LINKING) and all(rest and VERB.match(rest[0]) for rest in rests)


def plain(text: str) -> str:
    """English as a prompt has it: typographic signs and accents as ASCII, controls gone. Raises `Unusable`."""
    ascii_only = unicodedata.normalize("NFKD", text.translate(TYPOGRAPHY)).encode("ascii", "ignore").decode()
    try:
        return clean_prompt(ascii_only)
    except InputError as err:
        raise Unusable("holds a text that is empty or far too long") from err


def checked_prompt(text: str, subject: str) -> str:
    """A prompt that the film model may get. Raises `Unusable`."""
    prompt = plain(text)
    if not re.fullmatch(f"{ENGLISH}+", prompt):
        raise Unusable("holds code or signs that are not English text")
    if subject.casefold() not in prompt.casefold():
        raise Unusable("does not name the subject again")
    if len(re.findall("[A-Za-z]", prompt)) < len(re.findall("[A-Za-z]", subject)) + 3:
        raise Unusable("says nothing about the subject")
    return prompt


def checked_caption(text: str) -> str:
    """A caption as people may see it; one that is not plain text is left out, as the prompt does without it."""
    try:
        return clean_prompt(text) if re.fullmatch(f"{ANY_SCRIPT}+", text) else ""
    except InputError:
        return ""


def note(text: str, most: int) -> str:
    """What a model wrote for itself, fit to be shown to it again."""
    kept = "".join(re.findall(ENGLISH, plain(text))) if text.strip() else ""
    return kept[:most].strip()


def fingerprint(prompt: str) -> str:
    """Equal for prompts that differ in punctuation and capitals only."""
    return " ".join(re.findall(r"[a-z0-9]+", prompt.casefold()))
