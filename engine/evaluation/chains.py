"""What the drift benchmark asks for: chains of prompts, and the exact film that each of them should give.

A chain is a picture that no training step saw and one prompt a clip. Half of the pictures are held-out photographs (as
they are, then parts of them), half are scenes. Camera moves in a chain are small and go back, and none meets the
picture's edge: both hand-overs then have the same true film, and most of the picture stays in view all along. What left
the view once a model that is handed frames can only invent, so it is not judged. Knows nothing of models. Frames are
uint8 (n, H, W, 3).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

from engine.domain import MAX_SEED, SEED_STRIDE, Resolution
from engine.errors import BackendUnavailable
from engine.pocket import codec, gates, world
from engine.pocket.asked import LIVING_NAMES
from engine.pocket.framing import Framing, stay_inside
from engine.pocket.motion import Motion, linear
from engine.pocket.phrases import OFFERS
from engine.pocket.pictures import HELD_OUT, find_photos, load_photo, toy_scenes
from engine.pocket.reading import wish_of
from engine.pocket.render import Canvas

SCENE_SEED = 21_000  # training draws its scenes from seeds below 20,000, the gates from 20,000 on
SCENE_SCALE = 1.5  # a scene is so much larger than the film's frame
CROP = (0.6, 0.9)  # of a photograph's sides
SOLO = ("stay", *world.LIGHTS)
EXCURSIONS = (  # small camera moves, in this order; the last brings the camera back
    ("zoom_in", "zoom_out"),
    ("roll_left", "roll_right"),
    ("roll_right", "roll_left"),
    ("zoom_in", "pan_left", "pan_right", "zoom_out"),
    ("zoom_in", "pan_right", "pan_left", "zoom_out"),
    ("zoom_in", "tilt_up", "tilt_down", "zoom_out"),
    ("zoom_in", "tilt_down", "tilt_up", "zoom_out"),
)
SLIGHTLY = {
    "pan_left": "The camera pans left a little",
    "pan_right": "The camera pans right a little",
    "tilt_up": "The camera tilts up a little",
    "tilt_down": "The camera tilts down a little",
    "zoom_in": "The camera zooms in a little",
    "zoom_out": "The camera zooms out a little",
    "roll_left": "The camera rolls a little to the left",
    "roll_right": "The camera rolls a little to the right",
}
EDGE = 0.98  # of the frame's half: farther out interpolation mixes in what lies beyond
CORNERS = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
SUBJECT = "the old harbour"
Names = tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """One clip: its prompt, and the names of the moves that it asks for."""

    prompt: str
    names: Names

    @property
    def move(self) -> world.Move:
        return wish_of(self.prompt).move


@dataclass(frozen=True)
class Chain:
    """A film to make. `name` says where `picture` (H, W, 3) uint8 comes from: parts of one photograph share it."""

    index: int
    seed: int
    name: str
    picture: np.ndarray = field(repr=False)
    size: Resolution
    asked: tuple[Asked, ...]
    project_seed: int

    def noise_seed(self, clip: int) -> int:
        """The seed that a project gives its clip `clip` (`Project.seed_of`)."""
        return (self.project_seed + SEED_STRIDE * clip) % (MAX_SEED + 1)

    def code(self, clip: int, num_frames: int) -> list[float]:
        """What that seed decides of the clip."""
        return codec.code_for(self.noise_seed(clip), num_frames, world.grid_of(self.size.width, self.size.height))

    @cached_property
    def canvas(self) -> Canvas:
        height, width = self.picture.shape[:2]
        return Canvas.of(self.picture, Framing.of(width, height, self.size))

    @cached_property
    def anchor(self) -> np.ndarray:
        """The film's first frame (H, W, 3)."""
        return self.canvas.draw_one(self.start)

    @property
    def start(self) -> Motion:
        return Motion.still(1, self.size.width / self.size.height)


@dataclass(frozen=True)
class TrueClip:
    """What a clip should add to the film: its frames' states, relative to the picture, and the one before them."""

    before: Motion
    states: Motion

    @property
    def after(self) -> Motion:
        return self.states[-1:]


def make_chains(count: int, seed: int, num_clips: int, size: Resolution) -> list[Chain]:
    """The chains 0 … count − 1 of one seed. A chain's picture is the same for every seed; its prompts are not."""
    photos = held_out()
    chains = []
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")
        if index % 2 == 0:
            name, photo = photos[index // 2 % len(photos)]
            picture = part_of(photo, index // 2 // len(photos))
        else:
            name, height, width = f"scene {SCENE_SEED + index}", SCENE_SCALE * size.height, SCENE_SCALE * size.width
            picture = as_bytes(toy_scenes(1, round(height), round(width), SCENE_SEED + index)[0])
        asked = tuple(ask(names, rng) for names in balanced_moves(num_clips, rng))
        chains.append(Chain(index, seed, name, picture, size, asked, rng.randrange(MAX_SEED + 1)))
    return chains


def held_out() -> list[tuple[str, np.ndarray]]:
    """Name and pixels (H, W, 3) of each held-out photograph."""
    photos = [(path.stem, as_bytes(load_photo(path))) for path in find_photos(HELD_OUT)]
    if not photos:
        raise BackendUnavailable("No held-out photograph is installed.", "Run: pip install -r requirements.txt")
    return photos


def balanced_moves(num_clips: int, rng: random.Random) -> tuple[Names, ...]:
    """Lights and rests in shuffled rounds, with one small trip of the camera in each fifth. When a fifth of the clips
    holds a round, each fifth holds the same moves: what is lost between the first and the last is not that harder ones
    were asked for."""
    fifth = num_clips // 5
    if fifth < len(SOLO):
        rounds = (rng.sample(SOLO, len(SOLO)) for _ in range(-(-num_clips // len(SOLO))))
        return tuple((name,) for names in rounds for name in names)[:num_clips]
    extras, trip = rng.sample(SOLO, len(SOLO)), rng.choice(EXCURSIONS)
    names = [*SOLO * (fifth // len(SOLO)), *extras[: fifth % len(SOLO)]]
    moves: list[Names] = []
    while len(moves) < num_clips:
        steps = dict(zip(sorted(rng.sample(range(fifth), len(trip))), trip, strict=True))
        for place, name in enumerate(rng.sample(names, fifth)):
            others = () if name == "stay" and place in steps else (name,)
            moves.append((steps[place], *others) if place in steps else others)
    return tuple(moves[:num_clips])


def ask(names: Names, rng: random.Random) -> Asked:
    """A prompt for the moves `names`, camera moves a little, others in their normal amount."""
    phrases = {offer.name: offer.phrases for offer in OFFERS}
    told = [SLIGHTLY.get(name) or rng.choice(phrases[name]).format(subject=SUBJECT) for name in names]
    return Asked(gates.joined(told), names)


def true_film(chain: Chain, num_frames: int, num_motion_frames: int) -> Iterator[TrueClip]:
    """What each clip should add, the carried frames left out: each move starts from the true last frame of the one
    before, and keeps to the picture."""
    shares = world.progress(num_frames)
    state = chain.start
    for index, asked in enumerate(chain.asked):
        before = world.Statistics.of(chain.canvas.draw_one(state))
        knots = world.perform(asked.move, chain.code(index, num_frames), before, shares, state.aspect)
        motion, _ = stay_inside(world.at_frames(knots), state, chain.canvas.framing)
        states = motion.after(state)
        yield TrueClip(state, states[0 if index == 0 else num_motion_frames :])
        state = states[-1:]


def in_view_all_along(states: Sequence[Motion], size: Resolution) -> Callable[[Motion], np.ndarray]:
    """A function of a state that gives the pixels (H, W) of its frame whose place in the picture every one of `states`
    shows."""
    common = view_of(states[0])
    for state in states[1:]:
        common = overlap(common, view_of(state))

    def seen(state: Motion) -> np.ndarray:
        (matrix,), (shift,) = linear(state.camera, state.aspect)
        places = (common - shift) @ np.linalg.inv(matrix).T
        pixels = (places + 1) * (size.width / 2, size.height / 2) - 0.5
        mask = np.zeros((size.height, size.width), np.uint8)
        return cv2.fillConvexPoly(mask, np.rint(16 * pixels).astype(np.int32), 1, shift=4).astype(bool)

    return seen


def view_of(state: Motion) -> np.ndarray:
    """The corners (4, 2) of what a frame shows of the picture, without its very edge."""
    (matrix,), (shift,) = linear(state.camera, state.aspect)
    return EDGE * CORNERS @ matrix.T + shift


def overlap(polygon: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The corners (n, 2) of what two convex polygons have in common (Sutherland and Hodgman, 1974). OpenCV's own fails
    where edges coincide."""
    for begin, end in zip(other, np.roll(other, -1, axis=0), strict=True):
        (x, y), along = (polygon - begin).T, end - begin
        side = along[0] * y - along[1] * x  # at least 0 inside
        kept = []
        for here, there, a, b in zip(polygon, np.roll(polygon, -1, axis=0), side, np.roll(side, -1), strict=True):
            if a >= 0:
                kept.append(here)
            if a * b < 0:
                kept.append(here + a / (a - b) * (there - here))
        polygon = np.reshape(kept, (-1, 2))
    return polygon


def part_of(photo: np.ndarray, number: int) -> np.ndarray:
    """All of the photograph (H, W, 3) for number 0, else a part of it, another one for each number."""
    if number == 0:
        return photo
    rng = random.Random(number)
    height, width = (int(rng.uniform(*CROP) * side) for side in photo.shape[:2])
    top, left = rng.randint(0, photo.shape[0] - height), rng.randint(0, photo.shape[1] - width)
    return photo[top : top + height, left : left + width]


def mixed_chains(num_clips: int, seed: int, size: Resolution) -> list[Chain]:
    """One chain for each held-out photograph, of every move of camera and light and of pairs, in their full amount."""
    chains = []
    for index, (name, photo) in enumerate(held_out()):
        rng = random.Random(f"mixed {seed}/{index}")
        kinds = [*((name,) for name in gates.PROMPTS if name not in LIVING_NAMES), *gates.PAIRS]
        moves = [names for _ in range(0, num_clips, len(kinds)) for names in rng.sample(kinds, len(kinds))]
        asked = tuple(Asked(gates.prompt(names), names) for names in moves[:num_clips])
        chains.append(Chain(index, seed, name, photo, size, asked, rng.randrange(MAX_SEED + 1)))
    return chains


def as_bytes(picture) -> np.ndarray:
    """(3, H, W) in [−1, 1] as uint8 (H, W, 3)."""
    return ((picture + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
