"""`spaces.yaml` → the front matter of README.md, which is all that Hugging Face reads.

`python -m studio.deploy render` writes the block at the top of README.md; `check` exits with 1 when it differs.
"""

import argparse
import sys
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.config import ROOT, preset_names, read_yaml, validated
from engine.errors import ConfigError, StudioError, nearest
from engine.media.atomic import replacing

FENCE = "---\n"
Colour = Literal["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
HARDWARE = (  # flavours in huggingface_hub 2.4
    "cpu-basic",
    "cpu-upgrade",
    "zero-a10g",
    "t4-small",
    "t4-medium",
    "l4x1",
    "l4x4",
    "l40sx1",
    "l40sx4",
    "l40sx8",
    "a10g-small",
    "a10g-large",
    "a10g-largex2",
    "a10g-largex4",
    "a100-large",
    "a100x4",
    "a100x8",
    "rtx-pro-6000",
    "rtx-pro-6000x2",
    "rtx-pro-6000x4",
    "rtx-pro-6000x8",
)


class Card(BaseModel):
    """The keys Spaces reads (its configuration reference), as far as this Space may use them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(min_length=1, max_length=100)
    emoji: str = Field(min_length=1, max_length=4)
    colorFrom: Colour
    colorTo: Colour
    sdk: Literal["gradio"]
    sdk_version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    python_version: str
    app_file: str
    license: str
    short_description: str = Field(max_length=60)
    suggested_hardware: str
    startup_duration_timeout: str = Field(pattern=r"^\d+[mh]$")
    tags: list[str] = []
    models: list[str] = []
    datasets: list[str] = []
    pinned: bool = False
    hf_oauth: bool = False
    disable_embedding: bool = False
    fullWidth: bool = True
    header: Literal["mini", "default"] = "default"
    preload_from_hub: list[str] = []

    @field_validator("suggested_hardware")
    @classmethod
    def _hardware_exists(cls, value: str) -> str:
        return known_hardware(value)


class Space(BaseModel):
    """All of spaces.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    card: Card
    hardware: str
    presets: dict[str, str]
    volumes: list[dict[str, str]] = []
    variables: dict[str, str] = {}
    secrets: list[str] = []

    @field_validator("hardware")
    @classmethod
    def _hardware_exists(cls, value: str) -> str:
        return known_hardware(value)

    @field_validator("presets")
    @classmethod
    def _presets_exist(cls, value: dict[str, str]) -> dict[str, str]:
        for hardware, preset in value.items():
            known_hardware(hardware)
            if preset not in preset_names():
                raise ValueError(f"there is no preset “{preset}”. {nearest(preset, preset_names())}")
        return value


def known_hardware(name: str) -> str:
    if name not in HARDWARE:
        raise ValueError(f"there is no hardware “{name}”. {nearest(name, HARDWARE)}")
    return name


def load(path: Path = ROOT / "spaces.yaml") -> Space:
    """The Space that `path` describes; an unknown key or a wrong value raises `ConfigError`."""
    return validated(Space, read_yaml(path), path.name)


def front_matter(space: Space) -> str:
    """The block between the two fences, fences included."""
    card = space.card.model_dump(exclude_unset=True)
    return FENCE + yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=1000) + FENCE


def rendered(readme: str, space: Space) -> str:
    """`readme` with its front matter replaced, or put in front when it has none."""
    body = readme
    if readme.startswith(FENCE):
        end = readme.find("\n" + FENCE, len(FENCE) - 1)
        if end < 0:
            raise ConfigError(
                "The block at the top of README.md does not end.", "Close it with a line of three dashes."
            )
        body = readme[end + 1 + len(FENCE) :]
    return front_matter(space) + ("" if body.startswith("\n") or not body else "\n") + body


def check(readme: str, space: Space) -> None:
    """Raise `ConfigError` unless `readme` starts with the front matter of `space`."""
    if not readme.startswith(front_matter(space)):
        raise ConfigError("README.md and spaces.yaml differ.", "Run: python -m studio.deploy render")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m studio.deploy", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("render", "check"))
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--space", type=Path, default=ROOT / "spaces.yaml")
    options = parser.parse_args(argv)
    try:
        space = load(options.space)
        readme = options.readme.read_text(encoding="utf-8") if options.readme.exists() else ""
        if options.command == "check":
            check(readme, space)
        else:
            with replacing(options.readme) as part:
                part.write_text(rendered(readme, space), encoding="utf-8")
    except StudioError as err:
        print(err, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
