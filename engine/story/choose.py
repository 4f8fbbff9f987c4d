"""Which drafter writes the storylines here, and why: what is configured, else what fits the machine, else templates.

Knows files and figures only; the model stack and the network are reached when a drafter is opened.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.config import Config, Preset
from engine.domain import Source
from engine.errors import ConfigError
from engine.story.drafter import StorylineDrafter
from engine.story.template import TemplateDrafter
from engine.tiers import Machine


@dataclass(frozen=True)
class QwenModel:
    """A Qwen-VL model in a folder of this machine, and how it is loaded. Picklable."""

    folder: Path
    title: str
    precision: Literal["bfloat16", "float32", "4-bit"]
    device: Literal["auto", "cuda", "cpu"] = "auto"


@dataclass(frozen=True)
class Choice:
    """A drafter that can be used here. why: one sentence for the page; hint: what would make a better one possible.

    qwen: the model to load, for that source alone.
    """

    source: Source
    title: str
    why: str
    hint: str = ""
    qwen: QwenModel | None = None


TEMPLATES = Choice("template", "Templates", "No language model is set up here; templates need none.")


def choose(config: Config, preset: Preset, machine: Machine | None) -> Choice:
    """The drafter for `preset` on `machine` (None: not looked at yet). Raises `ConfigError` when what is configured
    cannot be used."""
    if config.drafter in ("qwen", "endpoint"):
        raise ConfigError(f"The drafter “{config.drafter}” is not set up.", "Use templates.")
    return TEMPLATES


def open_drafter(choice: Choice, config: Config) -> StorylineDrafter:
    return TemplateDrafter()


def offered(config: Config, preset: Preset, machine: Machine | None) -> tuple[Choice, ...]:
    """Every drafter that can be used here, the chosen one first; templates are always among them."""
    chosen = choose(config, preset, machine)
    return (chosen,) if chosen.source == "template" else (chosen, TEMPLATES)
