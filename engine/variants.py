"""The members of the SVI family as rows of data. One loop serves them all.

A creator chooses a variant, Shot or Film; a preset says by which published method it is made. What a LoRA was trained
with cannot be mixed: motion frames, padding, hand-over, boundary, shift and the names of its files are one row.

Values from upstream `scripts/test/*.sh` and, for Wan 2.2, `inference_svi_2.0.py` and `inference_svi_2.0_pro.py`. The
mask marks frame 0 only, even with five motion frames; the first clip is conditioned on one frame in every method.
"""

from dataclasses import dataclass, replace
from typing import Literal

Padding = Literal["anchor", "zeros"]
Base = Literal["wan2.1", "wan2.2"]


@dataclass(frozen=True)
class Variant:
    """What distinguishes one member of the family from another, as far as the loop is concerned.

    num_motion_frames: frames that neighbouring clips share; they are trimmed from the later clip's head.
    num_motion_latents: latent frames handed over without decoding, 0 where pixel frames are (SVI 2.0 Pro). Its clips
    begin with the anchor and the handed-over frames, 1 + 4 n frames that are trimmed.
    boundary: sigma below which the low-noise expert takes over (Wan 2.2). clips_per_prompt: how often upstream's script
    uses each prompt. lora_files: published file names, of the high-noise expert where there are two.
    """

    name: str
    method: str
    title: str
    promise: str
    num_motion_frames: int
    padding: Padding
    guidance_terms: tuple[str, ...]
    prompt_policy: Literal["one", "stream"]
    base: Base = "wan2.1"
    num_motion_latents: int = 0
    boundary: float | None = None
    shift: float = 5.0
    clips_per_prompt: int = 1
    lora_files: tuple[str, ...] = ()
    low_noise_lora_files: tuple[str, ...] = ()


SHOT = Variant(
    name="shot",
    method="svi-shot",
    title="Shot",
    promise="one scene that holds still in character: the picture stays the reference of every clip",
    num_motion_frames=1,
    padding="anchor",
    guidance_terms=("text",),
    prompt_policy="one",
    lora_files=("svi-shot.safetensors", "svi-shot_lora_rank_128_fp16.safetensors"),
)
FILM = Variant(
    name="film",
    method="svi-film",
    title="Film",
    promise="a story that moves on: every clip has its own prompt and continues the last five frames",
    num_motion_frames=5,
    padding="zeros",
    guidance_terms=("text",),
    prompt_policy="stream",
    lora_files=(
        "svi-film.safetensors",
        "svi-film-opt-10212025.safetensors",
        "svi-film-transitions.safetensors",
        "svi-film_lora_rank_128_fp16.safetensors",
        "svi-film-opt-10212025_lora_rank_128_fp16.safetensors",
        "svi-film-transitions_lora_rank_128_fp16.safetensors",
    ),
)
TOM = Variant(
    name="film",
    method="svi-tom",
    title="Film, Tom & Jerry",
    promise="a cartoon that moves on: every clip has its own prompt and continues the last frame",
    num_motion_frames=1,
    padding="zeros",
    guidance_terms=("text",),
    prompt_policy="stream",
    lora_files=("svi-tom.safetensors", "svi-tom_lora_rank_128_fp16.safetensors"),
)
SVI_2 = Variant(
    name="film",
    method="svi-2.0",
    title="Film, SVI 2.0",
    promise="a story that moves on and keeps your picture in sight: the last five frames, then the picture",
    num_motion_frames=5,
    padding="anchor",
    guidance_terms=("text",),
    prompt_policy="stream",
    clips_per_prompt=2,
    lora_files=("SVI_Wan2.1-I2V-14B_lora_v2.0.safetensors", "SVI_Wan2.1-I2V-14B_lora_v2.0_rank_128_fp16.safetensors"),
)
SVI_2_WAN22 = Variant(
    name="film",
    method="svi-2.0-wan2.2",
    title="Film, SVI 2.0 on Wan 2.2",
    promise="a story that moves on and keeps your picture in sight: the last frame, then the picture",
    num_motion_frames=1,
    padding="anchor",
    guidance_terms=("text",),
    prompt_policy="stream",
    base="wan2.2",
    boundary=0.875,  # diffusers' converter writes 0.9 into the checkpoint
    lora_files=(
        "SVI_Wan2.2-I2V-A14B_high_noise_lora_v2.0.safetensors",
        "SVI_v2_Wan2.2-I2V-A14B_HIGH_lora_rank_128_fp16.safetensors",
    ),
    low_noise_lora_files=(
        "SVI_Wan2.2-I2V-A14B_low_noise_lora_v2.0.safetensors",
        "SVI_v2_Wan2.2-I2V-A14B_LOW_lora_rank_128_fp16.safetensors",
    ),
)
SVI_2_PRO = Variant(
    name="film",
    method="svi-2.0-pro",
    title="Film, SVI 2.0 Pro",
    promise="a story that moves on without a seam: each clip continues the latents of the one before",
    num_motion_frames=5,  # frame 0 is the anchor, frames 1 to 4 repeat the handed-over latent frame
    padding="zeros",  # in normalised latent space, unlike every other row
    guidance_terms=("text",),
    prompt_policy="stream",
    base="wan2.2",
    num_motion_latents=1,
    boundary=0.875,
    lora_files=(
        "SVI_Wan2.2-I2V-A14B_high_noise_lora_v2.0_pro.safetensors",
        "SVI_v2_PRO_Wan2.2-I2V-A14B_HIGH_lora_rank_128_fp16.safetensors",
    ),
    low_noise_lora_files=(
        "SVI_Wan2.2-I2V-A14B_low_noise_lora_v2.0_pro.safetensors",
        "SVI_v2_PRO_Wan2.2-I2V-A14B_LOW_lora_rank_128_fp16.safetensors",
    ),
)
VARIANTS = {variant.name: variant for variant in (SHOT, FILM)}
METHODS = {row.method: row for row in (SHOT, FILM, TOM, SVI_2, SVI_2_WAN22, SVI_2_PRO)}


def composed(row: Variant) -> Variant:
    """The row where clips are composed to the picture: what has been done to it is known, so no padding shows the way
    back to it. Told of it, Shot's moves faded in long films of the embedded model (docs/log.md)."""
    return replace(row, padding="zeros")


def trained_for(lora_file: str) -> tuple[Variant, Literal["high", "low"]] | None:
    """The row, and the expert of it, that the published LoRA of this file name was trained for; None if unknown."""
    for row in METHODS.values():
        if lora_file in row.lora_files:
            return row, "high"
        if lora_file in row.low_noise_lora_files:
            return row, "low"
    return None
