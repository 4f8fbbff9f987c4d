"""The weights that the studio knows, read from `assets/weights.yaml`: where they come from and what they are for."""

from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from engine.config import ASSETS, Settings, read_yaml, validated
from engine.errors import ConfigError, nearest
from engine.variants import Base

Layout = Literal["diffusers", "transformers", "wan", "lora-upstream", "lora-comfy", "onnx", "pickle"]
Part = Literal[
    "transformer",
    "transformer_2",
    "vae",
    "text_encoder",
    "tokenizer",
    "image_encoder",
    "audio_encoder",
    "audio_adapter",
]
SHA256 = r"^[0-9a-f]{64}$"


class WeightsFile(Settings):
    """One row of an entry: a file of the repository, or every file of a folder that fits a pattern with *."""

    path: str = Field(pattern=r"^[\w.*-]+(/[\w.*-]+)*$")
    part: Part | None = None
    size: int | None = Field(None, gt=0)
    sha256: str | None = Field(None, pattern=SHA256)
    note: str = ""

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if {".", ".."} & set(value.split("/")):
            raise ValueError(f"a path may not climb; got {value}")
        return value

    @property
    def is_pattern(self) -> bool:
        return "*" in self.path

    def fits(self, path: str) -> bool:
        """True when `path` is this file, or lies in the pattern's own folder and fits it."""
        folder, _, name = path.rpartition("/")
        own_folder, _, pattern = self.path.rpartition("/")
        return folder == own_folder and fnmatchcase(name, pattern) and "\\" not in name


def _as_row(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class Entry(Settings):
    """One thing to download: some files of one repository on the Hub."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    title: str
    use: str
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "main"
    layout: Layout
    base: Base | None = None
    licence: str
    licence_source: str = Field(pattern=r"^https://")
    about_bytes: int | None = Field(None, gt=0)
    note: str = ""
    files: tuple[Annotated[WeightsFile, BeforeValidator(_as_row)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_whole(self) -> "Entry":
        if self.is_lora and self.base is None:
            raise ValueError(f"{self.id} is a LoRA and must name its base")
        if len({row.path for row in self.files}) != len(self.files):
            raise ValueError(f"{self.id} names a file twice")
        return self

    @property
    def is_lora(self) -> bool:
        return self.layout.startswith("lora")

    @property
    def is_commit(self) -> bool:
        """True when `revision` can never mean other files tomorrow."""
        return len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")

    def key(self, path: str) -> str:
        """Where the file lies below the models folder, which is also its name in the lock file."""
        return f"{self.repo}/{path}"

    def part(self, row: WeightsFile) -> str | None:
        """The part of the model that a row belongs to; in diffusers' layout, its folder."""
        if row.part or self.layout != "diffusers" or "/" not in row.path:
            return row.part
        return row.path.split("/")[0]

    def row(self, path: str) -> WeightsFile | None:
        """The row that a file of the repository belongs to, if any."""
        return next((row for row in self.files if row.fits(path)), None)


class Manifest(Settings):
    entries: tuple[Entry, ...]

    @field_validator("entries")
    @classmethod
    def _ids_are_unique(cls, value: tuple[Entry, ...]) -> tuple[Entry, ...]:
        ids = [entry.id for entry in value]
        twice = {id_ for id_ in ids if ids.count(id_) > 1}
        if twice:
            raise ValueError(f"the id {min(twice)} is given twice")
        return value

    def entry(self, id_: str) -> Entry:
        for entry in self.entries:
            if entry.id == id_:
                return entry
        raise ConfigError(f"There are no weights called “{id_}”.", nearest(id_, [entry.id for entry in self.entries]))


def load_manifest(path: Path) -> Manifest:
    return validated(Manifest, read_yaml(path), path.name)


@cache
def manifest() -> Manifest:
    """The manifest that ships with the studio."""
    return load_manifest(ASSETS / "weights.yaml")
