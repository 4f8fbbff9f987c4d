"""The quality dial: Draft before the full qualities, what a clip of either takes, what finishing drafts costs. Pure.

A draft film keeps the steps of its full quality, so that finishing a clip needs no second choice.
"""

from collections.abc import Sequence
from typing import Any

from engine.config import Preset
from engine.domain import Project
from engine.film import Plan, PlannedClip
from studio.arguments import one_of, steps_of
from studio.feed import Pace
from studio.words import clips_text, eta_text, steps_text

DRAFT = "draft"
TITLES = {DRAFT: "Draft", "fast": "Fast", "balanced": "Balanced", "best": "Best"}


def levels(preset: Preset) -> dict[str, int]:
    """Steps by quality, Draft first where the preset has it."""
    draft = {DRAFT: preset.draft.num_inference_steps} if preset.draft else {}
    return draft | {name: preset.quality[name] for name in TITLES if name in preset.quality}


def about(preset: Preset, level: str) -> str:
    """What a quality means, for the line under the dial."""
    steps = levels(preset)[level]
    what = " with the distilled LoRA, for trying a storyline" if level == DRAFT else ""
    return f"{steps_text(steps)}{what}"


def default_level(preset: Preset) -> str | None:
    """The full quality a new film has: that of the preset's own steps, else the first."""
    named = {steps: name for name, steps in preset.quality.items()}
    return named.get(preset.num_inference_steps, next(iter(preset.quality), None))


def level_of(project: Project, preset: Preset) -> str:
    """draft, or fast, balanced or best when the steps are those of the preset; else custom."""
    if project.draft and preset.draft:
        return DRAFT
    named = {steps: name for name, steps in preset.quality.items()}
    return named.get(project.num_inference_steps, "custom")


def changes(preset: Preset, level: object, steps: object) -> dict[str, Any]:
    """The fields of a project that a quality, a number of steps or both ask for; a draft leaves the steps alone."""
    known = levels(preset)
    if level == DRAFT and one_of(level, list(known), "quality"):
        number = steps_of({}, None, steps)
        return {"draft": True} | ({"num_inference_steps": number} if number else {})
    number = steps_of(known, level, steps)
    full = {"draft": False} if level and level != "custom" else {}
    return full | ({"num_inference_steps": number} if number else {})


def is_draft(project: Project, preset: Preset, index: int) -> bool:
    """Whether clip `index` is asked for as a draft."""
    return preset.draft is not None and project.is_draft(index)


def num_steps(project: Project, preset: Preset, *, draft: bool) -> int:
    return preset.draft.num_inference_steps if draft and preset.draft else project.num_inference_steps


def edit_label(project: Project, clip_ids: Sequence[str], *, draft: bool) -> str:
    """What choosing this quality for these clips is called. Raises `InputError` when one of them is gone."""
    numbers = [project.clip_index(clip_id) + 1 for clip_id in clip_ids]
    what = f"clip {numbers[0]}" if len(numbers) == 1 else clips_text(len(numbers))
    return f"Back to draft: {what}" if draft else f"Full quality for {what}"


def stays_draft(planned: PlannedClip, project: Project, preset: Preset) -> bool:
    """Whether the clip is a draft once all is done: a chosen take stays what it is."""
    if planned.clip.pinned_take and planned.status == "done" and planned.take:
        return planned.take.draft
    return is_draft(project, preset, planned.index)


def clip_s(planned: PlannedClip, project: Project, preset: Preset, full: Pace, draft: Pace) -> float | None:
    """Seconds that making this clip takes, or None before its quality was measured at this size."""
    as_draft = is_draft(project, preset, planned.index)
    return (draft if as_draft else full).clip_s(num_steps(project, preset, draft=as_draft))


def seconds_missing(plan: Plan, preset: Preset, full: Pace, draft: Pace) -> float | None:
    """Seconds that the clips which are not done take, or None when one of them was never measured."""
    each = [clip_s(one, plan.project, preset, full, draft) for one in plan.clips if one.status != "done"]
    return None if None in each else sum(second for second in each if second)


def drafts(plan: Plan, preset: Preset, full: Pace) -> dict[str, Any] | None:
    """All clips that are drafts, and what finishing them costs in words; None while no draft was made."""
    chosen = [one for one in plan.clips if stays_draft(one, plan.project, preset)]
    if not any(one.take and one.take.draft for one in chosen):
        return None
    again = [one for one in plan.clips[chosen[0].index :] if one.take and one not in chosen]
    time = time_text(len(chosen) + len(again), plan.project.num_inference_steps, full)
    return {"clip_ids": [one.clip.id for one in chosen], "text": f"{how_many(chosen, plan)} {time}{also(again)}"}


def time_text(count: int, steps: int, full: Pace) -> str:
    """What `count` clips in full quality take."""
    each_s = full.clip_s(steps)
    if each_s is None:
        return f"In full quality each takes {steps_text(steps)}; how long that is, the first one shows."
    each = f" ({clips_text(count)}, {eta_text(each_s)} each)" if count > 1 else ""
    return f"In full quality: {eta_text(each_s * count)}{each}."


def how_many(chosen: Sequence[PlannedClip], plan: Plan) -> str:
    if len(chosen) == len(plan.clips):
        return "All clips are drafts." if len(chosen) > 1 else "This clip is a draft."
    return f"{len(chosen)} of {clips_text(len(plan.clips))} {'is a draft' if len(chosen) == 1 else 'are drafts'}."


def also(again: Sequence[PlannedClip]) -> str:
    """What has to follow the drafts, because a clip continues the one before."""
    if not again:
        return ""
    return f" {clips_text(len(again))} after them {'is' if len(again) == 1 else 'are'} made again, to fit."
