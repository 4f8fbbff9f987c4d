"""Edits of projects that can be undone: what each one changed, newest last. In memory; knows nothing about pages."""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.domain import Clip, Project, new_id
from engine.errors import InputError
from studio.library import Library

MAX_UNDO = 30
UNDONE_FIELDS = (
    "title", "idea", "variant", "seed", "num_inference_steps", "negative_prompt", "lora_strength", "storyline_source",
    "draft", "telling",
)  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """One edit that can be undone. `idle`: it was allowed only while nothing was being made, and so is its undo."""

    id: str
    label: str
    before: Project
    after: Project
    idle: bool = False


class History:
    """Edits the saved projects of `library` and remembers how they were. Safe to call from any thread."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._stacks: dict[str, list[Edit]] = defaultdict(list)

    def edit(
        self,
        project_id: str,
        label: str,
        change: Callable[[Project], Project],
        *,
        idle: bool = False,
        part_of: str = "",
    ) -> Project:
        """Apply `change` to the saved project; an empty label is not worth an undo.

        part_of: the edit that this one belongs to; both are undone together.
        """
        before, after = self._change(project_id, change)
        if after == before:
            return after
        with self._lock:
            stack = self._stacks[project_id]
            whole = next((index for index, edit in enumerate(stack) if edit.id == part_of), None)
            if whole is not None:
                changed = [name for name in (*UNDONE_FIELDS, "clips") if getattr(before, name) != getattr(after, name)]
                fields = {name: getattr(after, name) for name in changed}  # not what others changed in between
                stack[whole] = replace(stack[whole], after=stack[whole].after.model_copy(update=fields))
            elif label:
                stack.append(Edit(part_of or new_id(), label, before, after, idle))
                del stack[:-MAX_UNDO]
        self._library.changed(project_id)
        return after

    def _change(self, project_id: str, change: Callable[[Project], Project]) -> tuple[Project, Project]:
        seen: list[Project] = []

        def recorded(before: Project) -> Project:
            seen.append(before)
            return change(before)

        after = self._library.store(project_id).edit(recorded)
        return seen[0], after

    def last(self, project_id: str) -> Edit | None:
        with self._lock:
            stack = self._stacks.get(project_id)
            return stack[-1] if stack else None

    def to_undo(self, project_id: str, edit_id: object) -> Edit:
        """The last edit, which must be `edit_id` when the page names one."""
        with self._lock:
            stack = list(self._stacks.get(project_id, ()))
        if not stack:
            raise InputError("There is nothing to undo.")
        if edit_id is not None and edit_id != stack[-1].id:
            if any(edit.id == edit_id for edit in stack):
                raise InputError(
                    "Something else was edited after that.", f"Undo “{stack[-1].label.lower()}” first, or edit it back."
                )
            raise InputError("That edit was undone already.", "Nothing was changed.")
        return stack[-1]

    def undo(self, project_id: str, edit: Edit, check: Callable[[Project, Project], None]) -> None:
        """Take `edit` back. check: given the project and what it would become, raises when that must not be."""

        def change(project: Project) -> Project:
            after = undone(edit, project)
            check(project, after)
            return after

        self._library.store(project_id).edit(change)
        with self._lock:
            self._stacks[project_id].remove(edit)
        self._library.changed(project_id)

    def forget(self, project_id: str) -> None:
        with self._lock:
            self._stacks.pop(project_id, None)


def undone(edit: Edit, project: Project) -> Project:
    """`project` without `edit`: what it changed is as before, later changes stay, clips added since come last."""
    changed = [name for name in UNDONE_FIELDS if getattr(edit.before, name) != getattr(edit.after, name)]
    untouched = [name for name in changed if getattr(project, name) == getattr(edit.after, name)]
    fields: dict[str, Any] = {name: getattr(edit.before, name) for name in untouched}
    if edit.before.clips != edit.after.clips:
        fields["clips"] = clips_without(edit, project.clips)
    return project.model_copy(update=fields)


def live_clip(project: Project, clip_id: str) -> Clip | None:
    return next((clip for clip in project.clips if clip.id == clip_id), None)


def clips_without(edit: Edit, clips: Sequence[Clip]) -> tuple[Clip, ...]:
    present = {clip.id: clip for clip in clips}
    before = {clip.id: clip for clip in edit.before.clips}
    after = {clip.id: clip for clip in edit.after.clips}
    restored = [
        restored_clip(clip, after.get(clip.id), present.get(clip.id, clip))
        for clip in edit.before.clips
        if clip.id in present or clip.id not in after
    ]
    return (*restored, *(clip for clip in clips if clip.id not in before and clip.id not in after))


def restored_clip(before: Clip, after: Clip | None, clip: Clip) -> Clip:
    """`clip` with the fields that an edit from `before` to `after` changed; None: the edit removed it."""
    if after is None:
        return before
    changed = {name: value for name, value in before if value != getattr(after, name)}
    return clip.model_copy(update=changed)
