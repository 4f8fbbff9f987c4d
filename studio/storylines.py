"""What a creator can do with a storyline: draft it, redraft it from a card on, ask for another idea or the next beat.

`commands` are actions of the page and the API alike; every argument is checked here. Writing itself is `Drafting`'s.
"""

import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine import storyboard
from engine.config import Preset
from engine.domain import MAX_CLIPS, MAX_SEED, Project, check_num_clips, clean_prompt
from engine.errors import InputError, ProjectNotFound
from engine.film import PlannedClip
from engine.project import takes as takes_on_disk
from engine.story import exchange
from engine.story.choose import Choice
from engine.story.drafter import KINDS, MAX_KEYWORDS_CHARACTERS, Brief, brief_for, draft
from engine.story.review import review
from engine.story.template import TemplateDrafter
from engine.story.tokens import token_counter, token_limit
from engine.story.vocabulary import vocabulary_of
from studio.arguments import Body, clip_id_of, idea_text, negative_text, plain, title_from, whole
from studio.drafting import Draft, Drafting, Then
from studio.feed import Feed
from studio.history import History
from studio.library import Library
from studio.limits import Rates
from studio.view import EXPORTS

Command = Callable[[str, Body], dict[str, Any] | None]
UNTITLED = "Untitled film"
REMARKED_STORYLINES = 64
ASSIGNS = re.compile(r"prompts\s*=")  # a line of text that would be read as upstream's file
MAX_DISLIKED = 50  # prompts of an idea that was not liked, told to the drafter


class Storylines:
    """The actions on storylines. working: raises while the film is being made; live: raises for a clip being made."""

    def __init__(
        self,
        library: Library,
        feed: Feed,
        history: History,
        drafting: Drafting,
        rates: Rates,
        *,
        most: int,
        refuse_while_working: Callable[[str], None],
        refuse_if_live: Callable[[str, str], None],
    ) -> None:
        self._library = library
        self._feed = feed
        self._history = history
        self._drafting = drafting
        self._rates = rates
        self._most = most
        self._refuse_while_working = refuse_while_working
        self._refuse_if_live = refuse_if_live
        self._remarks: OrderedDict[tuple[object, ...], Mapping[int, tuple[str, ...]]] = OrderedDict()
        self._remarks_lock = threading.Lock()
        self.commands: dict[str, Command] = {
            "draft": self._draft,
            "another_idea": self._another_idea,
            "redraft_from": self._redraft_from,
            "next_beat": self._next_beat,
            "draft_again": self._draft_again,
            "set_prompt": self._set_prompt,
            "set_negative_prompt": self._set_negative_prompt,
            "merge": self._merge,
            "split": self._split,
            "import_storyline": self._import,
        }

    # Drafting

    def _draft(self, project_id: str, body: Body) -> None:
        project = self._library.project(project_id)
        keywords = idea_text(body["keywords"]) if "keywords" in body else project.idea
        count = self.count(body.get("length", len(project.clips) or 4))
        self._whole_story(project_id, "Draft storyline", keywords, count, self._choice(project_id, body))

    def _another_idea(self, project_id: str, body: Body) -> None:
        project = self._library.project(project_id)
        if not project.clips:
            raise InputError("There is no storyline yet.", "Draft one first.")
        disliked = tuple(clip.prompt for clip in project.clips[:MAX_DISLIKED])
        choice = self._choice(project_id, body)
        self._whole_story(project_id, "Another idea", project.idea, len(project.clips), choice, other_than=disliked)

    def _whole_story(
        self,
        project_id: str,
        label: str,
        keywords: str,
        count: int,
        choice: Choice,
        *,
        other_than: tuple[str, ...] = (),
    ) -> None:
        """Write all cards anew."""
        self._refuse_while_working(project_id)
        self._drafting.refuse_while_writing(project_id)
        project = self._library.project(project_id)
        self._rates.count("draft", self._library.owner(project_id))
        seed = secrets.randbelow(MAX_SEED) if project.clips else project.seed

        def also(before: Project) -> Project:
            title = title_from(keywords) if before.title == UNTITLED else before.title
            return before.model_copy(update={"idea": keywords, "title": title})

        brief = brief_for(
            also(project),
            self._library.preset(project),
            self._library.store(project_id).anchor_file(project),
            count=count,
            other_than=other_than,
            seed=seed,
        )
        slots = tuple(clip.id for clip in project.clips)
        self._drafting.start(project_id, Draft(choice, brief, label, first=0, slots=slots, also=also))

    def _redraft_from(self, project_id: str, body: Body) -> None:
        project = self._library.project(project_id)
        first = project.clip_index(clip_id_of(body))
        live = self._feed.live(project_id)
        if live and live.clip_id in {clip.id for clip in project.clips[first:]}:
            raise InputError("One of these clips is being made.", "Pause first, or redraft from a later clip.")
        self._drafting.refuse_while_writing(project_id)
        choice = self._choice(project_id, body)
        if choice.source != "template":  # by the time its cards come, their clips may be under way
            self._refuse_while_working(project_id)
        self._rates.count("draft", self._library.owner(project_id))
        brief = self._brief(project_id, project, first, len(project.clips) - first)
        slots = tuple(clip.id for clip in project.clips[first:])
        label = f"Redraft from clip {first + 1}"
        self._drafting.start(project_id, Draft(choice, brief, label, first=first, slots=slots))

    def _next_beat(self, project_id: str, body: Body) -> None:
        """One more card from the story and the last rendered frame; nothing is generated."""
        self._drafting.refuse_while_writing(project_id)
        self._rates.count("draft", self._library.owner(project_id))
        self.continue_with(project_id, 1, self._choice(project_id, body))

    def continue_with(self, project_id: str, count: int, choice: Choice, *, then: Then = "") -> None:
        """`count` more cards at the end, and what is to follow once they are there."""
        project = self._library.project(project_id)
        if len(project.clips) + count > MAX_CLIPS:
            raise InputError(f"The film has {len(project.clips):,} clips; {MAX_CLIPS:,} is the most.", "Export it.")
        brief = self._brief(project_id, project, len(project.clips), count)
        label = "Add a clip" if count == 1 else f"Add {count} clips"
        self._drafting.start(project_id, Draft(choice, brief, label, first=len(project.clips), then=then))

    def chosen(self, project_id: str) -> Choice:
        return self._drafting.choice(self._library.preset(self._library.project(project_id)))

    def prompt_for(self, project_id: str, project: Project, position: int) -> str:
        """A first text for an inserted card, from templates: it is there at once and meant to be edited."""
        return draft(TemplateDrafter(), self._brief(project_id, project, position, 1)).prompts[0]

    def _draft_again(self, project_id: str, body: Body) -> None:
        source = source_of(body)
        failed = self._drafting.of(project_id)
        if failed and failed.slots[failed.done :]:
            self._refuse_while_working(project_id)
        self._rates.count("draft", self._library.owner(project_id))
        self._drafting.again(project_id, source, seed=secrets.randbelow(MAX_SEED))

    def _choice(self, project_id: str, body: Body) -> Choice:
        return self._drafting.choice(self._library.preset(self._library.project(project_id)), source_of(body))

    def _brief(self, project_id: str, project: Project, position: int, count: int) -> Brief:
        """The brief for `count` cards from `position` on: they continue the cards before, and what is seen there."""
        last_frame = self._last_frame(project_id, position)
        return brief_for(
            project,
            self._library.preset(project),
            last_frame or self._library.store(project_id).anchor_file(project),
            count=count,
            so_far=tuple(clip.prompt for clip in project.clips[:position]),
            is_last_frame=last_frame is not None,
            seed=secrets.randbelow(MAX_SEED),
        )

    def _last_frame(self, project_id: str, position: int) -> Path | None:
        """The last frame of the clip before `position`, when that clip is done."""
        clips = self._library.snapshot(project_id).plan.clips
        before: PlannedClip | None = clips[position - 1] if 0 < position <= len(clips) else None
        if before is None or before.take is None or before.status != "done":
            return None
        return takes_on_disk.last_frame(self._library.store(project_id).take_folder(before.take.digest))

    # Cards

    def _set_prompt(self, project_id: str, body: Body) -> None:
        clip_id, prompt = clip_id_of(body), clean_prompt(body.get("prompt", ""))
        self._refuse_if_live(project_id, clip_id)
        self._drafting.leave_alone(project_id, clip_id)
        self._history.edit(project_id, "Edit prompt", lambda before: storyboard.set_prompt(before, clip_id, prompt))

    def _set_negative_prompt(self, project_id: str, body: Body) -> None:
        clip_id, given = clip_id_of(body), body.get("negative_prompt")
        text = None if given is None else negative_text(given)
        self._refuse_if_live(project_id, clip_id)
        self._history.edit(
            project_id,
            "Change negative prompt",
            lambda before: storyboard.set_negative_prompt(before, clip_id, text),
        )

    def _merge(self, project_id: str, body: Body) -> None:
        clip_id = clip_id_of(body)
        clips = self._library.project(project_id).clips
        number = self._library.project(project_id).clip_index(clip_id) + 1
        for clip in clips[number - 1 : number + 1]:
            self._refuse_if_live(project_id, clip.id)
        label = f"Merge clips {number} and {number + 1}"
        self._history.edit(project_id, label, lambda before: storyboard.merge(before, clip_id))

    def _split(self, project_id: str, body: Body) -> dict[str, Any]:
        clip_id, at = clip_id_of(body), body.get("at")
        at = None if at is None else whole(at, "at")
        self._refuse_if_live(project_id, clip_id)
        number = self._library.project(project_id).clip_index(clip_id) + 1
        edited = self._history.edit(
            project_id, f"Split clip {number}", lambda before: storyboard.split(before, clip_id, at)
        )
        return {"clip_id": edited.clips[number].id}

    def remarks(self, project: Project, preset: Preset) -> Mapping[int, tuple[str, ...]]:
        """What should be looked at again before it costs time, by index of the clip."""
        key = (preset.name, project.variant, tuple(clip.prompt for clip in project.clips))
        with self._remarks_lock:
            if known := self._remarks.get(key):
                self._remarks.move_to_end(key)
                return known
        found: dict[int, tuple[str, ...]] = {}
        for remark in review(
            key[2],
            kind=KINDS[project.variant],
            count_tokens=token_counter(preset),
            max_tokens=token_limit(preset),
            vocabulary=vocabulary_of(preset),
            clips_per_prompt=preset.variant(project.variant).clips_per_prompt,
        ):
            if remark.kind != "move":  # the card itself says what is asked for
                found[remark.index] = (*found.get(remark.index, ()), remark.text)
        with self._remarks_lock:
            self._remarks[key] = found
            while len(self._remarks) > REMARKED_STORYLINES:
                self._remarks.popitem(last=False)
        return found

    # Files

    def _import(self, project_id: str, body: Body) -> None:
        """Replace the cards by those of a file's text; undo brings the earlier ones back."""
        self._refuse_while_working(project_id)
        name, text = body.get("name", "storyline.txt"), body.get("text")
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError("The storyline must be text.", "Choose a .txt, .json, .py or .md file.")
        given = exchange.read(text, plain(name, "file name", 200) or "the file")

        negatives = given.negative_prompts if any(given.negative_prompts) else None  # else the clips keep theirs

        def accept(before: Project) -> Project:
            after = storyboard.accept_storyline(before, given.storyline, negative_prompts=negatives)
            return after.model_copy(update={"idea": before.idea or idea_of(given.idea)})

        self._history.edit(project_id, "Import storyline", accept, idle=True)
        self._drafting.dismiss(project_id)

    def exports(self, project: Project) -> tuple[str, ...]:
        """The kinds of file that can hold the project's storyline."""
        reads_otherwise = any(clip.prompt[0] in "#[{" or ASSIGNS.match(clip.prompt) for clip in project.clips)
        return tuple(kind for kind in EXPORTS if kind != "txt" or not reads_otherwise)

    def exported(self, project_id: str, suffix: str) -> str:
        """The storyline as a text file of the kind that `suffix`, txt, json, py or md, stands for."""
        known = exchange.FORMATS.get(f".{suffix}")
        project = self._library.project(project_id)
        if known is None or not project.clips:
            raise ProjectNotFound("There is no such file here.")
        return exchange.write(project, known)

    def count(self, count: object) -> int:
        number = check_num_clips(whole(count, "length"))
        if number > self._most:
            raise InputError(
                f"Up to {self._most} clips can be added at a time, got {number}.", "Extend the film later."
            )
        return number


def source_of(body: Body) -> str:
    """The drafter that `body` names, "" for the chosen one."""
    source = body.get("source", "")
    if not isinstance(source, str):
        raise InputError("The drafter must be named.", "Use one that the page offers.")
    return source


def idea_of(text: str) -> str:
    """A file's idea as the keywords of a project: shortened, never refused."""
    return idea_text(text[:MAX_KEYWORDS_CHARACTERS])
