"""Edits of a storyboard, as pure functions from one project to the next. Staleness is computed later, never stored."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from engine.domain import (
    MAX_CLIPS,
    MAX_NEGATIVE_PROMPT_CHARACTERS,
    MAX_PROMPT_CHARACTERS,
    Beat,
    Clip,
    Project,
    Storyline,
    check_num_clips,
    check_seed,
    clean_prompt,
    new_id,
)
from engine.errors import InputError
from engine.variants import Variant

Scope = Literal["this_and_after", "only_this"]
Said = TypeVar("Said")
# Of the longest storyboard as JSON in UTF-8: a letter has up to 4 bytes in prompts and captions, and 6 in what may hold
# control characters (“\\u0007”). 500: keys, indents, id, seed and pinned take of a clip; 100,000: all that is no clip.
MAX_STORYBOARD_BYTES = MAX_CLIPS * (4 * 2 * MAX_PROMPT_CHARACTERS + 6 * MAX_NEGATIVE_PROMPT_CHARACTERS + 500) + 100_000
SENTENCE_END = re.compile(r"[.!?…][\"'”’)]*(?=\s)|[。！？][」』”]*")
WORD_END = re.compile(r"\S(?=\s)")
WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]$")  # Japanese and Chinese: sentences end in 。 and no space follows


def with_clips(project: Project, clips: Sequence[Clip]) -> Project:
    if clips:
        check_num_clips(len(clips))
    return project.model_copy(update={"clips": tuple(clips)})


def replace_clip(project: Project, clip_id: str, **changes: object) -> Project:
    index = project.clip_index(clip_id)
    clips = list(project.clips)
    clips[index] = clips[index].model_copy(update=changes)
    return with_clips(project, clips)


def accept_storyline(
    project: Project, storyline: Storyline, negative_prompts: Sequence[str | None] | None = None
) -> Project:
    """Replace the clips by the storyline's; the ids of slots whose number stays are kept, and so are their takes.

    negative_prompts: one for each clip, from a file that has them; without, clips keep theirs.
    """
    kept, clips = project.clips, []
    for index, beat in enumerate(storyline.beats):
        changes = beat.model_dump() | {"caption_language": "", "pinned_take": None}
        if negative_prompts is not None:
            changes["negative_prompt"] = negative_prompts[index]
        clips.append(kept[index].model_copy(update=changes) if index < len(kept) else Clip(**changes))
    return with_clips(project, clips).model_copy(update={"storyline_source": storyline.source})


def spread(said: Sequence[Said], count: int, row: Variant) -> list[Said]:
    """What is said in each of `count` clips: the first only for a variant with one prompt, else each as often in a row
    as the method wants it, and the list over and over, as upstream."""
    if row.prompt_policy == "one":
        return [said[0]] * count
    return [said[index // row.clips_per_prompt % len(said)] for index in range(count)]


def prompts_so_far(project: Project) -> tuple[str, ...]:
    """The film's prompts in order, those that several clips in a row have once."""
    prompts = [clip.prompt for clip in project.clips]
    return tuple(prompt for index, prompt in enumerate(prompts) if index == 0 or prompt != prompts[index - 1])


def clips_left(project: Project, row: Variant) -> int:
    """How many more clips the last prompt of the film is to have, as the method wants it: MAX_CLIPS for a variant with
    one prompt, 0 where the last prompt has had all of its clips."""
    if not project.clips:
        return 0
    if row.prompt_policy == "one":
        return MAX_CLIPS
    last = project.clips[-1].prompt
    had = next((n for n, clip in enumerate(reversed(project.clips)) if clip.prompt != last), len(project.clips))
    return -had % row.clips_per_prompt


def beats_needed(project: Project, count: int, row: Variant) -> int:
    """How many beats `count` more clips of the film want; none where its last prompt is to go on for so long."""
    new = max(0, count - clips_left(project, row))
    return min(new, 1) if row.prompt_policy == "one" else -(-new // row.clips_per_prompt)


def continue_with(project: Project, beats: Sequence[Beat], count: int, row: Variant) -> Project:
    """The film with up to `count` more clips: its last prompt for as long as it is to go on, then each beat.

    `beats_needed` beats, drafted as the film is to be told, fill all of `count`; fewer may be given, one after another.
    """
    old = min(count, clips_left(project, row))
    said = project.clips[-1].model_dump(exclude={"id", "seed", "draft", "pinned_take"}) if old else {}
    clips = [Clip(**said) for _ in range(old)]
    each = MAX_CLIPS if row.prompt_policy == "one" else row.clips_per_prompt
    for beat in beats:
        said = beat.model_dump() | {"caption_language": project.telling.language if beat.caption else ""}
        clips += [Clip(**said) for _ in range(min(each, count - len(clips)))]
    return with_clips(project, [*project.clips, *clips])


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
    """The clip again after itself, without its takes and seed: equal noise twice in a row adds up its artefacts."""
    index = project.clip_index(clip_id) + 1
    again = project.clips[index - 1].model_copy(update={"id": new_id(), "seed": None, "pinned_take": None})
    return with_clips(project, [*project.clips[:index], again, *project.clips[index:]])


def merge(project: Project, clip_id: str) -> Project:
    """Join a clip with the one after it: it says both, and keeps its own takes, seed and negative prompt.

    The captions are joined where both clips have one. Raises `InputError` for the last clip and for too long a prompt.
    """
    index = project.clip_index(clip_id)
    if index + 1 == len(project.clips):
        raise InputError("The last clip has none after it to be merged with.", "Merge the one before it.")
    first, second = project.clips[index : index + 2]
    prompt = as_sentences(first.prompt, second.prompt)
    caption = as_sentences(first.caption, second.caption) if first.caption and second.caption else ""
    if max(len(prompt), len(caption)) > MAX_PROMPT_CHARACTERS:
        raise InputError(
            f"Clips {index + 1} and {index + 2} together have {max(len(prompt), len(caption)):,} characters; up to "
            f"{MAX_PROMPT_CHARACTERS:,} are allowed.",
            "Nothing was changed. Shorten one of them first.",
        )
    merged = first.model_copy(update={"prompt": prompt, "caption": caption, "pinned_take": None})
    return with_clips(project, [*project.clips[:index], merged, *project.clips[index + 2 :]])


def as_sentences(first: str, second: str) -> str:
    """Both texts in a row, the first one ended."""
    if WIDE.search(first):
        return f"{first}。{second}"
    if first[-1] in "。！？」』":
        return first + second
    ended = first if re.search(r"[.!?…][\"'”’)]*$", first) else f"{first.rstrip(',;:')}."
    return f"{ended} {second[0].upper()}{second[1:]}"


def split(project: Project, clip_id: str, at: int | None = None) -> Project:
    """Make two clips of one: what is said up to `at` and the rest.

    at: a place in the prompt in characters, moved to the nearest end of a word; None: the end of the sentence that is
    nearest to the middle. The first half keeps the takes and the seed, both keep the negative prompt. A caption is
    split after as many sentences as the prompt where it has as many, else it is left out. Raises `InputError` when
    there is nothing to split.
    """
    index = project.clip_index(clip_id)
    clip = project.clips[index]
    sentences = ends(SENTENCE_END, clip.prompt)
    if at is not None and not 0 < at < len(clip.prompt):
        raise InputError(f"Clip {index + 1} cannot be split at its beginning or end.", "Choose a place between words.")
    places = sentences if at is None else sorted({*sentences, *ends(WORD_END, clip.prompt)})
    if not places:
        what = "is one sentence" if at is None else "is one word"
        raise InputError(f"Clip {index + 1} {what}: there is nothing to split.", "Write more, or add a clip after it.")
    wanted = len(clip.prompt) / 2 if at is None else at
    place = min(places, key=lambda end: abs(end - wanted))
    captions = ends(SENTENCE_END, clip.caption)
    matching = place in sentences and len(captions) == len(sentences)
    cut = captions[sentences.index(place)] if matching else len(clip.caption)
    caption, rest = (clip.caption[:cut], clip.caption[cut:].strip()) if matching else ("", "")
    first = clip.model_copy(update={"prompt": clip.prompt[:place], "caption": caption, "pinned_take": None})
    second = Clip(
        prompt=clip.prompt[place:].strip(),
        caption=rest,
        caption_language=clip.caption_language,
        negative_prompt=clip.negative_prompt,
        draft=clip.draft,
    )
    return with_clips(project, [*project.clips[:index], first, second, *project.clips[index + 1 :]])


def ends(of: re.Pattern[str], text: str) -> list[int]:
    """Where a sentence or a word ends inside `text`; its own end is none of them."""
    return [match.end() for match in of.finditer(text) if match.end() < len(text)]


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
    if prompt is not None:
        project = set_prompt(project, clip_id, prompt)
    project = replace_clip(project, clip_id, seed=check_seed(seed), pinned_take=None)
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
