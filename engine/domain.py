"""The nouns of the product: what is saved in a project folder and what travels to a backend.

Knows nothing about files, models or screens. Pixels are uint8 RGB (F, H, W, 3).
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    field_validator,
)

from engine.errors import InputError

SCHEMA_VERSION = 1
MAX_CLIPS = 1000
MAX_PROMPT_CHARACTERS = 1000
MAX_NEGATIVE_PROMPT_CHARACTERS = 2000
MAX_SEED = 2**31 - 1
SEED_STRIDE = 42  # upstream seeds clip i with 42·i: equal noise in every clip accumulates artefacts (DevLog)
ID_PATTERN = re.compile(r"^[a-z0-9]{26}$")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
# Control characters of C0 and C1 other than tab and newline, and the bidirectional overrides that make text read as
# something else.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufeff]")


def new_id() -> str:
    """26 characters from [0-9a-z], 134 random bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(26))


def without_controls(text: str) -> str:
    return _FORBIDDEN.sub(" ", text)


def fold(text: str) -> str:
    """`text` on one line, without control characters."""
    return " ".join(without_controls(text).split())


def clean_prompt(text: str) -> str:
    """The prompt with control characters removed and whitespace folded; too long or empty raises `InputError`."""
    if not isinstance(text, str):
        raise InputError(f"A prompt must be text, got {type(text).__name__}.")
    cleaned = fold(text)
    if not cleaned:
        raise InputError("The prompt is empty.", "Write what should happen in this clip.")
    if len(cleaned) > MAX_PROMPT_CHARACTERS:
        raise InputError(
            f"The prompt has {len(cleaned):,} characters; up to {MAX_PROMPT_CHARACTERS:,} are allowed.", "Shorten it."
        )
    return cleaned


def check_num_clips(count: int) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_CLIPS:
        raise InputError(f"The number of clips must be a whole number from 1 to {MAX_CLIPS:,}, got {count}.")
    return count


def check_seed(seed: int) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"The seed must be a whole number from 0 to {MAX_SEED:,}, got {seed}.")
    return seed


@dataclass(frozen=True)
class Resolution:
    """Width and height in pixels, each a multiple of 16."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width % 16 or self.height % 16 or min(self.width, self.height) < 16:
            raise InputError(f"A film's sides must be multiples of 16, got {self.width}×{self.height}.")

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


def nearest_resolution(width: int, height: int, offered: list[Resolution] | tuple[Resolution, ...]) -> Resolution:
    """The offered resolution whose aspect is closest to width:height (compared as a ratio)."""
    aspect = width / height
    return min(offered, key=lambda r: abs(np.log(r.width / r.height / aspect)))


class Saved(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Source = Literal["user", "template", "qwen", "endpoint"]  # who wrote a storyline
Tone = Literal[
    "as the picture", "drama", "comedy", "adventure", "documentary", "suspense", "romance", "dream", "science fiction"
]
Pace = Literal["slow", "steady", "lively"]
# The languages a storyline can be drafted in beside English, by ISO 639-1 code, named as their speakers do.
LANGUAGES = {
    "en": "English", "ar": "العربية", "cs": "Čeština", "de": "Deutsch", "el": "Ελληνικά", "es": "Español",
    "fr": "Français", "he": "עברית", "hi": "हिन्दी", "id": "Bahasa Indonesia", "it": "Italiano", "ja": "日本語",
    "ko": "한국어", "nl": "Nederlands", "pl": "Polski", "pt": "Português", "ru": "Русский", "sv": "Svenska",
    "th": "ไทย", "tr": "Türkçe", "uk": "Українська", "vi": "Tiếng Việt", "zh": "中文",
}  # fmt: skip
Id = Annotated[str, Field(pattern=ID_PATTERN.pattern)]
Prompt = Annotated[str, AfterValidator(clean_prompt)]
Caption = Annotated[str, AfterValidator(lambda text: clean_prompt(text) if fold(text) else "")]
NegativePrompt = Annotated[str, Field(max_length=MAX_NEGATIVE_PROMPT_CHARACTERS)]
WebAddress = Annotated[str, Field(pattern=r"^https://[^\s\x00-\x1f<>\"]+$", max_length=1000)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Clip(Saved):
    """One slot of the storyboard."""

    id: Id = Field(default_factory=new_id)
    prompt: Prompt
    caption: Caption = ""  # what the prompt says, in the creator's own language; the model never reads it
    caption_language: str = Field(default="", max_length=12)  # a key of LANGUAGES, where it is known
    negative_prompt: NegativePrompt | None = None  # None: as the project says
    seed: Seed | None = None
    draft: bool | None = None  # None: as the project says
    pinned_take: Digest | None = None


class Beat(Saved):
    """One clip of a drafted storyline: the prompt in English and, beside it, the same in the creator's language."""

    prompt: Prompt
    caption: Caption = ""


class Storyline(Saved):
    """A drafted prompt stream; accepting it replaces a project's clips."""

    idea: str = ""
    beats: tuple[Beat, ...]
    source: Source

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(beat.prompt for beat in self.beats)


class Telling(Saved):
    """How a storyline is to be told. `language`: of the captions, a key of LANGUAGES; prompts are always English."""

    tone: Tone = "as the picture"
    pace: Pace = "steady"
    language: str = "en"

    @field_validator("language")
    @classmethod
    def _is_offered(cls, value: str) -> str:
        if value not in LANGUAGES:
            raise ValueError(f"the languages are {', '.join(LANGUAGES)}")
        return value


class Credit(Saved):
    """Who made a picture that was found by keywords, and under which licence it may be used."""

    title: str = Field(default="", max_length=300)
    author: str = Field(default="", max_length=300)
    licence: str = Field(min_length=1, max_length=100)
    licence_url: WebAddress | None = None
    page_url: WebAddress | None = None
    source: str = Field(max_length=60)


class Inputs(Saved):
    """Names of files under `inputs/` and their hashes."""

    image: str = Field(pattern=r"^[a-z0-9_-]+\.png$")
    image_sha256: Digest
    original_name: str = ""
    credit: Credit | None = None


class Project(Saved):
    """What the film should be. The takes on disk say what it is."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: Id = Field(default_factory=new_id)
    title: str = Field(default="Untitled film", max_length=200)
    idea: str = Field(default="", max_length=2000)
    variant: Literal["shot", "film"] = "film"
    preset: str
    resolution: Resolution
    seed: Seed = 0
    num_inference_steps: int = Field(ge=1, le=200)
    guidance_scale: float = Field(ge=0.0, le=30.0)
    negative_prompt: NegativePrompt = ""
    lora_strength: float = Field(default=1.0, ge=0.0, le=1.5)
    draft: bool = False  # few steps with the preset's distilled LoRAs, for clips that do not say otherwise
    storyline_source: Source = "user"
    telling: Telling = Telling()
    inputs: Inputs
    clips: tuple[Clip, ...] = ()
    remake_of: Id | None = None  # the project that this one was copied from, to be made by another model
    rev: int = 0

    def clip_index(self, clip_id: str) -> int:
        for index, clip in enumerate(self.clips):
            if clip.id == clip_id:
                return index
        raise InputError("That clip is not in the storyboard any more.", "Reload the page to see the current one.")

    def is_draft(self, index: int) -> bool:
        own = self.clips[index].draft
        return self.draft if own is None else own

    def negative_prompt_of(self, index: int) -> str:
        own = self.clips[index].negative_prompt
        return self.negative_prompt if own is None else own

    def seed_of(self, index: int) -> int:
        clip = self.clips[index]
        return clip.seed if clip.seed is not None else (self.seed + SEED_STRIDE * index) % (MAX_SEED + 1)


@dataclass(frozen=True)
class DriftReading:
    """How a take compares with the anchor; `engine.media.drift` measures it.

    colour_shift, change: CIELAB distance of the last frame from the anchor, and from the take's own first frame.
    sharpness: 1 is as sharp as the anchor. structure: 1 has the anchor's edges, 0 has others. grain: fine noise that
    the anchor has not, as a share of the picture's contrast. motion: share of the edges that move in half a second.
    stirring: the same where most of them move.
    """

    colour_shift: Finite
    sharpness: Finite
    structure: Finite
    grain: Finite
    motion: Finite
    change: Finite
    stirring: Finite = 0.0


def readable_or_none(value: object, validate: Callable[[object], DriftReading | None]) -> DriftReading | None:
    """A reading that makes no sense is no reading: it must not cost the take it stands in."""
    try:
        return validate(value)
    except ValidationError:
        return None


class Take(Saved):
    """One generated result of a clip, committed as a folder named by its digest."""

    digest: Digest
    clip_id: Id
    parent_digest: Digest | None
    prompt: str
    seed: int
    num_frames: int
    overlap: int
    tail_frames: int
    tail_latents: int = 0
    tail_states: int = 0
    draft: bool = False
    width: int
    height: int
    fps: int
    segment_bytes: int
    segment_sha256: Digest
    backend: str
    created: float
    timings: dict[str, float] = {}
    drift: Annotated[DriftReading | None, WrapValidator(readable_or_none)] = None


@dataclass(frozen=True)
class ClipRequest:
    """Everything that determines the pixels of one clip. Picklable.

    anchor: uint8 (H, W, 3), the reference picture. condition_frames: uint8 (n, H, W, 3), n = 1 for the first clip, else
    the variant's motion frames, oldest first. tail_latents: float32 (C, n, h, w), the previous clip's last denoised
    latents where the variant hands those over, else None. draft: sample as the preset's draft settings say. picture:
    uint8 (H, W, 3), the creator's whole picture, of a model that draws from it. tail_states: how the condition frames
    are made of it, arrays of `pocket.motion.Motion`, where clips are composed (`is_composed`); None in the first clip.
    """

    digest: str
    clip_id: str
    index: int
    variant: str
    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    lora_strength: float
    num_frames: int
    overlap: int
    fps: int
    resolution: Resolution
    parent_digest: str | None
    anchor: np.ndarray = field(repr=False)
    condition_frames: np.ndarray = field(repr=False)
    tail_latents: np.ndarray | None = field(default=None, repr=False)
    draft: bool = False
    shift: float = 5.0
    picture: np.ndarray | None = field(default=None, repr=False)
    tail_states: dict[str, np.ndarray] | None = field(default=None, repr=False)
    is_composed: bool = False
