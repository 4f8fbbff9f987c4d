"""What a batch has made so far, read off the films on disk: summary.json for programs, summary.md for people.

Both are replaced at once, so a reader never sees half of one. Knows nothing about how films are made.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from engine.batch.plan import FilmTask
from engine.config import RANDOM_WEIGHTS
from engine.domain import DriftReading, Saved, Source
from engine.errors import disk_errors_explained
from engine.film import Plan, timeline_of
from engine.project.files import write_atomically

MAX_BYTES = 50_000_000
COLUMNS = (
    "film", "model", "task", "storyline", "clips", "frames", "length, s", "made in, s", "colour shift", "sharpness",
    "motion",
)  # fmt: skip


class FilmRow(Saved):
    """One film. seconds: its length; made_in_s: what its takes took. exported: digest of the last take in the MP4.

    drift: of the last clip, against the picture.
    """

    name: str
    state: Literal["waiting", "unfinished", "finished"] = "waiting"
    model: str
    variant: str
    task: str
    source: Source | None = None
    clips: int | None = None
    clips_done: int = 0
    frames: int = 0
    seconds: float = 0.0
    made_in_s: float = 0.0
    drift: DriftReading | None = None
    film: str = ""
    exported: str = ""
    error: str = ""


class Summary(Saved):
    films: tuple[FilmRow, ...]


def row_of(task: FilmTask, planned: Plan | None, *, exported: str = "", error: str = "") -> FilmRow:
    """The row of `task`, whose project is as `planned` says; None: it is not there yet."""
    row = FilmRow(
        name=task.name, model=task.preset.name, variant=task.variant, task=task.task, clips=task.clips, error=error
    )
    if planned is None or not planned.clips:
        return row
    takes = [clip.take for clip in planned.clips if clip.status == "done" and clip.take]
    timeline = timeline_of(planned.project, task.preset, takes)
    frames = sum(take.num_frames - take.overlap for take in takes)
    random = any(RANDOM_WEIGHTS in take.backend for take in takes)
    return row.model_copy(
        update={
            "state": "finished" if len(takes) == len(planned.clips) else "unfinished",
            "model": f"{task.preset.name}, {RANDOM_WEIGHTS}" if random else task.preset.name,
            "source": planned.project.storyline_source,
            "clips": len(planned.clips),
            "clips_done": len(takes),
            "frames": frames,
            "seconds": round(timeline.seconds(frames), 3),
            "made_in_s": round(sum(sum(take.timings.values()) for take in takes), 1),
            "drift": takes[-1].drift if takes else None,
            "film": f"{task.name}.mp4" if exported else "",
            "exported": exported,
        }
    )


def read(out: Path) -> dict[str, FilmRow]:
    """The rows of an earlier run by name; nothing where they cannot be read: they are only notes."""
    try:
        path = out / "summary.json"
        if path.stat().st_size > MAX_BYTES:
            return {}
        return {row.name: row for row in Summary.model_validate_json(path.read_bytes()).films}
    except (OSError, ValidationError):
        return {}


def write(out: Path, rows: Sequence[FilmRow]) -> None:
    data = json.dumps(Summary(films=tuple(rows)).model_dump(mode="json"), indent=1, ensure_ascii=False)
    with disk_errors_explained("the summary"):
        write_atomically(out / "summary.json", data.encode(), point="summary")
        write_atomically(out / "summary.md", markdown(rows).encode(), point="summary")


def markdown(rows: Sequence[FilmRow]) -> str:
    finished = [row for row in rows if row.state == "finished"]
    failed = [row for row in rows if row.error]
    lines = [
        f"{len(finished)} of {len(rows)} films are finished, {sum(row.seconds for row in finished):.1f} s in all"
        f"{f'; {len(failed)} failed' if failed else ''}.",
        "",
        "Colour shift, sharpness and motion are those of the last clip against the picture.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        drift = row.drift
        read_off = [f"{drift.colour_shift:.1f}", f"{drift.sharpness:.2f}", f"{drift.motion:.2f}"] if drift else [""] * 3
        clips = f"{row.clips_done} of {row.clips or '?'}"
        cells = [
            row.name, f"{row.model}, {row.variant}", row.task, row.source or "", clips, str(row.frames),
            f"{row.seconds:.1f}", f"{row.made_in_s:.1f}", *read_off,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if failed:
        lines += ["", *(f"- {row.name}: {plain(row.error)}" for row in failed)]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """An error message as Markdown text: it may hold the names of files."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in " ".join(text.split()))
