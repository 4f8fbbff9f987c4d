"""Edits of a storyboard, as pure functions from one project to the next. Staleness is computed later, never stored."""

from collections.abc import Mapping, Sequence
from typing import Literal

from engine.domain import Beat, Clip, Project, Storyline, check_num_clips, check_seed, clean_prompt
from engine.errors import InputError

Scope = Literal["this_and_after", "only_this"]


def with_clips(project: Project, clips: Sequence[Clip]) -> Project:
    if clips:
        check_num_clips(len(clips))
    return project.model_copy(update={"clips": tuple(clips)})


def replace_clip(project: Project, clip_id: str, **changes: object) -> Project:
    index = project.clip_index(clip_id)
    clips = list(project.clips)
    clips[index] = clips[index].model_copy(update=changes)
    return with_clips(project, clips)


def accept_storyline(project: Project, storyline: Storyline) -> Project:
    """Replace the clips by the storyline's; the ids of slots whose number stays are kept, and so are their takes."""
    kept = project.clips
    clips = [
        kept[index].model_copy(update=beat.model_dump() | {"pinned_take": None})
        if index < len(kept)
        else Clip(**beat.model_dump())
        for index, beat in enumerate(storyline.beats)
    ]
    return with_clips(project, clips).model_copy(update={"storyline_source": storyline.source})


def append(project: Project, prompts: Sequence[str]) -> Project:
    """Extend the storyboard by one clip per prompt."""
    return append_beats(project, [Beat(prompt=prompt) for prompt in prompts])


def append_beats(project: Project, beats: Sequence[Beat]) -> Project:
    return with_clips(project, [*project.clips, *(Clip(**beat.model_dump()) for beat in beats)])


def insert(project: Project, prompt: str, after: str | None) -> Project:
    """A new clip after the one called `after`, or at the front when `after` is None."""
    index = project.clip_index(after) + 1 if after else 0
    clips = list(project.clips)
    clips.insert(index, Clip(prompt=clean_prompt(prompt)))
    return with_clips(project, clips)


def duplicate(project: Project, clip_id: str) -> Project:
    source = project.clips[project.clip_index(clip_id)]
    return insert(project, source.prompt, after=clip_id)


def move(project: Project, clip_id: str, to_index: int) -> Project:
    clips = list(project.clips)
    clip = clips.pop(project.clip_index(clip_id))
    if not 0 <= to_index <= len(clips):
        raise InputError(f"There is no place {to_index + 1} in a storyboard of {len(clips) + 1} clips.")
    clips.insert(to_index, clip)
    return with_clips(project, clips)


def delete(project: Project, clip_id: str) -> Project:
    """The storyboard without that clip; its takes stay on disk, so that undo brings everything back."""
    index = project.clip_index(clip_id)
    return with_clips(project, [*project.clips[:index], *project.clips[index + 1 :]])


def set_prompt(project: Project, clip_id: str, prompt: str) -> Project:
    cleaned = clean_prompt(prompt)
    clip = project.clips[project.clip_index(clip_id)]
    if clip.prompt == cleaned:
        return project
    return replace_clip(project, clip_id, prompt=cleaned, caption="", pinned_take=None)  # the caption said the old one


def set_negative_prompt(project: Project, clip_id: str, negative_prompt: str | None) -> Project:
    """The clip's own negative prompt; None goes back to the film's."""
    return replace_clip(project, clip_id, negative_prompt=negative_prompt, pinned_take=None)


def set_seed(project: Project, clip_id: str, seed: int | None) -> Project:
    return replace_clip(project, clip_id, seed=None if seed is None else check_seed(seed), pinned_take=None)


def pin(project: Project, clip_id: str, digest: str | None) -> Project:
    return replace_clip(project, clip_id, pinned_take=digest)


def regenerate(
    project: Project, clip_id: str, *, seed: int, shown: Mapping[str, str], scope: Scope, prompt: str | None = None
) -> Project:
    """Ask for another take of a clip by giving it a new seed.

    shown: digest of the take each clip shows at present. `only_this` pins the later clips to them, so the join may
    jump; `this_and_after` unpins them, so they are made again from the new take.
    """
    index = project.clip_index(clip_id)
    changes: dict[str, object] = {"seed": check_seed(seed), "pinned_take": None}
    if prompt is not None:
        changes["prompt"] = clean_prompt(prompt)
    project = replace_clip(project, clip_id, **changes)
    later = [
        clip.model_copy(update={"pinned_take": shown.get(clip.id) if scope == "only_this" else None})
        for clip in project.clips[index + 1 :]
    ]
    return with_clips(project, [*project.clips[: index + 1], *later])


def set_quality(
    project: Project, clip_ids: Sequence[str], *, draft: bool, shown: Mapping[str, str], scope: Scope
) -> Project:
    """Ask for the clips `clip_ids` as drafts or in full quality; prompts and seeds stay.

    Clips between and after them continue the new takes and are made again in the quality that they have, unless
    `only_this` pins them to what they show at present; then joins may jump. All clips at once change the project.
    """
    chosen = {project.clip_index(clip_id) for clip_id in clip_ids}
    if not chosen:
        raise InputError("No clip was chosen.", "Name at least one.")
    if len(chosen) == len(project.clips):
        project = project.model_copy(update={"draft": draft})
    clips = []
    for index, clip in enumerate(project.clips):
        if index in chosen:
            clip = clip.model_copy(update={"draft": None if draft == project.draft else draft, "pinned_take": None})
        elif index > min(chosen):
            clip = clip.model_copy(update={"pinned_take": shown.get(clip.id) if scope == "only_this" else None})
        clips.append(clip)
    return with_clips(project, clips)
