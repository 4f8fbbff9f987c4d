"""Top bar, player, the row of buttons under it, and what this computer can do."""

from dataclasses import dataclass

import gradio as gr

from studio.ui.parts import static


@dataclass(frozen=True)
class Stage:
    player: gr.HTML
    deck: gr.HTML
    machine: gr.HTML


def build_top(*, random_weights: bool = False) -> gr.HTML:
    """random_weights: pictures will be noise, and nobody may miss it."""
    if random_weights:
        static("random", elem_id="random-mark")
    return static("top", elem_id="topbar")


def build() -> Stage:
    return Stage(
        player=static("player", elem_id="player"),
        deck=static("deck", elem_id="deck"),
        machine=static("machine", elem_id="machine"),
    )
