"""`plan()` compares what a film should be with the takes on disk, `render()` makes what is missing, `export()` joins.

Generate, extend, regenerate, cancel and resume are all "plan again". Knows nothing about models or screens.
"""

import hashlib
import json
import logging
import re
import shutil
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from engine import __version__, backends, faults
from engine.backends.base import Backend, ClipResult, Notice
from engine.config import RANDOM_WEIGHTS, Preset, preset_names
from engine.domain import (
    Clip,
    ClipRequest,
    Credit,
    Inputs,
    Project,
    Resolution,
    Source,
    Take,
    Telling,
    check_num_clips,
    clean_prompt,
)
from engine.errors import (
    ConfigError,
    DiskFull,
    GenerationError,
    InputError,
    OutOfMemory,
    ProjectCorrupt,
    ProjectError,
    disk_errors_explained,
)
from engine.events import ClipNotice, ClipStarted, ClipStep, Event, FilmExported, TakeCommitted
from engine.media import drift, image, video
from engine.project import takes as takes_on_disk
from engine.project.store import Store
from engine.timeline import Timeline
from engine.variants import VARIANTS

log = logging.getLogger(__name__)
RANDOM_MARK = "-random-weights"  # in the name of an export whose pictures are noise
DIGEST_VERSION = 1  # raised when the same request gives other pixels
TAIL_FRAMES = 5
MAX_ATTEMPTS = 3
FIRST_CLIP_BYTES = 20_000_000  # expected size before any take has been measured
AI_NOTE = "AI-generated video (Stable Video Infinity Studio)"


@dataclass(frozen=True)
class PlannedClip:
    """Slot `index`: `digest` is the take it asks for; `take` the one to show (an older one when stale)."""

    index: int
    clip: Clip
    digest: str
    seed: int
    status: Literal["done", "stale", "missing"]
    take: Take | None


@dataclass(frozen=True)
class Plan:
    """A film as it is. outgrown: why nothing can be made for it any more, in a sentence; it plays and exports."""

    project: Project
    clips: tuple[PlannedClip, ...]
    outgrown: str = ""

    @property
    def next(self) -> PlannedClip | None:
        """The first clip that has no fresh take, if any."""
        return next((planned for planned in self.clips if planned.status != "done"), None)

    @property
    def film(self) -> tuple[PlannedClip, ...]:
        """The clips that can be played in a row from the start, stale ones included."""
        playable = []
        for planned in self.clips:
            if planned.take is None:
                break
            playable.append(planned)
        return tuple(playable)

    @property
    def takes(self) -> tuple[Take, ...]:
        """The takes that are shown."""
        return tuple(planned.take for planned in self.clips if planned.take)


def timeline_of(project: Project, preset: Preset, takes: Iterable[Take] = ()) -> Timeline:
    """The film's frame arithmetic: that of its newest take where there is one, else of what `preset` makes."""
    made = newest(takes) or preset
    return Timeline(made.num_frames, preset.variant(project.variant).num_motion_frames, made.fps)


def spans(planned: Plan, timeline: Timeline) -> list[tuple[int, int]]:
    """First and last+1 film frame of each clip: as long as its take, or as `timeline` says where it has none."""
    ends = [0]
    for clip in planned.clips:
        made = clip.take.num_frames - clip.take.overlap if clip.take else None
        ends.append(ends[-1] + (timeline.num_frames - timeline.overlap(clip.index) if made is None else made))
    return list(pairwise(ends))


def newest(takes: Iterable[Take]) -> Take | None:
    return max(takes, key=lambda take: take.created, default=None)


def shape_of(take: Take) -> tuple[int, int, int, int]:
    """Width, height, frames and rate of a take: the same in all takes of a film."""
    return take.width, take.height, take.num_frames, take.fps


def alike(takes: Mapping[str, Take]) -> dict[str, Take]:
    """The takes, by digest, that have the shape of the newest one: others cannot be joined with it."""
    last = newest(takes.values())
    return {digest: take for digest, take in takes.items() if last and shape_of(take) == shape_of(last)}


def outgrown(project: Project, takes: Iterable[Take], preset: Preset) -> str:
    """Why `preset` cannot go on with this film, in a sentence, or "": sizes are never mixed in one film."""
    size, last = (project.resolution.width, project.resolution.height), newest(takes)
    is_offered = size in (*preset.resolutions, *preset.hd_resolutions)
    if is_offered and (last is None or shape_of(last) == (*size, preset.num_frames, preset.fps)):
        return ""
    now = project.resolution if is_offered else preset.resolution_for(*size)
    if last is None:
        return f"This film was begun at {project.resolution}, and {preset.title} makes {now}."
    return (
        f"This film was made at {last.width}×{last.height}, {last.num_frames} frames a clip, {last.fps} fps; "
        f"{preset.title} makes {now}, {preset.num_frames} frames, {preset.fps} fps, and one film never mixes them."
    )


def refuse_outgrown(store: Store, preset: Preset) -> None:
    """Raise unless clips can be made for this film."""
    if reason := outgrown(store.load(), store.takes().values(), preset):
        name = preset.name if preset.name in preset_names() else "FILE.yaml"
        raise InputError(
            reason,
            f"Make a copy at the new size: python -m engine remake --project {store.folder} --preset {name} "
            f"--out {store.folder}-new",
        )


@dataclass(frozen=True)
class Sampling:
    """How one clip is sampled: the project's settings, or all of the preset's for drafts."""

    draft: bool
    num_inference_steps: int
    guidance_scale: float
    shift: float


def sampling_of(project: Project, preset: Preset, index: int) -> Sampling:
    """The sampling of clip `index`. Raises `ConfigError` when a draft is wanted that the preset does not have."""
    if not project.is_draft(index):
        return Sampling(False, project.num_inference_steps, project.guidance_scale, preset.shift)
    if preset.draft is None:
        raise ConfigError(f"The preset “{preset.name}” has no draft quality.", "Set the clips to full quality.")
    return Sampling(True, preset.draft.num_inference_steps, preset.draft.guidance_scale, preset.draft.shift)


def create(
    folder: Path,
    picture: Path,
    preset: Preset,
    *,
    prompts: Sequence[str] = (),
    variant: str = "film",
    seed: int = 0,
    title: str = "",
    idea: str = "",
    num_inference_steps: int | None = None,
    draft: bool = False,
    hd: bool = False,
    source: Source = "user",
    telling: Telling | None = None,
    original_name: str = "",
    credit: Credit | None = None,
) -> Store:
    """A new project in `folder` from the untrusted `picture` file; the picture is validated and re-encoded first."""
    preset.variant(variant)
    clips = tuple(Clip(prompt=clean_prompt(prompt)) for prompt in prompts)
    if clips:
        check_num_clips(len(clips))
    refuse_existing(folder)
    inputs = folder / "inputs"
    with disk_errors_explained("a new project"):
        inputs.mkdir(parents=True, exist_ok=True)
    anchor = inputs / "anchor.png"
    with disk_errors_explained("the picture"):
        faults.hit("import.write")
        info = image.import_image(picture, anchor)
    project = Project(
        title=title or "Untitled film",
        idea=idea,
        variant=variant,
        preset=preset.name,
        resolution=preset.resolution_for(info.width, info.height, hd=hd),
        seed=seed,
        num_inference_steps=num_inference_steps or preset.num_inference_steps,
        guidance_scale=preset.guidance_scale,
        negative_prompt=preset.negative_prompt,
        lora_strength=preset.variants[variant].lora_strength,
        draft=draft,
        storyline_source=source,
        telling=telling or Telling(),
        inputs=Inputs(
            image=anchor.name,
            image_sha256=hashlib.sha256(anchor.read_bytes()).hexdigest(),
            original_name=Path(original_name or picture.name).name[:200],
            credit=credit,
        ),
        clips=clips,
    )
    return Store.create(folder, project, anchor)


def refuse_existing(folder: Path) -> None:
    """Raise unless `folder` can become a project: a damaged one is no free place."""
    if (folder / "project.json").exists():
        raise InputError(f"{folder.name}/ already holds a project.", "Extend it, or choose another folder.")
    if (folder / "project.previous.json").exists() or takes_on_disk.names(folder / "takes"):
        raise ProjectCorrupt(f"{folder.name}/ holds a project whose project.json is missing.", "It was left as it is.")


def digest_of(project: Project, preset: Preset, index: int, parent_digest: str | None, weights: str) -> str:
    """A hash of everything that determines the pixels of clip `index`, the parent take's digest included."""
    clip, sampling = project.clips[index], sampling_of(project, preset, index)
    variant = preset.variant(project.variant)
    facts = {
        "version": DIGEST_VERSION,
        "anchor": project.inputs.image_sha256,
        "parent": parent_digest,
        "prompt": clip.prompt,
        "negative_prompt": project.negative_prompt_of(index) if sampling.guidance_scale != 1.0 else "",
        "seed": project.seed_of(index),
        "steps": sampling.num_inference_steps,
        "guidance": sampling.guidance_scale,
        "lora_strength": project.lora_strength,
        "resolution": [project.resolution.width, project.resolution.height],
        "variant": [variant.name, variant.num_motion_frames, variant.padding, variant.guidance_terms],
        "sampling": [preset.family, preset.num_frames, preset.fps, sampling.shift, preset.dtype, preset.uint8],
        "max_sequence_length": preset.max_sequence_length,
        "weights": weights,
    }
    if variant.base != "wan2.1" or variant.method != VARIANTS[variant.name].method:
        facts["method"] = [variant.method, variant.num_motion_latents, variant.boundary]
    if extras := [
        (expert, choice.strength)
        for expert in ("high", "low")
        for choice in preset.loras(project.variant, expert, strength=0.0, draft=sampling.draft)
    ]:
        facts["extra_loras"] = extras
    if shortcuts := preset.shortcuts():
        facts["shortcuts"] = shortcuts
    if preset.family == "pocket":
        facts["renderer"] = [preset.handover, render_version()]
        facts["heard"] = heard(clip.prompt)
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def plan(store: Store, preset: Preset, project: Project | None = None) -> Plan:
    """What is done, stale or missing. A clip is done when a whole take has the digest it would be asked for with."""
    project, takes = project or store.load(), alike(store.takes())
    if reason := outgrown(project, takes.values(), preset):
        return plan_of_takes(project, takes, outgrown=reason)
    drafts = {project.is_draft(index) for index in range(len(project.clips))} or {project.draft}
    weights = {draft: backends.fingerprint(preset, project.variant, draft=draft) for draft in drafts}
    latest: dict[str, Take] = {}
    for take in sorted(takes.values(), key=lambda take: take.created):
        latest[take.clip_id] = take
    planned: list[PlannedClip] = []
    parent: str | None = None
    for index, clip in enumerate(project.clips):
        pinned = clip.pinned_take if clip.pinned_take in takes else None
        digest = pinned or digest_of(project, preset, index, parent, weights[project.is_draft(index)])
        take = takes.get(digest)
        status = "done" if take else "stale" if clip.id in latest else "missing"
        planned.append(PlannedClip(index, clip, digest, project.seed_of(index), status, take or latest.get(clip.id)))
        parent = digest
    return Plan(project, tuple(planned))


def plan_of_takes(project: Project, takes: Mapping[str, Take], *, outgrown: str = "") -> Plan:
    """The film as its takes are, whatever would be made of it by now.

    A clip is done when one of its takes has its prompt and seed and continues the take before, as far as takes tell.
    """
    own: dict[str, list[Take]] = {}
    for take in sorted(takes.values(), key=lambda take: take.created):
        own.setdefault(take.clip_id, []).append(take)
    planned: list[PlannedClip] = []
    parent: str | None = None
    for index, clip in enumerate(project.clips):
        asked = (clip.prompt, project.seed_of(index), parent)
        fitting = [take for take in own.get(clip.id, ()) if (take.prompt, take.seed, take.parent_digest) == asked]
        fresh = takes.get(clip.pinned_take or "") or (fitting[-1] if fitting else None)
        shown = fresh or (own[clip.id][-1] if clip.id in own else None)
        status = "done" if fresh else "stale" if shown else "missing"
        parent = fresh.digest if fresh else ""
        planned.append(PlannedClip(index, clip, parent, asked[1], status, shown))
    return Plan(project, tuple(planned), outgrown)


def next_request(store: Store, preset: Preset, planned: Plan) -> ClipRequest | None:
    """The request of the next clip to make, or None when nothing is missing."""
    wanted = planned.next
    if wanted is None:
        return None
    if planned.outgrown:
        refuse_outgrown(store, preset)
    project, index = planned.project, wanted.index
    variant, sampling = preset.variant(project.variant), sampling_of(project, preset, index)
    picture = image.load(store.anchor_file(project))
    anchor = first_frame(picture, project.resolution, preset)
    parent = planned.clips[index - 1].digest if index else None
    condition, latents, states = anchor[None], None, None
    try:
        if parent and preset.handover == "composed":
            refuse_without_states(planned.clips[index - 1])
            states = takes_on_disk.tail_states(store.take_folder(parent), variant.num_motion_frames)
            condition = takes_on_disk.tail(store.take_folder(parent), variant.num_motion_frames)
        elif parent and variant.num_motion_latents:
            refuse_without_latents(planned.clips[index - 1])
            latents = takes_on_disk.tail_latents(store.take_folder(parent), variant.num_motion_latents)
        elif parent:
            condition = takes_on_disk.tail(store.take_folder(parent), variant.num_motion_frames)
    except ProjectError as err:
        log.warning("clip %d cannot be continued and is made again: %s", index, err.message)
        takes_on_disk.set_aside(store.takes_folder, str(parent))
        if store.take_folder(str(parent)).exists():
            raise
        return next_request(store, preset, plan(store, preset, project))
    return ClipRequest(
        digest=wanted.digest,
        clip_id=wanted.clip.id,
        index=index,
        variant=project.variant,
        prompt=wanted.clip.prompt,
        negative_prompt=project.negative_prompt_of(index),
        seed=wanted.seed,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        lora_strength=project.lora_strength,
        num_frames=preset.num_frames,
        overlap=timeline_of(project, preset).overlap(index),
        fps=preset.fps,
        resolution=project.resolution,
        parent_digest=parent,
        anchor=anchor,
        condition_frames=condition,
        tail_latents=latents,
        draft=sampling.draft,
        shift=sampling.shift,
        picture=picture if preset.family == "pocket" else None,
        tail_states=states,
        is_composed=preset.handover == "composed",
    )


def first_frame(picture: np.ndarray, resolution: Resolution, preset: Preset) -> np.ndarray:
    """The picture (H, W, 3) uint8 as the film's first frame: fitted, or framed with room to move where it is drawn
    from."""
    if preset.family != "pocket":
        return image.fit(picture, resolution)
    from engine.pocket.render import opening_frame

    return opening_frame(picture, resolution)


def moved_anchor(request: ClipRequest, states: dict[str, np.ndarray] | None) -> np.ndarray | None:
    """The picture (H, W, 3) as the camera of the clip's last frame shows it, in its own light; None without states."""
    if states is None or request.picture is None:
        return None
    from engine.pocket.framing import Framing
    from engine.pocket.motion import Motion, from_arrays
    from engine.pocket.render import Canvas

    last = from_arrays(states)[-1:]
    framing = Framing.of(request.picture.shape[1], request.picture.shape[0], request.resolution)
    return Canvas.of(request.picture, framing).draw_one(replace(Motion.still(1, last.aspect), camera=last.camera))


def render_version() -> int:
    from engine.pocket import render

    return render.VERSION


def heard(prompt: str) -> list[str]:
    """What the embedded model makes of a prompt: a rule of reading that changes makes its clips anew."""
    from engine.pocket import reading

    return list(reading.wish_of(prompt).tokens)


def refuse_without_states(before: PlannedClip) -> None:
    """Raise for a take that was kept from another method: it is whole, so it is not set aside."""
    if before.take is not None and not before.take.tail_states:
        raise InputError(
            f"Clip {before.index + 1} was made by another method and cannot be composed.",
            "Regenerate it, or let go of the kept take. Everything else is safe.",
        )


def refuse_without_latents(before: PlannedClip) -> None:
    """Raise for a take that was kept from another method: it is whole, so it is not set aside."""
    if before.take is not None and not before.take.tail_latents:
        raise InputError(
            f"Clip {before.index + 1} was made by another method and hands over no latents.",
            "Regenerate it, or let go of the kept take. Everything else is safe.",
        )


def render(store: Store, backend: Backend, preset: Preset, *, reserve_bytes: int = 500_000_000) -> Iterator[Event]:
    """Make every clip that is not done, in order, yielding what happens; the plan is read anew before each clip.

    Close the generator to cancel: it stops within one step and finished clips stay. Raises `ProjectLocked` when another
    process is rendering, `DiskFull`, `GenerationError`.
    """
    with store.lock("render"):
        takes_on_disk.remove_leftovers(store.takes_folder)
        while request := next_request(store, preset, plan(store, preset)):
            check_space(store, reserve_bytes)
            attempt = begin_attempt(store, request)
            try:
                started = ClipStarted(
                    request.clip_id, request.index, request.digest, request.prompt, request.seed, attempt
                )
                store.record(started)
                yield started
                committed = yield from make(store, backend, request)
                store.record(committed)
            finally:
                with suppress(ProjectError):  # reached unless the process died: that is what counts
                    store.set_attempt(request.digest, 0)
            yield committed


def begin_attempt(store: Store, request: ClipRequest) -> int:
    """Count a start of `request`; one that took the process down three times is refused, so that what starts by itself
    ends. Whoever starts it again is told, and the count begins anew."""
    attempt = store.attempts().get(request.digest, 0) + 1
    if attempt > MAX_ATTEMPTS:
        store.set_attempt(request.digest, 0)
        raise GenerationError(
            f"Clip {request.index + 1} stopped the studio {MAX_ATTEMPTS} times.",
            "Finished clips are safe. Start it again, or change its prompt or seed first.",
        )
    store.set_attempt(request.digest, attempt)
    faults.hit("clip.running")
    return attempt


def make(store: Store, backend: Backend, request: ClipRequest) -> Iterator[Event]:
    """Generate and commit one clip, yielding a `ClipStep` per step; returns its `TakeCommitted`."""
    began = step_began = time.monotonic()
    result: ClipResult | None = None
    iterator = backend.generate(request)
    try:
        for item in iterator:
            if isinstance(item, ClipResult):
                result = item
                continue
            if isinstance(item, Notice):
                notice = ClipNotice(request.clip_id, request.index, item.text)
                store.record(notice)
                yield notice
                continue
            faults.hit("clip.step")
            now = time.monotonic()
            yield ClipStep(request.clip_id, request.index, item.step, item.of, now - step_began, item.preview)
            step_began = time.monotonic()
    except MemoryError as err:
        raise OutOfMemory(
            f"Clip {request.index + 1} needs more memory than is free.",
            "Finished clips are safe. Close other programs or choose a smaller size, then resume.",
        ) from err
    finally:
        iterator.close()
    if result is None:
        raise GenerationError(f"The backend {backend.info.name} ended clip {request.index + 1} without frames.")
    check_frames(request, result.frames)
    faults.hit("clip.generated")
    measuring = time.process_time()
    moved = moved_anchor(request, result.tail_states)
    reading = drift.measure(result.frames, request.anchor, overlap=request.overlap, fps=request.fps, moved=moved)
    take = takes_on_disk.commit(
        store.takes_folder,
        request,
        result.frames,
        tail_frames=TAIL_FRAMES,
        backend=backend.info.name,
        timings=result.timings | {"drift": time.process_time() - measuring},
        drift=reading,
        tail_latents=result.tail_latents,
        tail_states=result.tail_states,
    )
    faults.hit("clip.committed")
    seconds = time.monotonic() - began
    log.info("clip %d: %d frames in %.1f s", request.index + 1, take.num_frames, seconds)
    return TakeCommitted(request.clip_id, request.index, take.digest, take.num_frames - take.overlap, seconds, reading)


def check_frames(request: ClipRequest, frames: np.ndarray) -> None:
    """Refuse a clip of the wrong shape, or one flat colour where the picture is not."""
    expected = (request.num_frames, request.resolution.height, request.resolution.width, 3)
    if frames.shape != expected or frames.dtype != np.uint8:
        raise GenerationError(f"Clip {request.index + 1} has shape {frames.shape}; {expected} was asked for.")
    if frames[-1].std() < 0.5 and request.anchor.std() > 4.0:
        raise GenerationError(
            f"Clip {request.index + 1} came out as one flat colour.", "Finished clips are safe. Try another seed."
        )


def check_space(store: Store, reserve_bytes: int) -> None:
    """Raise `DiskFull` unless two clips of the recent size and the reserve fit."""
    recent = sorted(store.takes().values(), key=lambda take: take.created)[-5:]
    sizes = [sum(f.stat().st_size for f in store.take_folder(t.digest).rglob("*") if f.is_file()) for t in recent]
    expected = int(statistics.median(sizes)) if sizes else min(FIRST_CLIP_BYTES, reserve_bytes)
    free = shutil.disk_usage(store.folder).free
    if free < 2 * expected + reserve_bytes:
        raise DiskFull(
            f"No room for more clips ({free / 1e9:.1f} GB left, {(2 * expected + reserve_bytes) / 1e9:.1f} GB wanted).",
            f"{len(store.takes())} takes are safe. Free space or export, then resume.",
        )


def credit_line(credit: Credit) -> str:
    """Who made the picture that a film began with, and under which licence, as its author asks to be named."""
    author = f" by {credit.author}" if credit.author else ""
    terms = f"{credit.licence} ({credit.licence_url})" if credit.licence_url else credit.licence
    where = f" {credit.page_url}" if credit.page_url else ""
    return f"Picture: “{credit.title or 'Untitled'}”{author}, {terms}, from {credit.source}.{where}"


def export_name(planned: Plan) -> str:
    """A file name for the film as it is: other takes or another title have another. It says how many clips it holds."""
    takes = [clip.take for clip in planned.film if clip.take]
    facts = [planned.project.title, *(take.digest for take in takes)]
    mark = RANDOM_MARK if any(RANDOM_WEIGHTS in take.backend for take in takes) else ""
    return f"film-{len(takes)}-clips-{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()[:10]}{mark}.mp4"


def clips_of(export_name: str) -> int:
    """How many clips the export of this name holds; 0 when the name does not say."""
    match = re.fullmatch(rf"film-(\d+)-clips-[0-9a-f]+(?:{RANDOM_MARK})?\.mp4", export_name)
    return int(match[1]) if match else 0


def export(store: Store, preset: Preset, output: Path | None = None, *, planned: Plan | None = None) -> FilmExported:
    """Join the playable clips into one MP4 at `output`, or in the project's folder of exports, by packet copy."""
    planned = planned or plan(store, preset)
    chosen = [clip.take for clip in planned.film if clip.take]
    if not chosen:
        raise ProjectError("There is no finished clip to export yet.", "Generate at least one clip first.")
    takes_on_disk.verify(store.takes_folder, chosen)
    random = any(RANDOM_WEIGHTS in take.backend for take in chosen)
    metadata = {
        "title": planned.project.title,
        "comment": f"{AI_NOTE}; model: {preset.title}{f', {RANDOM_WEIGHTS}' if random else ''}",
        "encoder": f"Stable Video Infinity Studio {__version__}",
    }
    if credit := planned.project.inputs.credit:
        metadata["copyright"] = credit_line(credit)
    output = output or store.exports / export_name(planned)
    with disk_errors_explained("the film"):
        output.parent.mkdir(parents=True, exist_ok=True)
        film = video.join([store.take_folder(t.digest) / "segment.mp4" for t in chosen], output, metadata=metadata)
    timeline = timeline_of(planned.project, preset, chosen)
    return FilmExported(
        str(output), film.num_frames, timeline.fps, len(chosen), timeline.num_frames, timeline.num_motion_frames
    )
