"""Fifty clips of mixed moves, composed to the picture: `python -m engine bench drift --composed`.

Camera, light and pairs in full amount on the held-out photographs, each clip's frames drawn from the photograph itself.
Measured: that exact fields lead back to the same frame, how far the model's frames part from the truth, and how sharp
they are beside it, which is the photograph, resampled once, in the true light; the same films handed over by frames
stand beside them.
"""

from collections.abc import Sequence

import numpy as np

from engine.backends.local import set_threads
from engine.config import Preset
from engine.domain import Resolution
from engine.evaluation import metrics, rollout
from engine.evaluation.chains import Chain, mixed_chains, true_film
from engine.evaluation.drift import check_world
from engine.evaluation.rollout import Film, Sampling
from engine.models import components as models
from engine.pocket.gates import psnr
from engine.pocket.motion import Motion, from_arrays, to_arrays
from engine.variants import Variant

RETURN_GATE = 45.0  # dB, of a state that is reached twice
SHARPNESS = (0.95, 1.05)  # of the photograph's
MARKS = (1, 10, 20, 30, 40, 50)


def run(
    preset: Preset,
    *,
    num_clips: int,
    size: Resolution,
    num_frames: int,
    num_inference_steps: int,
    variant: str = "film",
    seed: int = 0,
) -> dict:
    """PSNR against the truth and sharpness beside it, a mean over pictures a clip, of each way to make the
    films; plain values."""
    check_world(preset, num_frames)
    set_threads(None)
    components, chains = models.load(preset), mixed_chains(num_clips, seed, size)
    row = preset.method_row(variant)
    frames, states = (Sampling(row, num_frames, num_inference_steps, is_composed) for is_composed in (False, True))
    films = {
        "exact fields, composed": rollout.exact_film(preset, chains, states),
        "predicted, composed": rollout.model_film(components, preset, chains, states),
        "predicted, frames handed over": rollout.model_film(components, preset, chains, frames),
    }
    truths = [[clip.after for clip in true_film(chain, num_frames, row.num_motion_frames)] for chain in chains]
    measured = {name: curves(film, chains, truths) for name, film in films.items()}
    sharp = measured["predicted, composed"]["sharpness"]
    returned = min(same_state_twice(chain, num_frames, row) for chain in chains)
    return {
        "size": str(size),
        "frames": num_frames,
        "clips": num_clips,
        "variant": variant,
        "pictures": [chain.name for chain in chains],
        "films": measured,
        "returned_psnr": round(returned, 2),
        "passed": {
            "the same state twice": returned >= RETURN_GATE,
            "as sharp as the photograph": bool(SHARPNESS[0] <= np.mean(sharp) <= SHARPNESS[1]),
        },
    }


def curves(film: Film, chains: Sequence[Chain], truths: Sequence[Sequence[Motion]]) -> dict[str, list[float]]:
    """psnr and sharpness of each clip's last frame, means over the chains."""
    found: dict[str, list[float]] = {"psnr": [], "sharpness": []}
    for index, clips in enumerate(film):
        true = [chain.canvas.draw_one(states[index]) for chain, states in zip(chains, truths, strict=True)]
        whole = np.ones(true[0].shape[:2], bool)
        last = [clip[-1] for clip in clips]
        found["psnr"].append(round(float(np.mean([psnr(a, b) for a, b in zip(last, true, strict=True)])), 3))
        sharp = [metrics.sharpness(a, b, whole) for a, b in zip(last, true, strict=True)]
        found["sharpness"].append(round(float(np.mean(sharp)), 4))
    return found


def same_state_twice(chain: Chain, num_frames: int, variant: Variant) -> float:
    """The worst PSNR in dB between two visits of a state: half of the chain's clips, and their exact reverse, every
    clip composed from the states that a take stores."""
    half = list(true_film(chain, num_frames, variant.num_motion_frames))[: max(1, len(chain.asked) // 2)]
    state, out = chain.start, []
    for clip in half:
        out.append(state)
        state = stored(clip.states.since(clip.before).after(state))[-1:]
    worst = 100.0
    for clip, before in zip(reversed(half), reversed(out), strict=True):
        back = clip.before.since(clip.after)
        state = stored(back.after(state))[-1:]
        worst = min(worst, psnr(chain.canvas.draw_one(state), chain.canvas.draw_one(before)))
    return worst


def stored(states: Motion) -> Motion:
    """As a take keeps and reads them."""
    return from_arrays(to_arrays(states))


def table(report: dict) -> str:
    """The report for people."""
    marks = [mark for mark in MARKS if mark <= report["clips"]]
    lines = [
        f"{report['clips']} clips of mixed moves on {len(report['pictures'])} photographs, {report['size']}, "
        f"{report['frames']} frames a clip, {report['variant']}. Sharpness: beside the photograph in the true light.",
        "",
        f"| PSNR against the truth, dB (sharpness) | {' | '.join(f'clip {mark}' for mark in marks)} | mean |",
        "|---|" + "---|" * (len(marks) + 1),
    ]
    for name, found in report["films"].items():
        pairs = [(found["psnr"][mark - 1], found["sharpness"][mark - 1]) for mark in marks]
        pairs.append((float(np.mean(found["psnr"])), float(np.mean(found["sharpness"]))))
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f} ({sharp:.2f})" for value, sharp in pairs) + " |")
    held = {True: "passed", False: "FAILED"}
    lines.append(
        f"\nExact fields, the same state twice: {report['returned_psnr']:.1f} dB at worst; "
        + "; ".join(f"{claim}: {held[passed]}" for claim, passed in report["passed"].items())
        + "."
    )
    return "\n".join(lines)
