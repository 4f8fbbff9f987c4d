"""The setup panel: picture, keywords, length, variant, size, quality, and what is folded away under Advanced.

Its fields report to the page's script, which sends changes of an open project like every other edit. Only creating a
project passes through a Gradio event, because the picture arrives as Gradio's upload.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from engine.config import Preset
from engine.domain import MAX_SEED, Resolution
from engine.story.vocabulary import vocabulary_of
from engine.variants import Variant
from studio import dial, moves
from studio.machine import offered_sizes
from studio.ui.parts import static

DEFAULT_LENGTH = 6
ONLY_AT_THE_START = ("image", "title", "size")  # what an opened project shows elsewhere, or not at all


@dataclass(frozen=True)
class Intake:
    image: gr.Image
    keywords: gr.Textbox
    length: gr.Number
    variant: gr.Radio
    size: gr.Radio
    quality: gr.Radio
    title: gr.Textbox
    seed: gr.Number
    steps: gr.Number
    negative_prompt: gr.Textbox

    @property
    def restored(self) -> list[gr.components.Component]:
        """The fields that an opened project fills in, in the order of `svi.setupValues`."""
        return [getattr(self, f.name) for f in fields(self) if f.name not in ONLY_AT_THE_START]


def build(preset: Preset, *, finds_pictures: bool = False) -> Intake:
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
    if finds_pictures:
        static("pictures", elem_id="find-pictures")
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
    static("telling", elem_id="telling")
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
    kinds = [(row.title, row.name) for row in offered(preset)]
    variant = gr.Radio(kinds, value=kinds[0][1], label="Kind", interactive=True, elem_id="variant")
    static("promise", elem_id="variant-note")
    static("model", elem_id="model-choice")
    sizes = offered_sizes(preset) if preset.hd_resolutions else {}
    size = gr.Radio(
        [(f"{min(offered[0].width, offered[0].height)}p", name) for name, offered in sizes.items()],
        value="sd" if sizes else None,
        label="Size",
        interactive=True,
        elem_id="size",
        visible=bool(sizes),
    )
    static("size", elem_id="size-note")
    levels = [(dial.TITLES[name], name) for name in dial.levels(preset)]
    quality = gr.Radio(
        levels,
        value=dial.default_level(preset),
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
            value=preset.quality.get(dial.default_level(preset), preset.num_inference_steps),
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
    return Intake(image, keywords, length, variant, size, quality, title, seed, steps, negative_prompt)


def offered(preset: Preset) -> list[Variant]:
    """The kinds of film that the preset makes, each as the method that makes it here describes it."""
    return [preset.variant(name) for name in ("film", "shot") if name in preset.variants]


# What the page's script calls a field, and the setting it changes in an open project.
SETTINGS = {
    "keywords": "keywords",
    "length": "length",
    "variant": "variant",
    "size": "size",
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


SecondsAClip = Callable[[str, Resolution], float | None]  # of a quality at a size; None: never measured


def setup(
    preset: Preset,
    *,
    machine: dict[str, Any],
    seconds_a_clip: SecondsAClip,
    examples: list[dict],
    story: dict[str, object],
    pictures: dict[str, object],
) -> dict[str, Any]:
    """What the page must know before there is a project, as plain data."""
    return {
        "machine": machine,
        "model": preset.title,
        "num_frames": preset.num_frames,
        "fps": preset.fps,
        "variants": [
            {"name": row.name, "title": row.title, "promise": row.promise, "num_motion_frames": row.num_motion_frames}
            for row in offered(preset)
        ],
        "sizes": {name: [str(size) for size in sizes] for name, sizes in offered_sizes(preset).items()},
        "quality": [
            {
                "name": name,
                "steps": steps,
                "about": dial.about(preset, name),
                "seconds": {size: seconds_a_clip(name, sizes[0]) for size, sizes in offered_sizes(preset).items()},
            }
            for name, steps in dial.levels(preset).items()
        ],
        "vocabulary": moves.offered(vocabulary_of(preset)),
        "examples": examples,
        "story": story,
        "pictures": pictures,
        "negative_prompts": preset.guidance_scale != 1.0,
        "defaults": {
            "length": DEFAULT_LENGTH,
            "quality": dial.default_level(preset),
            "variant": offered(preset)[0].name,
            "size": "sd",
            "num_inference_steps": preset.num_inference_steps,
        },
    }
