"""From what is known about a project to the plain data the page shows. Pure: no files, no clock, no threads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from engine.config import RANDOM_WEIGHTS, Preset
from engine.domain import Project, Take
from engine.events import ClipNotice
from engine.film import Plan, PlannedClip, credit_line, spans, timeline_of
from engine.story.vocabulary import Vocabulary
from engine.timeline import Timeline
from studio import dial, meter, moves
from studio.feed import Live, Pace
from studio.words import clips_text, eta_text

Phase = Literal["draft", "drafting", "ready", "queued", "loading", "generating", "paused", "failed", "finished"]
UNMEASURED = Pace()
EXPORTS = ("txt", "json", "py", "md")  # a storyline's files, by suffix
NEW_SIZE = "Make a copy at the new size"
STALL_STEPS = 3  # a step this many times longer than usual raises the estimate


@dataclass(frozen=True)
class Outcome:
    """How the last job of a project ended before its film was complete."""

    kind: Literal["paused", "stopped", "interrupted", "full", "failed", "limit"]
    message: str = ""
    hint: str = ""
    error_id: str = ""
    clip_id: str = ""


@dataclass(frozen=True)
class JobFacts:
    """The project's generate job. `place`: jobs before it in the lane; `ahead_s`: their time, when known."""

    id: str
    state: Literal["waiting", "running", "stopping"]
    place: int = 0
    ahead_s: float | None = None
    forever: bool = False
    ending: Literal["", "pause", "stop"] = ""
    behind_training: bool = False  # a training run is before it


@dataclass(frozen=True)
class ExportFacts:
    """The newest export. `clips`: how many it holds, which may be fewer than the film has by now."""

    state: Literal["waiting", "running", "done", "failed"]
    name: str = ""
    frames: int = 0
    clips: int = 0
    message: str = ""


@dataclass(frozen=True)
class DraftFacts:
    """The storyline being written, or the one that stopped before its last card.

    source: "" where nobody can go on with it. coming: ids of the cards still to be written. place: jobs before it;
    behind_loading: a film model is still being loaded.
    """

    state: Literal["waiting", "loading", "writing", "stopping", "failed"]
    title: str
    done: int
    of: int
    source: str = ""
    first: int = 0
    coming: tuple[str, ...] = ()
    place: int = 0
    behind_loading: bool = False
    message: str = ""
    hint: str = ""
    error_id: str = ""


@dataclass(frozen=True)
class StoryFacts:
    """Who writes storylines here, the chosen drafter first, and what is being written.

    fields: for tone, pace and language whether the drafter uses it, and why not.
    """

    drafters: tuple[dict[str, str], ...] = ()
    draft: DraftFacts | None = None
    fields: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def writing(self) -> bool:
        return self.draft is not None and self.draft.state != "failed"


@dataclass(frozen=True)
class Facts:
    """Everything `state` is made from.

    live_s: seconds since the live clip's last step. media_base: prefix of the project's media addresses;
    token: goes into each of them. loading: preset title while its model is loaded.
    """

    plan: Plan
    preset: Preset
    takes: Mapping[str, Sequence[Take]]  # by clip id, oldest first
    rev: int = 0
    generation: int = 0
    job: JobFacts | None = None
    outcome: Outcome | None = None
    live: Live | None = None
    live_s: float = 0.0
    pace: Pace = UNMEASURED  # of full quality
    draft_pace: Pace = UNMEASURED
    loading: str = ""
    loading_s: float | None = None  # how long that took last time
    announced: str = ""
    notices: Sequence[ClipNotice] = ()
    undo: str = ""
    undo_id: str = ""
    vocabulary: Vocabulary | None = None
    export: ExportFacts | None = None
    story: StoryFacts = StoryFacts()
    remarks: Mapping[int, Sequence[str]] = field(default_factory=dict)  # on prompts, by index of the clip
    exports: Sequence[str] = EXPORTS  # the kinds of file that can hold the storyline
    view_only: bool = False
    blocked: str = ""  # why nothing can be generated here, in words
    media_base: str = ""
    token: str = ""
    codec: str = ""  # as in "avc1.64001E", once there is a segment
    origin: Mapping[str, str] | None = None  # id, title and token of the film that this one is a remake of

    @property
    def project(self) -> Project:
        return self.plan.project

    @cached_property
    def timeline(self) -> Timeline:
        """Of the takes where there are any: the preset may make other clips by now."""
        return timeline_of(self.project, self.preset, self.plan.takes)

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First and last+1 film frame of each clip."""
        return spans(self.plan, self.timeline)

    @property
    def duration_s(self) -> float:
        """Of the whole film, clips that are not made included."""
        return self.timeline.seconds(self.spans[-1][1]) if self.spans else 0.0

    def url(self, path: str) -> str:
        return f"{self.media_base}/{path}?token={self.token}"


def state(facts: Facts) -> dict[str, Any]:
    """The JSON object that `GET p/{id}/state` answers with."""
    project, preset, timeline = facts.project, facts.preset, facts.timeline
    phase = phase_of(facts)
    left_s = seconds_left(facts)
    return {
        "rev": facts.rev,
        "project": {
            "id": project.id,
            "title": project.title,
            "idea": project.idea,
            "variant": project.variant,
            "anchored": preset.variant(project.variant).padding == "anchor",  # clips are told what the picture is
            "preset": project.preset,
            "preset_title": preset.title,
            "width": project.resolution.width,
            "height": project.resolution.height,
            "hd": (project.resolution.width, project.resolution.height) in preset.hd_resolutions,
            "fps": timeline.fps,
            "num_frames": timeline.num_frames,
            "num_motion_frames": timeline.num_motion_frames,
            "num_inference_steps": project.num_inference_steps,
            "quality": dial.level_of(project, preset),
            "draft_steps": preset.draft.num_inference_steps if preset.draft else None,
            "seed": project.seed,
            "negative_prompt": project.negative_prompt,
            "image_url": facts.url("anchor"),
            "storyline_source": project.storyline_source,
            "credit": credit(project),
        },
        "story": story(facts),
        "phase": phase,
        "outgrown": facts.plan.outgrown,
        "origin": dict(facts.origin) if facts.origin and not facts.view_only else None,
        "primary": primary(facts, phase),
        "stop": stop(facts, phase),
        "message": message(facts, phase, left_s),
        "announce": facts.announced,
        "error": error(facts, phase),
        "job": job(facts, left_s),
        "clips": [clip(facts, planned) for planned in facts.plan.clips],
        "film": film(facts),
        "drift": meter.film(project, preset, facts.plan.clips, view_only=facts.view_only),
        "undo": {"label": facts.undo, "id": facts.undo_id} if facts.undo and not facts.view_only else None,
        "vocabulary": moves.offered(facts.vocabulary, project.idea),
        "view_only": facts.view_only,
        "export": export(facts),
        "notices": [{"number": one.index + 1, "text": one.text} for one in facts.notices],
        "drafts": None if facts.view_only else dial.drafts(facts.plan, preset, facts.pace),
        "seconds_a_clip": {
            "full": facts.pace.clip_s(project.num_inference_steps),
            "draft": facts.draft_pace.clip_s(dial.num_steps(project, preset, draft=True)),
        },
    }


def phase_of(facts: Facts) -> Phase:
    if facts.job:
        if facts.job.state == "waiting":
            return "queued"
        return "generating" if facts.live or not facts.loading else "loading"
    if facts.story.writing:
        return "drafting"
    if not facts.plan.clips:
        return "draft"
    if facts.plan.next is None:
        return "finished"
    if facts.outcome:
        return "failed" if facts.outcome.kind == "failed" else "paused"
    return "ready"


def primary(facts: Facts, phase: Phase) -> dict[str, Any]:
    """The one button whose label follows the state."""
    if facts.view_only:
        return button("Make a copy", "copy")
    ending = facts.job.ending if facts.job else ""
    if ending:
        return button("Pausing…" if ending == "pause" else "Stopping…", "pause", reason="after the current step")
    if facts.plan.outgrown and phase in ("ready", "paused", "failed", "finished"):
        return button(NEW_SIZE, "remake")
    if facts.blocked and phase in ("ready", "paused", "failed", "finished"):
        return button("Generate", "generate", reason=facts.blocked)
    match phase:
        case "draft":
            return button("Draft storyline", "draft")
        case "drafting":
            if facts.story.draft and facts.story.draft.state == "stopping":
                return button("Stopping…", "stop_draft", reason="after the current word")
            return button("Stop drafting", "stop_draft")
        case "ready":
            return button("Generate", "generate")
        case "queued" | "loading" | "generating":
            return button("Pause", "pause")
        case "paused":
            return button("Resume", "resume")
        case "failed":
            return button("Retry", "retry")
        case "finished":
            return button("Extend", "extend")


def button(label: str, action: str, *, reason: str = "") -> dict[str, Any]:
    return {"label": label, "action": action, "enabled": not reason, "reason": reason}


def stop(facts: Facts, phase: Phase) -> dict[str, Any]:
    """Stop says what it keeps."""
    under_way = facts.job is not None and not facts.job.ending and not facts.view_only
    kept = len(finished(facts))
    label = f"Stop, keep {clips_text(kept)}" if kept else "Stop"
    return {"enabled": under_way, "label": label}


def finished(facts: Facts) -> list[PlannedClip]:
    return [planned for planned in facts.plan.clips if planned.take is not None]


def message(facts: Facts, phase: Phase, left_s: float | None) -> str:
    """One sentence: what, how far, how long."""
    count = len(facts.plan.clips)
    done = sum(planned.status == "done" for planned in facts.plan.clips)
    match phase:
        case "draft":
            return "Draft a storyline, or add a first clip."
        case "drafting":
            return drafting_message(facts.story.draft) if facts.story.draft else ""
        case "ready" if facts.plan.outgrown:
            return facts.plan.outgrown
        case "ready":
            missing = count - done
            time_text = f", {eta_text(left_s)} to make" if left_s is not None else ""
            return f"{clips_text(missing)} to generate{time_text}."
        case "queued":
            place = facts.job.place if facts.job else 0
            if not place:
                return "Starting…"
            if facts.job and facts.job.behind_training:
                first = "A training run is" if place == 1 else f"{place} jobs, one of them a training run, are"
                return f"{first} before yours. Pause it in the Lab to go on at once."
            wait = f", {eta_text(facts.job.ahead_s)}" if facts.job and facts.job.ahead_s is not None else ""
            return f"{place} {'job' if place == 1 else 'jobs'} before yours{wait}."
        case "loading":
            usual = f", {eta_text(facts.loading_s)}" if facts.loading_s is not None else ""
            return f"Loading the {facts.loading} model{usual}. The first clip starts by itself."
        case "generating":
            if facts.job and facts.job.ending:
                return "Stopping after the current step. Finished clips are kept."
            if facts.live is None:
                return f"Starting clip {min(done + 1, count)} of {count}…"
            step = f" · step {facts.live.step} of {facts.live.of}" if facts.live.of else ""
            if facts.outcome and facts.outcome.kind == "interrupted" and not facts.live.step:
                return facts.outcome.message
            left = f"{eta_text(left_s)} left" if left_s is not None else "measuring"
            return f"Clip {facts.live.index + 1} of {count}{step} · {left}"
        case "paused" | "failed":
            return f"{facts.outcome.message} {facts.outcome.hint}".strip() if facts.outcome else ""
        case "finished":
            seconds = facts.duration_s
            if facts.plan.outgrown:
                return f"{clips_text(count)}, {seconds:.0f} s. {facts.plan.outgrown}"
            if facts.outcome and facts.outcome.kind == "limit":  # why a film without end came to one
                return f"{clips_text(count)}, {seconds:.0f} s. {facts.outcome.message} {facts.outcome.hint}".strip()
            return f"{clips_text(count)}, {seconds:.0f} s. Your film is complete."


def drafting_message(draft: DraftFacts) -> str:
    match draft.state:
        case "waiting" if draft.place:
            jobs = "job" if draft.place == 1 else "jobs"
            return f"{draft.place} {jobs} before your storyline: one model works at a time."
        case "waiting" if draft.behind_loading:
            return f"Waiting until the film model is loaded: then {draft.title} takes its place."
        case "waiting":
            return f"Asking {draft.title}…"
        case "loading":
            return f"Loading {draft.title}. The first card follows by itself."
        case "stopping":
            return "Stopping. Written cards are kept."
        case _:
            number, last = draft.first + draft.done + 1, draft.first + draft.of
            return f"Writing card {min(number, last)} of {last} with {draft.title}…"


def story(facts: Facts) -> dict[str, Any]:
    """Who writes, what is being written, what went wrong, and how the story is told."""
    draft, telling = facts.story.draft, facts.project.telling
    there = {clip.id for clip in facts.project.clips}
    chosen, *others = facts.story.drafters or ({},)
    return {
        "drafter": chosen,
        "others": others,
        "drafting": {
            "state": draft.state,
            "title": draft.title,
            "done": draft.done,
            "of": draft.of,
            "first": draft.first,
            "awaited": [clip_id for clip_id in draft.coming if clip_id in there],
            "fresh": sum(clip_id not in there for clip_id in draft.coming),
        }
        if draft and facts.story.writing
        else None,
        "problem": problem(facts) if draft and draft.state == "failed" and not facts.view_only else None,
        "telling": telling.model_dump(),
        "exports": {kind: facts.url(f"storyline/{kind}") for kind in facts.exports} if facts.plan.clips else {},
        "fields": facts.story.fields,
    }


def problem(facts: Facts) -> dict[str, Any] | None:
    """Why the storyline stopped, and who could go on: the creator decides."""
    draft = facts.story.draft
    if draft is None:
        return None
    known = {drafter["source"]: drafter["title"] for drafter in facts.story.drafters}
    known |= {"template": "templates"}  # in the middle of a sentence
    others = [{"label": f"Use {title} instead", "source": source} for source, title in known.items()]
    return {
        "message": draft.message,
        "hint": draft.hint,
        "id": draft.error_id,
        "kept": draft.done,
        "of": draft.of,
        "choices": [
            {"label": "Try again", "source": draft.source},
            *(other for other in others if other["source"] != draft.source),
        ]
        if draft.source
        else [],
    }


def error(facts: Facts, phase: Phase) -> dict[str, str] | None:
    if facts.outcome is None or phase not in ("failed", "paused") or facts.outcome.kind not in ("failed", "full"):
        return None
    return {"message": facts.outcome.message, "hint": facts.outcome.hint, "id": facts.outcome.error_id}


def job(facts: Facts, left_s: float | None) -> dict[str, Any] | None:
    if facts.job is None:
        return None
    live = facts.live
    return {
        "id": facts.job.id,
        "state": facts.job.state,
        "forever": facts.job.forever,
        "place": facts.job.place,
        "clip_index": live.index if live else None,
        "step": live.step if live else 0,
        "of": live.of if live else dial.num_steps(facts.project, facts.preset, draft=is_drafting(facts)),
        "eta_s": None if left_s is None else round(left_s, 1),
        "eta_text": eta_text(left_s),
    }


def seconds_left(facts: Facts) -> float | None:
    """Time until the film is complete, or None while nothing has been measured on this machine."""
    live, plan = facts.live, facts.plan
    if live is None:
        return dial.seconds_missing(plan, facts.preset, facts.pace, facts.draft_pace)
    others = replace(plan, clips=tuple(one for one in plan.clips if one.clip.id != live.clip_id))
    rest = dial.seconds_missing(others, facts.preset, facts.pace, facts.draft_pace)
    draft = is_drafting(facts)
    pace = facts.draft_pace if draft else facts.pace
    clip_s = pace.clip_s(dial.num_steps(facts.project, facts.preset, draft=draft))
    if rest is None or clip_s is None or pace.step_s is None:
        return None
    remaining = clip_s - live.step * pace.step_s
    stalled = facts.live_s > STALL_STEPS * pace.step_s
    return rest + (remaining + facts.live_s if stalled else max(remaining - facts.live_s, 0.0))


def is_drafting(facts: Facts) -> bool:
    """Whether the clip being made, or the next one, is a draft."""
    wanted = facts.live.clip_id if facts.live else facts.plan.next.clip.id if facts.plan.next else ""
    index = next((one.index for one in facts.plan.clips if one.clip.id == wanted), None)
    return index is not None and dial.is_draft(facts.project, facts.preset, index)


def clip(facts: Facts, planned: PlannedClip) -> dict[str, Any]:
    """One card of the storyboard."""
    project, preset, timeline = facts.project, facts.preset, facts.timeline
    start, end = facts.spans[planned.index]
    running = facts.live is not None and facts.live.clip_id == planned.clip.id
    status = clip_status(facts, planned, running)
    shown = planned.take.digest if planned.take else None
    failed = facts.outcome if status == "failed" else None
    preview = facts.live.preview if running and facts.live else 0
    is_draft = dial.is_draft(project, preset, planned.index)
    return {
        "id": planned.clip.id,
        "index": planned.index,
        "number": planned.index + 1,
        "prompt": planned.clip.prompt,
        "caption": planned.clip.caption,
        "caption_language": planned.clip.caption_language if planned.clip.caption else "",
        "negative_prompt": planned.clip.negative_prompt,
        "asked": moves.asked(facts.vocabulary, planned.clip.prompt),
        "remarks": list(facts.remarks.get(planned.index, ())),
        "seed": planned.seed,
        "seed_is_own": planned.clip.seed is not None,
        "status": status,
        "start_s": round(timeline.seconds(start), 3),
        "end_s": round(timeline.seconds(end), 3),
        "poster_url": facts.url(f"poster/{shown}") if shown else None,
        "preview_url": facts.url(f"preview/{preview}") if preview else None,
        "step": facts.live.step if running and facts.live else 0,
        "of": facts.live.of if running and facts.live else 0,
        "takes": [
            {"digest": take.digest, "number": number, "seed": take.seed, "shown": take.digest == shown}
            for number, take in enumerate(facts.takes.get(planned.clip.id, ()), 1)
        ],
        "editable": not running and not facts.view_only,
        "badge": badge(facts, planned, status),
        "notice": facts.live.notice if running and facts.live else "",
        "draft": is_draft if running else planned.take is not None and planned.take.draft,
        "stays_draft": dial.stays_draft(planned, project, preset),
        "drift": meter.card(project, preset, planned.take.drift) if planned.take and not running else None,
        "error": {"message": failed.message, "hint": failed.hint, "id": failed.error_id} if failed else None,
    }


def clip_status(facts: Facts, planned: PlannedClip, running: bool) -> str:
    if running:
        return "running"
    last = None if facts.job else facts.outcome
    ended = last.kind if last and last.clip_id == planned.clip.id else ""
    if ended == "failed" and planned.status == "stale":
        return "failed"  # its earlier take can still be played
    if planned.status != "missing":
        return planned.status
    if facts.job:
        return "queued"
    if ended:
        return "failed" if ended == "failed" else "canceled"
    return "draft"


def badge(facts: Facts, planned: PlannedClip, status: str) -> str:
    """A few words on the card besides its status."""
    last = facts.outcome
    if last and last.kind == "interrupted" and last.clip_id == planned.clip.id and status != "done":
        return "interrupted"
    if status == "canceled":
        return "stopped before it was done"
    take = planned.take
    if planned.status != "stale" or take is None or status == "running":
        made = "made by an earlier model" if facts.plan.outgrown and take else ""
        return "earlier take kept" if planned.clip.pinned_take and status == "done" else made
    if take.prompt != planned.clip.prompt:
        return "made from an older prompt"
    if take.seed != planned.seed:
        return "made with another seed"
    if RANDOM_WEIGHTS in take.backend and not facts.preset.random_weights:
        return "made with random weights"
    if take.draft != dial.is_draft(facts.project, facts.preset, planned.index):
        return "made as a draft" if take.draft else "made in full quality"
    before = facts.plan.clips[planned.index - 1] if planned.index else None
    if take.parent_digest != (before.digest if before else None):
        return f"made from an older clip {planned.index}" if before else "made as a later clip"
    return "made with other settings"


def film(facts: Facts) -> dict[str, Any]:
    """What the player appends, in order, on one continuous timeline."""
    timeline, segments, at = facts.timeline, [], 0
    for planned, (start, end) in zip(facts.plan.film, facts.spans, strict=False):
        assert planned.take is not None
        segments.append(
            {
                "clip_id": planned.clip.id,
                "digest": planned.take.digest,
                "url": facts.url(f"segment/{planned.take.digest}/{start}"),
                "start_frame": start,
                "frames": end - start,
                "start_s": round(timeline.seconds(start), 4),
                "duration_s": round(timeline.seconds(end - start), 4),
                "stale": planned.status == "stale",
            }
        )
        at = end
    return {
        "generation": facts.generation,
        "mime": f'video/mp4; codecs="{facts.codec}"' if facts.codec else "",
        "init_url": facts.url(f"init/{segments[0]['digest']}") if segments else None,
        "segments": segments,
        "duration_s": round(timeline.seconds(at), 4),
        "planned_s": round(facts.duration_s, 4),
        "complete": bool(facts.plan.clips) and facts.plan.next is None,
    }


def credit(project: Project) -> dict[str, Any] | None:
    """Who made the picture, where it was found by keywords. `line` says all of it."""
    found = project.inputs.credit
    return found.model_dump() | {"line": credit_line(found)} if found else None


def export(facts: Facts) -> dict[str, Any] | None:
    if facts.export is None:
        return None
    done = facts.export.state == "done"
    return {
        "url": facts.url(f"export/{facts.export.name}") if done else None,
        "name": facts.export.name,
        "frames": facts.export.frames,
        "clips": facts.export.clips,
        "of": len(facts.plan.clips),
        "state": facts.export.state,
        "message": facts.export.message,
        "credit": credit_line(found) if (found := facts.project.inputs.credit) else "",
    }
