"""Free sentences: does the embedded model do what a reader would expect? Judged by its fields, no pixel is drawn.

A sentence says what it asks for. Which camera move and which light came out is the nearest true outcome of the world at
the clip's last frame: each as it is, a little of it, and much of it. A sentence is wrong when one of the two is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.errors import InputError
from engine.models.components import Components
from engine.pocket import sampling, world
from engine.pocket.layout import GROUPS
from engine.pocket.motion import LEVELS, Motion

NONE = "none"
CAMERA_OUTCOMES = (NONE, *world.CAMERAS)
LIGHT_OUTCOMES = (NONE, *world.LIGHTS)
ALIVE = 0.25  # a level from which on something is seen to move
BATCH = 32


@dataclass(frozen=True)
class Sentence:
    """camera: of CAMERA_OUTCOMES. lights: of LIGHT_OUTCOMES, any of which is right. living: of LEVELS, what moves."""

    text: str
    camera: str
    lights: tuple[str, ...]
    living: tuple[str, ...] = ()


def read_sentences(path: Path) -> list[Sentence]:
    """The sentences of a YAML list of {text, camera, light, living}. Raises InputError for names that are unknown."""
    return [_sentence(entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]


def _sentence(entry: dict[str, Any]) -> Sentence:
    lights = entry["light"] if isinstance(entry["light"], list) else [entry["light"]]
    sentence = Sentence(entry["text"], entry["camera"], tuple(lights), tuple(entry.get("living", ())))
    unknown = [
        *({sentence.camera} - set(CAMERA_OUTCOMES)),
        *(set(sentence.lights) - set(LIGHT_OUTCOMES)),
        *(set(sentence.living) - set(LEVELS)),
    ]
    if unknown:
        raise InputError(f"“{sentence.text}” asks for {', '.join(unknown)}.", "Name a move of the embedded model.")
    return sentence


def measure(
    components: Components,
    sentences: Sequence[Sentence],
    frames: Sequence[np.ndarray],
    *,
    num_frames: int = 25,
    seed: int = 0,
) -> dict[str, Any]:
    """What came of every sentence on each of `frames` (H, W, 3) uint8, all of one size.

    rate: share of (sentence, frame) pairs with a wrong camera or light. wrong: which ones, and what came instead.
    unmoved: where what must live did not; of the sentences that name something alive, the share is unmoved_rate.
    """
    wrong, unmoved = [], []
    for number, frame in enumerate(frames):
        before = world.Statistics.of(frame)
        aspect = frame.shape[1] / frame.shape[0]
        cameras, lights = _cameras(before, aspect), _lights(before, aspect)
        for first in range(0, len(sentences), BATCH):
            batch = sentences[first : first + BATCH]
            motions = sampling.generate(
                components,
                [frame] * len(batch),
                [sentence.text for sentence in batch],
                [seed] * len(batch),
                num_frames=num_frames,
            )
            for sentence, motion in zip(batch, motions, strict=True):
                camera, light = _nearest(_seen_camera(motion), cameras), _nearest(_seen_light(motion, before), lights)
                if camera != sentence.camera or light not in sentence.lights:
                    asked = f"{sentence.camera} + {' or '.join(sentence.lights)}"
                    wrong.append(
                        {"text": sentence.text, "frame": number, "asked": asked, "found": f"{camera} + {light}"}
                    )
                still = [name for name in sentence.living if motion.levels[-1, LEVELS.index(name)] <= ALIVE]
                unmoved += [{"text": sentence.text, "frame": number, "still": name} for name in still]
    alive = sum(len(sentence.living) for sentence in sentences) * len(frames)
    return {
        "sentences": len(sentences),
        "frames": len(frames),
        "rate": len(wrong) / (len(sentences) * len(frames)),
        "unmoved_rate": len(unmoved) / alive if alive else 0.0,
        "wrong": wrong,
        "unmoved": unmoved,
    }


def _cameras(before: world.Statistics, aspect: float) -> list[tuple[str, np.ndarray]]:
    amounts = (world.LITTLE, 1.0, world.MUCH)
    moves = [
        (name, world.Move(camera=tuple(amount * part for part in camera)))
        for name, camera in world.CAMERAS.items()
        for amount in amounts
    ]
    return [(name, _seen_camera(_outcome(move, before, aspect))) for name, move in [(NONE, world.Move()), *moves]]


def _lights(before: world.Statistics, aspect: float) -> list[tuple[str, np.ndarray]]:
    moves = [(name, world.Move(lights=((name, share),))) for name in world.LIGHTS for share in (world.LITTLE, 1.0)]
    return [
        (name, _seen_light(_outcome(move, before, aspect), before)) for name, move in [(NONE, world.Move()), *moves]
    ]


def _outcome(move: world.Move, before: world.Statistics, aspect: float) -> Motion:
    """The move when it is done; nothing of these moves is left to the seed by then."""
    return world.perform(move, np.zeros(world.CODES), before, np.ones(1), aspect)


def _seen_camera(motion: Motion) -> np.ndarray:
    return motion.camera[-1] / GROUPS["camera"].scale


def _seen_light(motion: Motion, before: world.Statistics) -> np.ndarray:
    """The last light as the latents hold it: offsets are what becomes of the mean."""
    light = motion.light[-1].copy()
    light[2:5] += before.mean * (np.exp(light[[0, 1, 1]]) - 1)
    return light / GROUPS["light"].scale


def _nearest(seen: np.ndarray, outcomes: Sequence[tuple[str, np.ndarray]]) -> str:
    return min(outcomes, key=lambda outcome: float(np.square(seen - outcome[1]).sum()))[0]
