"""Top bar, player and the row of buttons under it."""

from dataclasses import dataclass

import gradio as gr

from studio.ui.parts import static

TOP = """
<header class="top">
  <h1 class="brand"><span class="mark" aria-hidden="true"></span><span>Stable Video Infinity</span> <em>Studio</em></h1>
  <div class="title-field" data-at="titleField" hidden>
    <input type="text" data-at="title" maxlength="200" aria-label="Title of the film" spellcheck="false" autocomplete="off">
    <span class="saved" data-at="saved"></span>
  </div>
  <span class="work" data-at="work" hidden></span>
  <nav class="top-actions" aria-label="Film">
    <button type="button" class="quiet" data-at="newFilm" hidden>New film</button>
    <button type="button" class="quiet" data-at="share" hidden><span>Share</span></button>
    <a class="plain" id="download" data-at="download" hidden><span>Download film</span></a>
    <button type="button" class="plain" id="export" hidden><span data-at="exportLabel">Export</span></button>
    <button type="button" class="quiet round" data-at="theme" aria-label="Switch between light and dark"></button>
    <button type="button" class="quiet round" data-at="keys" aria-label="Keys" title="Keys (?)"></button>
  </nav>
</header>
<p class="banner" id="banner" data-at="banner" role="alert" hidden></p>
<p class="unseen" id="announcer" data-at="announcer" role="status" aria-live="polite"></p>
<div class="toast" data-at="toast" hidden><span data-at="toastText"></span> <button type="button" class="plain small" data-at="undo">Undo</button></div>
"""

PLAYER = """
<section class="player" aria-label="Player">
  <div class="frame" data-at="frame">
    <video data-at="video" playsinline muted preload="auto" aria-label="Your film"></video>
    <canvas data-at="still" class="still" aria-hidden="true" hidden></canvas>
    <div class="cover" data-at="cover">
      <img data-at="coverImage" alt="" hidden>
      <div class="welcome" data-at="welcome">
        <h2>One picture, a film that keeps going</h2>
        <ol class="steps">
          <li><strong>Drop a picture.</strong> It is the first frame. Keywords are optional.</li>
          <li><strong>Draft the storyline.</strong> One prompt a clip, all of them yours to edit.</li>
          <li><strong>Generate.</strong> Each clip plays as soon as it is done. Extend as long as you like.</li>
        </ol>
        <div class="examples" data-at="examples" hidden>
          <h3>Or open an example</h3>
          <div class="example-list" data-at="exampleList"></div>
        </div>
        <div class="recent" data-at="recent" hidden>
          <h3>Your films</h3>
          <ul class="recent-list" data-at="recentList"></ul>
        </div>
      </div>
    </div>
    <p class="note" data-at="note" hidden></p>
    <button type="button" class="quiet round corner" data-at="corner" aria-label="Close the small player"></button>
  </div>
  <div class="controls">
    <button type="button" class="quiet round" data-at="play" aria-label="Play the film" disabled></button>
    <span class="timecode"><span data-at="time">0:00.0</span> <span class="dim" data-at="total"></span></span>
    <div class="track" data-at="track">
      <div class="parts" data-at="parts" aria-hidden="true"></div>
      <input type="range" data-at="scrub" min="0" max="1" step="0.01" value="0" aria-label="Position in the film" disabled>
    </div>
    <button type="button" class="quiet round" data-at="mute" aria-label="Unmute" disabled></button>
    <button type="button" class="quiet round" data-at="full" aria-label="Full screen" disabled></button>
  </div>
  <p class="legend" data-at="legend"></p>
</section>
"""

DECK = """
<div class="deck">
  <div class="deck-words">
    <p class="message" data-at="message"></p>
    <p class="reason" id="primary-reason" data-at="reason"></p>
  </div>
  <div class="deck-actions">
    <button type="button" class="plain" id="stop" hidden><span data-at="stopLabel">Stop</span></button>
    <button type="button" class="plain" id="extend" aria-haspopup="menu" aria-expanded="false" hidden><span data-at="extendLabel">Extend</span></button>
    <button type="button" class="accent" id="primary" aria-describedby="primary-reason" aria-disabled="true"><span data-at="primaryLabel">Draft storyline</span></button>
  </div>
  <div class="problem" id="problem" data-at="problem" role="alert" hidden></div>
  <div class="phone-tabs" role="group" aria-label="Show">
    <button type="button" data-tab="setup" aria-pressed="true">Setup</button>
    <button type="button" data-tab="story" aria-pressed="false">Story</button>
  </div>
</div>
"""

MACHINE = """
<div class="machine">
  <h3>What this computer can do</h3>
  <p class="under" data-at="machine"></p>
  <div data-at="moves" hidden>
    <p class="under">The embedded model knows these moves:</p>
    <div class="chips" data-at="moveList"></div>
  </div>
</div>
"""


@dataclass(frozen=True)
class Stage:
    player: gr.HTML
    deck: gr.HTML
    machine: gr.HTML


def build_top() -> gr.HTML:
    return static("top", TOP, elem_id="topbar")


def build() -> Stage:
    return Stage(
        player=static("player", PLAYER, elem_id="player"),
        deck=static("deck", DECK, elem_id="deck"),
        machine=static("machine", MACHINE, elem_id="machine"),
    )
