"""What can be asked of the embedded model: its moves, how much of them, how fast, and the words it hears them in.

A prompt is read by rules (`reading`) and arrives at the text encoder in these tokens, each move with its amount behind
it, always in the order of `NAMES`. So a prompt's wording cannot change its film, and the page can say what was heard.
Plain Python.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.pocket.world import CAMERAS, LIGHTS, LITTLE, MUCH, PATHS, Move

Amount = Literal["", "little", "far"]
Pace = Literal["", "slow", "quick"]
Side = Literal["", "left", "right"]

CAMERA_NAMES = (*CAMERAS, *PATHS)
LIGHT_NAMES = tuple(LIGHTS)
LIVING_NAMES = ("ripple", "sway", "drift", "wind", "haze", "snow", "rain", "twinkle", "calm")
NAMES = (*CAMERA_NAMES, *LIGHT_NAMES, *LIVING_NAMES)
KINDS = {"camera": CAMERA_NAMES, "light": LIGHT_NAMES, "living": LIVING_NAMES}
AMOUNTS: dict[Amount, float] = {"": 1.0, "little": LITTLE, "far": MUCH}
PACES: dict[Pace, str] = {"": "free", "slow": "slow", "quick": "quick"}
SIDES: dict[Side, float] = {"": 0.0, "left": -1.0, "right": 1.0}
TOKENS = (*NAMES, "little", "far", "slow", "quick", "left", "right")

OPPOSITES = {"pan_left": "pan_right", "tilt_up": "tilt_down", "zoom_in": "zoom_out", "roll_left": "roll_right"}
OPPOSITES |= {other: name for name, other in OPPOSITES.items()}
LEVEL, WIND_LEVEL = 0.6, 0.7  # of living motion in its usual amount
LEVEL_LIGHT = {"snow": ("winter", 0.4), "rain": ("storm", 0.6)}  # what falling snow and rain do to the light
MOST_LIGHTS = 2  # that are mixed
SPELT = "asked:"


@dataclass(frozen=True)
class Asked:
    """One move that is asked for, and how much of it: "little", "far", or "" for as much as usual."""

    name: str
    amount: Amount = ""


@dataclass(frozen=True)
class Wish:
    """All that a prompt asks for. wind: where what it carries drifts to."""

    moves: tuple[Asked, ...] = ()
    pace: Pace = ""
    wind: Side = ""

    @property
    def tokens(self) -> tuple[str, ...]:
        """What the text encoder hears."""
        said: list[str] = []
        for move in sorted(self.moves, key=lambda move: NAMES.index(move.name)):
            said += [move.name, *([move.amount] if move.amount else [])]
        return (*said, *(word for word in (self.wind, self.pace) if word and said))

    @property
    def move(self) -> Move:
        """What comes of it: camera moves add up, of each level the highest counts."""
        camera = [0.0, 0.0, 0.0, 0.0]
        free, lights, levels = [], {}, {}
        for asked in self.moves:
            name, amount = asked.name, AMOUNTS[asked.amount]
            if name in CAMERAS:
                camera = [a + amount * b for a, b in zip(camera, CAMERAS[name], strict=True)]
            elif name in PATHS:
                free.append((name, amount))
            elif name in LIGHTS:
                lights[name] = min(amount, 1.0)
            elif name == "wind":
                level = min(WIND_LEVEL * amount, 1.0)
                levels |= {part: max(levels.get(part, 0.0), level) for part in ("sway", "drift")}
            else:
                levels[name] = max(levels.get(name, 0.0), 1.0 if name == "calm" else min(LEVEL * amount, 1.0))
        for name, (light, share) in LEVEL_LIGHT.items():
            if name in levels and not lights:
                lights[light] = share
        some = tuple(lights.items())[:MOST_LIGHTS]
        return Move(tuple(camera), tuple(free), some, tuple(levels.items()), SIDES[self.wind], PACES[self.pace])


def of(*names: str) -> Wish:
    """The moves `names`, each in its usual amount."""
    return Wish(tuple(Asked(name) for name in names))


def spelt(wish: Wish) -> str:
    """A prompt that asks for `wish` in tokens: “asked: pan_left little night slow”."""
    return f"{SPELT} {' '.join(wish.tokens)}".strip()


def parse(text: str) -> Wish | None:
    """The wish that `text` spells out in tokens; None for any other text."""
    first, *words = text.split() or [""]
    if first != SPELT:
        return None
    moves: list[Asked] = []
    pace, wind = "", ""
    for word in words:
        if word in NAMES:
            moves.append(Asked(word))
        elif word in ("little", "far") and moves:
            moves[-1] = Asked(moves[-1].name, word)
        elif word in ("slow", "quick") and moves:
            pace = word
        elif word in ("left", "right") and moves:
            wind = word
        else:
            return None
    return Wish(tuple(moves), pace, wind)


def draw(rng: random.Random) -> Wish:
    """A random wish to train on: nothing, or up to four things, no two of which undo each other."""
    count = rng.choices((0, 1, 2, 3, 4), (0.06, 0.40, 0.36, 0.14, 0.04))[0]
    names: list[str] = []
    while len(names) < count:
        name = rng.choice(KINDS[rng.choices(tuple(KINDS), (0.45, 0.30, 0.25))[0]])
        if _goes_with(name, names):
            names.append(name)
    amounts = rng.choices(tuple(AMOUNTS), (0.6, 0.2, 0.2), k=len(names))
    pace = rng.choices(tuple(PACES), (0.7, 0.15, 0.15))[0]
    wind = rng.choice(("left", "right")) if "drift" in names and rng.random() < 0.3 else ""
    return Wish(tuple(Asked(*pair) for pair in zip(names, amounts, strict=True)), pace, wind)


def _goes_with(name: str, others: Sequence[str]) -> bool:
    """Whether a move adds something to `others`: neither it nor its opposite is there yet."""
    if name in LIGHT_NAMES and sum(other in LIGHT_NAMES for other in others) == MOST_LIGHTS:
        return False
    return name not in others and OPPOSITES.get(name) not in others
