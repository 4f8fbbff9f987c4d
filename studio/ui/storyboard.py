"""The storyboard: an empty list that storyboard.js fills with one card per clip."""

import gradio as gr

from studio.ui.parts import static

BOARD = """
<section class="board" aria-label="Storyboard">
  <div class="board-head">
    <h2>Storyboard</h2>
    <span class="dim" data-at="count"></span>
    <div class="board-moves" hidden>
      <span class="dim" data-at="boardMovesTitle">The embedded model knows these moves:</span>
      <div class="chips" data-at="boardMoves"></div>
    </div>
  </div>
  <p class="no-cards" data-at="noCards">Your clips appear here: a prompt each, to edit, move, add and remove.</p>
  <ol class="cards" data-at="cards" role="list"></ol>
  <div class="end" data-at="end" hidden>
    <span class="dim">Go on from the last clip</span>
    <button type="button" class="plain small" data-extend="1">+1</button>
    <button type="button" class="plain small" data-extend="5">+5</button>
    <button type="button" class="plain small" data-extend="10">+10</button>
    <button type="button" class="plain small" data-extend="forever">Until I stop</button>
    <button type="button" class="quiet small" data-at="endAdd"></button>
  </div>
</section>
"""


def build() -> gr.HTML:
    return static("storyboard", BOARD, elem_id="storyboard")
