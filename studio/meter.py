"""What the drift figures of a film's takes mean, in words: a label and a hint per card, a sentence for the film. Pure.

The figures and their limits are those of `engine.media.drift`; colour is shown there as a fact and never hinted at.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine.config import Preset
from engine.domain import DriftReading, Project
from engine.film import PlannedClip
from engine.media.drift import Cause, Judgement, judge
from studio.words import clips_text

LABELS: dict[Cause, tuple[str, str]] = {  # drifting, drifted
    "structure": ("Background shifts", "Background lost"),
    "sharpness": ("Getting soft", "Blurred"),
    "grain": ("Grain rises", "Grainy"),
}
SENTENCES: dict[Cause, str] = {
    "structure": "the background no longer matches the picture",
    "sharpness": "the picture is getting soft",
    "grain": "grain or a fine grid is building up",
}


def card(project: Project, preset: Preset, reading: DriftReading | None) -> dict[str, Any] | None:
    """The meter of one card; None when its take was never measured."""
    if reading is None:
        return None
    judged = judge(reading)
    return {
        "level": judged.level,
        "label": label(judged),
        "causes": list(judged.causes),
        "movement": judged.movement,
        "hint": hint(project, preset, judged),
        **asdict(reading),
    }


def label(judged: Judgement) -> str:
    """Two words at most; a clip in which nothing happens does not pass for one that holds."""
    if judged.causes:
        return LABELS[judged.causes[0]][judged.level == "drifted"]
    return "Still" if judged.movement == "none" else "Holds"


def hint(project: Project, preset: Preset, judged: Judgement) -> str:
    """What is wrong and what would help, or ""."""
    if not judged.causes:
        return ""
    what = " and ".join(SENTENCES[cause] for cause in judged.causes)
    return f"{what[0].upper()}{what[1:]}. {remedy(project, preset, judged.causes[0])}"


def remedy(project: Project, preset: Preset, cause: Cause) -> str:
    ways = ["another seed"]
    if preset.lora(project.variant) and project.lora_strength < 1.0:
        ways.append("a higher LoRA strength")
    if project.variant == "film" and "shot" in preset.variants:
        ways.append("Shot, which looks at your picture in every clip")
    tried = f"{', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else ways[0]
    return f"Unless you asked for a new view, try {tried}." if cause == "structure" else f"Try {tried}."


def film(project: Project, preset: Preset, clips: Sequence[PlannedClip], *, view_only: bool) -> dict[str, Any]:
    """One sentence about all clips, and the id of the clip where drift begins, if it does."""
    judged = [(planned, judge(planned.take.drift)) for planned in clips if planned.take and planned.take.drift]
    drifting = [(planned, one) for planned, one in judged if one.causes]
    if drifting:
        first, cause = drifting[0][0], drifting[0][1].causes[0]
        share = f"{len(drifting):,} of {clips_text(len(judged))} {'drifts' if len(drifting) == 1 else 'drift'}"
        what = f"{share}; the first is clip {first.index + 1}: {SENTENCES[cause]}."
        text = what if view_only else f"{what} {remedy(project, preset, cause)}"
        return {"text": text, "clip_id": first.clip.id}
    if judged:
        text = f"{clips_text(len(judged))} {'holds' if len(judged) == 1 else 'hold'} the picture."
    else:
        made = any(planned.take for planned in clips)
        text = "These clips were made before drift was measured." if made else "Measured as each clip is finished."
    return {"text": text, "clip_id": None}
