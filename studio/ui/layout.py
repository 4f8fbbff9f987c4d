"""The one screen: top bar, setup beside the player, storyboard below; or the Lab. Puts the panels together."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from engine.domain import Resolution
from engine.errors import StudioError
from studio import dial, drafting, pictures
from studio.actions import bugs_explained
from studio.routes import PREFIX
from studio.ui import intake, stage, storyboard, theme
from studio.ui.parts import FOLDER, static

if TYPE_CHECKING:
    from studio import Studio

SCRIPTS = (
    "page.js",
    "remake.js",
    "player.js",
    "quality.js",
    "story.js",
    "pictures.js",
    "storyboard.js",
    "machine.js",
    "lab.js",
)
STYLES = ("style.css", "story.css", "lab.css")
TITLE = "Stable Video Infinity Studio"

# Carries JSON in as `value` and the page's private events out. Its template is empty for good (rule S1).
BRIDGE = """
const events = ["create", "example", "restore", "refresh"];
window.svi.mount("bridge", element, trigger, props, watch);
"""


def build(studio: "Studio", *, api: "Callable[[Studio], object] | None" = None) -> tuple[gr.Blocks, dict[str, Any]]:
    """The page, and the arguments of `launch()` that belong to it. `api` may add public endpoints of its own."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        stage.build_top(random_weights=studio.preset.random_weights)
        with gr.Row(elem_id="bench", equal_height=False):
            with gr.Column(elem_id="setup", scale=0, min_width=320):
                panel = intake.build(studio.preset, finds_pictures=studio.actions.pictures is not None)
            with gr.Column(elem_id="stage", scale=1):
                stage.build()
        storyboard.build()
        static("lab", elem_id="lab")
        bridge = gr.HTML(html_template="<i></i>", js_on_load=BRIDGE, apply_default_css=False, elem_id="bridge")
        intake.bind(panel)
        bind(studio, page, bridge, panel)
        if api:
            api(studio)
    return page, {"theme": theme.build(), "head": head()}


def bind(studio: "Studio", page: gr.Blocks, bridge: gr.HTML, panel: intake.Intake) -> None:
    """The private events: what needs Gradio's upload or fills Gradio's fields."""

    def welcome() -> dict[str, Any]:
        return {"setup": setup(studio)}

    def create(
        event: gr.EventData,
        picture: str | None,
        keywords: str,
        variant: str,
        size: str | None,
        quality: str,
        title: str,
        seed: float | None,
        steps: float | None,
        negative_prompt: str,
    ) -> dict[str, Any]:
        def make() -> Any:
            touched = set(getattr(event, "touched", None) or ())  # an untouched number field may hold 0
            found = str(getattr(event, "found", ""))[:200]
            return studio.actions.create(
                str(getattr(event, "owner", "")),
                None if found else picture,
                keywords=keywords or "",
                variant=variant,
                preset=str(getattr(event, "model", ""))[:64],
                quality=quality or "",
                title=title or "",
                seed=int(seed) if "seed" in touched and seed is not None else None,
                num_inference_steps=int(steps) if "num_inference_steps" in touched and steps is not None else None,
                negative_prompt=negative_prompt or "",
                hd=size == "hd",
                original_name="" if found else str(getattr(event, "name", ""))[:200],
                found_id=found,
            )

        return answer(event, make)

    def example(event: gr.EventData) -> dict[str, Any]:
        return answer(
            event,
            lambda: studio.actions.open_example(str(getattr(event, "owner", "")), str(getattr(event, "name", ""))),
            drafted=True,
        )

    private = {"api_visibility": "private", "show_progress": "hidden"}
    fields = [
        panel.image,
        panel.keywords,
        panel.variant,
        panel.size,
        panel.quality,
        panel.title,
        panel.seed,
        panel.steps,
        panel.negative_prompt,
    ]
    page.load(welcome, outputs=bridge, **private)
    failed = "() => { window.svi.created(null); }"  # Gradio itself refused, for example a file that is no picture
    bridge.create(create, inputs=fields, outputs=bridge, trigger_mode="once", **private).failure(fn=None, js=failed)
    bridge.example(example, outputs=bridge, trigger_mode="once", **private).failure(fn=None, js=failed)
    bridge.refresh(welcome, outputs=bridge, **private)
    bridge.restore(fn=None, js="() => window.svi.setupValues()", outputs=panel.restored)


def answer(event: gr.EventData, make: "Callable[[], Any]", *, drafted: bool = False) -> dict[str, Any]:
    """The created project, or the error in words. `nonce` makes two equal answers differ, so that both arrive."""
    nonce = str(getattr(event, "nonce", ""))
    try:
        with bugs_explained("making the project"):
            created = make()
    except StudioError as err:
        return {"answer": {"nonce": nonce, "message": err.message, "hint": err.hint}}
    return {"answer": {"nonce": nonce, "project_id": created.project_id, "token": created.token, "drafted": drafted}}


def setup(studio: "Studio") -> dict[str, Any]:
    preset = studio.preset
    examples = [
        {"name": e.name, "title": e.title, "poster_url": f"{PREFIX}/examples/{e.name}/poster" if e.poster else None}
        for e in studio.actions.examples()
    ]
    measured = partial(seconds_a_clip, studio)
    story = drafting.setup(studio.actions.drafting, preset)
    found_at = pictures.setup(studio.config)
    return intake.setup(
        preset,
        machine=studio.actions.machine(),
        seconds_a_clip=measured,
        examples=examples,
        story=story,
        pictures=found_at,
    )


def seconds_a_clip(studio: "Studio", level: str, resolution: Resolution) -> float | None:
    """Measured seconds that a clip of this quality and size takes, None where nothing has been measured yet."""
    preset, steps = studio.preset, dial.levels(studio.preset)[level]
    return studio.queue.paces.at(preset.name, resolution, steps, draft=level == dial.DRAFT).clip_s(steps)


def head() -> str:
    """Styles and scripts inline: nothing is fetched, and they are there before the first component mounts."""
    css = theme.variables() + "".join((FOLDER / name).read_text(encoding="utf-8") for name in STYLES)
    scripts = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    if "</style" in css or "</script" in scripts:
        raise ValueError("a style or script would end its own element")
    return f"<style>{css}</style>\n<script>{scripts}</script>"
