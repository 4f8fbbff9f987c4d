"""The figures behind the pocket model's vocabulary: `python -m engine bench pocket --sheet FILE.png`."""

from pathlib import Path

import numpy as np

from engine.config import ROOT, Preset
from engine.errors import ConfigError
from engine.evaluation import sentences
from engine.pocket import codec, gates, world
from engine.pocket.model import load_components
from engine.pocket.motion import Motion

SENTENCES = ROOT / "tests" / "engine" / "pocket"  # lists of them, each by another author
WRONG_GATE = 0.02  # of the free sentences
NUM_FRAMES = 25  # of the clips that sentences are tried on: what is asked for does not depend on it
SENTENCE_SIZE = (192, 288)


def run(preset: Preset, *, sheet: Path | None = None) -> dict:
    """`gates.report` for the model and the sampling settings of a pocket preset, at its first size, as plain values.

    Also what the exact fields reach through the latents, and how many free sentences are misunderstood.
    """
    if preset.family != "pocket":
        raise ConfigError(f"The preset “{preset.name}” is not a pocket model.", "Use the preset “pocket”.")
    width, height = preset.resolutions[0]
    components = load_components(preset.path(preset.model))
    measured = gates.report(
        components,
        size=(height, width),
        num_frames=preset.num_frames,
        num_inference_steps=preset.num_inference_steps,
        shift=preset.shift,
        sheet=sheet,
    )
    stages = gates.held_out_stages((height, width))
    exact = {name: exact_fields(stages, name, preset.num_frames) for name in (*measured.moves, *measured.pairs)}
    return measured.as_dict() | {"exact": exact, "sentences": understood(components)}


def exact_fields(stages: list[gates.Stage], name: str, num_frames: int) -> float:
    """PSNR in dB of the last frame, mean over `stages`, when the true fields go through the latents."""
    return float(np.mean([_through_latents(stage, tuple(name.split("+")), num_frames) for stage in stages]))


def _through_latents(stage: gates.Stage, names: tuple[str, ...], num_frames: int) -> float:
    true = gates.truth(stage, gates.move_of(names), 0, num_frames)
    first = codec.first_frame(stage.first)
    knots = codec.read(codec.write(true, first)[0], codec.mean_of(first), true.aspect)
    made: Motion = world.at_frames(knots)
    pictures = [stage.draw(motion, [num_frames - 1])[0] for motion in (made, true)]
    return gates.psnr(*pictures)


def understood(components) -> dict | None:
    """How many free sentences lead to another move than they ask for; None where there is no list of them."""
    lists = sorted(SENTENCES.glob("*_sentences.yaml"))
    if not lists:
        return None
    frames = [stage.first for stage in gates.held_out_stages(SENTENCE_SIZE)[:2]]
    free = [sentence for path in lists for sentence in sentences.read_sentences(path)]
    return sentences.measure(components, free, frames, num_frames=NUM_FRAMES)


def table(measured: dict) -> str:
    """The values of `run` as a Markdown table, one row a move or pair."""
    rows = ["| move | generated | worst | nothing moves | exact fields | gate |", "|---|---|---|---|---|---|"]
    for name, figures in (measured["moves"] | measured["pairs"]).items():
        values = (figures["generated"], figures["worst"], figures["still"], measured["exact"][name])
        passed = "passes" if gates.Figures(**figures).passes(name) else "fails"
        rows.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} | {passed} |")
    height, width = measured["size"]
    steps = measured["num_inference_steps"]
    rows.append(
        f"\nPSNR in dB of the last frame against the true one, mean over {len(measured['photos'])} held-out "
        f"photographs; {width}×{height}, {measured['num_frames']} frames, {steps} sampling step{'s' * (steps > 1)}. "
        f"Gates: camera {gates.CAMERA_GATE:.0f}, light {gates.LIGHT_GATE:.0f}, pairs {gates.PAIR_GATE:.0f}, "
        f"the worst picture {gates.WORST_GATE:.0f}."
    )
    if heard := measured["sentences"]:
        outcome = "passes" if heard["rate"] <= WRONG_GATE else "fails"
        rows.append(
            f"\nFree sentences: {100 * heard['rate']:.1f} % of {heard['sentences']} misunderstood on {heard['frames']} "
            f"photographs (at most {100 * WRONG_GATE:.0f} %): {outcome}."
        )
        rows += [f"- “{wrong['text']}”: {wrong['asked']}, came {wrong['found']}" for wrong in heard["wrong"]]
    return "\n".join(rows)
