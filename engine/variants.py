"""The SVI variants as rows of data. One loop serves them all.

Values from upstream `scripts/test/svi_shot.sh` and `svi_film.sh`: the mask marks frame 0 only, even with
five motion frames; the first clip is conditioned on one frame in every variant.
"""

from dataclasses import dataclass
from typing import Literal

Padding = Literal["anchor", "zeros"]


@dataclass(frozen=True)
class Variant:
    """What distinguishes one member of the family from another, as far as the loop is concerned."""

    name: str
    title: str
    promise: str
    num_motion_frames: int
    padding: Padding
    guidance_terms: tuple[str, ...]
    prompt_policy: Literal["one", "stream"]


SHOT = Variant(
    name="shot",
    title="Shot",
    promise="one scene that holds still in character: the picture stays the reference of every clip",
    num_motion_frames=1,
    padding="anchor",
    guidance_terms=("text",),
    prompt_policy="one",
)
FILM = Variant(
    name="film",
    title="Film",
    promise="a story that moves on: every clip has its own prompt and continues the last five frames",
    num_motion_frames=5,
    padding="zeros",
    guidance_terms=("text",),
    prompt_policy="stream",
)
VARIANTS = {variant.name: variant for variant in (SHOT, FILM)}
