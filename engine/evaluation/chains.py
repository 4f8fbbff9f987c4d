"""What the drift benchmark asks for: chains of prompts, and the exact film that each of them should give.

A chain is a picture that no training step saw and one light move a clip. Half of the pictures are held-out photographs
(as they are, then crops of them), half are scenes. Knows nothing of models. Pixels are float in [−1, 1] unless uint8.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine.diffusion.preview import to_uint8
from engine.domain import MAX_SEED, SEED_STRIDE, Resolution
from engine.errors import BackendUnavailable
from engine.timeline import Timeline
from engine.training.pictures import HELD_OUT, find_photos, fit_photo, load_photo, resize, toy_scenes
from engine.training.world import ACTIONS, FPS, NUM_FRAMES, SUBJECTS, Action, perform, transition

SCENE_SEED = 21_000  # training draws its scenes from seeds below 20,000, the gates from 20,000 on
CROP = (0.6, 0.9)  # of the largest crop that has the film's shape


@dataclass(frozen=True)
class Chain:
    """A film to make. `picture` names where the anchor (H, W, 3) uint8 comes from: crops of one photograph share it."""

    index: int
    seed: int
    picture: str
    anchor: np.ndarray = field(repr=False)
    actions: tuple[Action, ...]
    prompts: tuple[str, ...]
    project_seed: int

    def noise_seed(self, clip: int) -> int:
        """The seed that a project gives its clip `clip` (`Project.seed_of`)."""
        return (self.project_seed + SEED_STRIDE * clip) % (MAX_SEED + 1)


@dataclass(frozen=True)
class TrueClip:
    """What a clip should add to the film: `frames` (n, 3, H, W), after the picture `before` (3, H, W).

    anchored: what the clip's move makes of the anchor itself (its last move, while nothing is asked for). Fifty moves
    replace the picture's own colours and slow gradients by theirs, so this and the truth part in the end.
    """

    before: Tensor
    frames: Tensor
    anchored: Tensor

    @property
    def after(self) -> Tensor:
        return self.frames[-1]


def make_chains(count: int, seed: int, num_clips: int, size: Resolution) -> list[Chain]:
    """The chains 0 … count − 1 of one seed. A chain's picture is the same for every seed; its prompts are not."""
    photos = find_photos(HELD_OUT)
    if not photos:
        raise BackendUnavailable("No held-out photograph is installed.", "Run: pip install -r requirements.txt")
    chains = []
    for index in range(count):
        if index % 2 == 0:
            path = photos[index // 2 % len(photos)]
            name, picture = path.stem, photo_crop(load_photo(path), size, index // 2 // len(photos))
        else:
            name = f"scene {SCENE_SEED + index}"
            picture = toy_scenes(1, size.height, size.width, SCENE_SEED + index)[0]
        rng = random.Random(f"{seed}/{index}")
        actions = balanced_actions(num_clips, rng)
        prompts = tuple(rng.choice(action.phrases).format(subject=rng.choice(SUBJECTS)) for action in actions)
        anchor = to_uint8(picture).permute(1, 2, 0).contiguous().numpy()
        chains.append(Chain(index, seed, name, anchor, actions, prompts, rng.randrange(MAX_SEED + 1)))
    return chains


def balanced_actions(num_clips: int, rng: random.Random) -> tuple[Action, ...]:
    """Moves in shuffled rounds. When a fifth of the clips holds a round, each fifth holds the same moves: what is lost
    between the first and the last is not that harder ones were asked for."""
    fifth = num_clips // 5
    if fifth < len(ACTIONS):
        rounds = (rng.sample(ACTIONS, len(ACTIONS)) for _ in range(-(-num_clips // len(ACTIONS))))
        return tuple(action for moves in rounds for action in moves)[:num_clips]
    extras = rng.sample(ACTIONS, len(ACTIONS))
    moves = [*ACTIONS * (fifth // len(ACTIONS)), *extras[: fifth % len(ACTIONS)]]
    rounds = (rng.sample(moves, len(moves)) for _ in range(-(-num_clips // fifth)))
    return tuple(action for moves in rounds for action in moves)[:num_clips]


def true_film(chain: Chain, num_motion_frames: int) -> Iterator[TrueClip]:
    """What each clip of `chain` should add: truth_k = perform(truth_{k−1}, action_k), the carried frames left out."""
    timeline = Timeline(NUM_FRAMES, num_motion_frames, FPS)
    anchor = torch.from_numpy(chain.anchor).permute(2, 0, 1).float() / 127.5 - 1
    before = anchored = anchor
    for index, action in enumerate(chain.actions):
        after = perform(before[None], action)[0]
        if action.kind != "stay":
            anchored = perform(anchor[None], action)[0]
        clip = transition(before[None], after[None])[0].transpose(0, 1)  # (25, 3, H, W)
        yield TrueClip(before, clip[timeline.overlap(index) :], anchored)
        before = after


def photo_crop(photo: Tensor, size: Resolution, number: int) -> Tensor:
    """(3, H, W): as much of the photograph as fits for number 0, else a smaller crop, elsewhere for each number."""
    if number == 0:
        return fit_photo(photo, size.height, size.width)
    rng = random.Random(number)
    scale = rng.uniform(*CROP) * min(photo.shape[1] / size.height, photo.shape[2] / size.width)
    height, width = int(size.height * scale), int(size.width * scale)
    top, left = rng.randint(0, photo.shape[1] - height), rng.randint(0, photo.shape[2] - width)
    return resize(photo[None, :, top : top + height, left : left + width], size.height, size.width)[0]
