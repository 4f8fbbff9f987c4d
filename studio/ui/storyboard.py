"""The storyboard: an empty list that storyboard.js fills with one card per clip."""

import gradio as gr

from studio.ui.parts import static


def build() -> gr.HTML:
    return static("storyboard", elem_id="storyboard")
