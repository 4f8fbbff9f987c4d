"""What the panels share: static HTML from `markup/`, handed to the page's own scripts.

Rule S1: a `gr.HTML` template is evaluated as JavaScript, so none here has a placeholder. Data travels as JSON in
`value` and is shown with `textContent`.
"""

from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).resolve().parent


def static(name: str, *, elem_id: str) -> gr.HTML:
    """`markup/<name>.html` as it is, mounted by the part called `name` in the page's scripts."""
    markup = (FOLDER / "markup" / f"{name}.html").read_text(encoding="utf-8")
    if "{{" in markup or "${" in markup:
        raise ValueError(f"{name}.html has a placeholder")
    return gr.HTML(
        html_template=markup,
        js_on_load=f"window.svi.mount('{name}', element, trigger, props, watch);",
        apply_default_css=False,
        elem_id=elem_id,
        padding=False,
    )
