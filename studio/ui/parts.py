"""What the panels share: static HTML, handed to the page's own scripts.

Rule S1: a `gr.HTML` template is evaluated as JavaScript, so none here has a placeholder. Data travels as JSON in `value`
and is shown with `textContent`.
"""

from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).resolve().parent


def static(name: str, markup: str, *, elem_id: str, classes: str = "") -> gr.HTML:
    """`markup` as it is, mounted by the part called `name` in the page's scripts."""
    if "{{" in markup or "${" in markup:
        raise ValueError(f"the markup of {name} has a placeholder")
    return gr.HTML(
        html_template=markup,
        js_on_load=f"window.svi.mount('{name}', element, trigger, props, watch);",
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes=classes.split(),
        padding=False,
    )
