"""The setup panel: picture, keywords, length, variant, quality, and what is folded away under Advanced.

Its fields report to the page's script, which sends changes of an open project like every other edit. Only creating a
project passes through a Gradio event, because the picture arrives as Gradio's upload.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from engine.config import Preset
from engine.domain import MAX_SEED
from engine.story.vocabulary import vocabulary_of
from engine.variants import VARIANTS
from studio.ui.parts import static

DEFAULT_LENGTH = 6
QUALITY = {"fast": "Fast", "balanced": "Balanced", "best": "Best"}


@dataclass(frozen=True)
class Intake:
    image: gr.Image
    keywords: gr.Textbox
    length: gr.Number
    variant: gr.Radio
    quality: gr.Radio
    title: gr.Textbox
    seed: gr.Number
    steps: gr.Number
    negative_prompt: gr.Textbox

    @property
    def restored(self) -> list[gr.components.Component]:
        """The fields that an opened project fills in, in the order of `svi.setupValues`."""
        return [getattr(self, f.name) for f in fields(self) if f.name not in ("image", "title")]


def build(preset: Preset) -> Intake:
    gr.HTML(html_template="<h2>Setup</h2>", js_on_load=None, apply_default_css=False, elem_id="setup-title")
    image = gr.Image(
        label="Reference picture",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=196,
        buttons=[],
        interactive=True,
        elem_id="anchor-image",
    )
    static("notes", elem_id="anchor-shown")
    keywords = gr.Textbox(
        label="Keywords",
        placeholder="an old harbour, evening, storm",
        lines=2,
        max_lines=4,
        max_length=500,
        interactive=True,
        elem_id="keywords",
    )
    length = gr.Number(
        label="Length in clips",
        value=DEFAULT_LENGTH,
        minimum=1,
        maximum=200,
        precision=0,
        interactive=True,
        elem_id="length",
    )
    static("length", elem_id="length-note")
    offered = [(VARIANTS[name].title, name) for name in ("film", "shot") if name in preset.variants]
    variant = gr.Radio(offered, value=offered[0][1], label="Kind", interactive=True, elem_id="variant")
    static("promise", elem_id="variant-note")
    static("model", elem_id="model-choice")
    levels = [(title, name) for name, title in QUALITY.items() if name in preset.quality]
    quality = gr.Radio(
        levels,
        value=_default_quality(preset),
        label="Quality",
        interactive=True,
        elem_id="quality",
        visible=bool(levels),
    )
    static("quality", elem_id="quality-note")
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        title = gr.Textbox(label="Title", max_length=200, interactive=True, elem_id="title")
        seed = gr.Number(
            label="Seed", value=None, minimum=0, maximum=MAX_SEED, precision=0, interactive=True, elem_id="seed"
        )
        steps = gr.Number(
            label="Steps",
            value=preset.quality.get(_default_quality(preset), preset.num_inference_steps),
            minimum=1,
            maximum=200,
            precision=0,
            interactive=True,
            elem_id="steps",
        )
        negative_prompt = gr.Textbox(
            label="Negative prompt",
            value=preset.negative_prompt,
            info="" if preset.guidance_scale != 1.0 else "The embedded model does not use it.",
            lines=2,
            max_length=2000,
            interactive=True,
            elem_id="negative-prompt",
        )
    static("after", elem_id="setup-notes")
    return Intake(image, keywords, length, variant, quality, title, seed, steps, negative_prompt)


def _default_quality(preset: Preset) -> str | None:
    named = {steps: name for name, steps in preset.quality.items()}
    return named.get(preset.num_inference_steps, next(iter(preset.quality), None))


# What the page's script calls a field, and the setting it changes in an open project.
SETTINGS = {
    "keywords": "keywords",
    "length": "length",
    "variant": "variant",
    "quality": "quality",
    "title": "title",
    "seed": "seed",
    "steps": "num_inference_steps",
    "negative_prompt": "negative_prompt",
}


def bind(panel: Intake) -> None:
    """Report every field to the page's script; nothing here reaches the server."""
    panel.image.change(fn=None, inputs=panel.image, js="(value) => { window.svi.fieldChanged('image', value); }")
    for field, setting in SETTINGS.items():
        component = getattr(panel, field)
        component.change(fn=None, inputs=component, js=f"(value) => {{ window.svi.fieldChanged('{setting}', value); }}")
        component.input(fn=None, inputs=component, js=f"(value) => {{ window.svi.fieldEdited('{setting}', value); }}")


def setup(
    preset: Preset, *, machine: str, seconds_a_clip: Mapping[str, float | None], examples: list[dict]
) -> dict[str, Any]:
    """What the page must know before there is a project, as plain data. `seconds_a_clip`: measured, by quality."""
    vocabulary = vocabulary_of(preset)
    return {
        "welcome": "",
        "machine": machine,
        "model": preset.title,
        "num_frames": preset.num_frames,
        "fps": preset.fps,
        "variants": [
            {"name": v.name, "title": v.title, "promise": v.promise, "num_motion_frames": v.num_motion_frames}
            for v in VARIANTS.values()
            if v.name in preset.variants
        ],
        "quality": [
            {"name": name, "steps": steps, "seconds": seconds_a_clip.get(name)}
            for name, steps in preset.quality.items()
        ],
        "vocabulary": [
            {"name": a.name, "kind": a.kind, "phrases": list(a.phrases), "keywords": list(a.keywords)}
            for a in (vocabulary.actions if vocabulary else ())
        ],
        "examples": examples,
        "defaults": {"length": DEFAULT_LENGTH, "quality": _default_quality(preset)},
    }
