"""Small stories of the moves that the embedded model knows: the camera goes somewhere and comes back, the light turns
as days and years do, something lives where the picture has it, and in between it rests.

All that the next move depends on is read off the moves before it, so that a story goes on wherever it was left. Knows
names of moves, no words.
"""

import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from engine.media import image
from engine.pocket.asked import OPPOSITES
from engine.story.vocabulary import Action

# A day and a year, in the order in which they happen; moves that are not offered are skipped.
CYCLE = ("sunrise", "noon", "autumn", "storm", "sunset", "night", "fog", "winter")
OUTWARD = {  # how often the camera sets out so
    "zoom_in": 3.0, "pan_left": 2.0, "pan_right": 2.0, "tilt_up": 1.5, "tilt_down": 1.5,
    "wander": 1.0, "handheld": 0.5, "roll_left": 0.5, "roll_right": 0.5,
}  # fmt: skip
NEAR = ("pan_left", "pan_right", "tilt_up", "tilt_down")  # a look around, once the camera is close
OUTDOORS = ("sky", "foliage", "water")
LIVES_IN = {  # a move is offered where the picture has one of these regions
    "ripple": ("water",), "sway": ("foliage",), "drift": ("sky",), "twinkle": ("lamps",),
    "wind": ("foliage", "sky"), "haze": OUTDOORS, "snow": OUTDOORS, "rain": OUTDOORS,
}  # fmt: skip
WEATHER = {"haze", "snow", "rain"}  # falls or drifts over the whole picture until something ends it
SUITS = {"snow": ("winter",), "rain": ("storm",), "haze": ("fog", "sunrise"), "twinkle": ("night", "sunset")}
PAIRED = {"slow": 0.1, "steady": 0.25, "lively": 0.6}  # share of prompts that name two moves, by pace
LONGEST = 5  # moves in a row without a rest, at a steady pace
LASTS = 4  # prompts that weather stays before it ends
GOES_ON, LATER, SECOND = 0.35, 0.3, 0.2  # chances: to look around when near, to skip an hour, to swap two kinds


@lru_cache(maxsize=16)
def _regions(picture: Path, mtime_ns: int) -> tuple[str, ...]:
    from engine.pocket import regions  # OpenCV: only where a picture is looked at

    return regions.find(image.load(picture)).present()


def regions_of(picture: Path) -> tuple[str, ...]:
    """What of “sky”, “water”, “foliage” and “lamps” a stored picture has."""
    return _regions(picture, picture.stat().st_mtime_ns)


def lives(actions: Iterable[Action], picture: Path) -> list[str]:
    """The living moves of `actions` that the picture has room for; what ends them is none."""
    living = [action.name for action in actions if action.kind == "living" and action.name != "calm"]
    present = set(regions_of(picture)) if living else set()
    return [name for name in living if present & set(LIVES_IN.get(name, ()))]


def before_picture(picture: Path) -> str:
    """The point of the cycle that a picture looks like, judged by its brightness and warmth alone."""
    look = image.statistics(image.load(picture))
    if look.brightness < 0.25:
        return "night"
    if look.brightness > 0.7 and look.saturation < 0.15:
        return "fog"
    return "storm" if look.warmth <= 0.08 else "noon"


class Arc:
    """Says which moves come next. `told` is called with the moves of every prompt, in order; none is a rest.

    actions: all that may be named; start: the light of the picture, a name of CYCLE; alive: see `lives`.
    """

    def __init__(
        self, actions: Sequence[Action], *, start: str, alive: Sequence[str], pace: str, generator: random.Random
    ) -> None:
        self.names = {action.name for action in actions}
        self.kinds = {action.name: action.kind for action in actions}
        self.lights = in_cycle([action.name for action in actions if action.kind == "light"])
        self.lives = list(alive)
        self.light = start
        self.pace = pace
        self.generator = generator
        self.away: list[str] = []  # camera moves that brought it where it is and are not undone
        self.moving: dict[str, int] = {}  # what lives, and since which prompt
        self.prompts: list[tuple[str, ...]] = []
        self.last = {"camera": -1, "light": -1, "living": -1}  # prompts that named a move of the kind
        self.outward: list[str] = []  # how the camera set out before

    # What was told

    def told(self, names: Sequence[str]) -> None:
        for name in names:
            kind = self.kinds.get(name, "")
            if kind in self.last:
                self.last[kind] = len(self.prompts)
            if kind == "light":
                self.light = name
            elif name == "calm":
                self.moving.clear()
            elif kind == "living":
                self.moving[name] = len(self.prompts)
            elif name in OPPOSITES:
                if OPPOSITES[name] in self.away:
                    self.away.remove(OPPOSITES[name])
                else:
                    self.away.append(name)
                    self.outward.append(name)
        self.prompts.append(tuple(names))

    # What comes next

    def next(self, left: int, *, closes: bool) -> tuple[str, ...]:
        """The moves of the next prompt, one or two, () for a rest. left: prompts with it; closes: the last one ends a
        story, so that the camera is back by then.
        """
        later = (left - 1) // 2 if self.pace == "slow" else left - 1  # prompts with moves that are still to come
        room = later - len(self.away) if closes else left
        back = self._back()
        if self._rests() and (room >= 0 or self.pace == "slow" or not back):
            return ("calm",) if "calm" in self.names and self._is_over() else ()
        if room < 0 and back:
            return (back,)
        names: list[str] = []
        for kind in self._turn_of_kinds():
            if name := self._move(kind, may_leave=room > 0):
                names.append(name)
                self.light = name if kind == "light" else self.light  # what lives beside it suits it
            if len(names) == 2 or (names and self.generator.random() >= PAIRED[self.pace]):
                break
        order = ("camera", "light", "living")
        return tuple(sorted(names, key=lambda name: order.index(self.kinds[name])))

    def _rests(self) -> bool:
        """Slow stories rest after each move, lively ones never, others when the camera is back or it is time."""
        if "stay" not in self.kinds.values() or not self.prompts or not self.prompts[-1] or self.pace == "lively":
            return False
        if self.pace == "slow":
            return self.prompts[-1] != ("calm",)
        row = next((n for n, names in enumerate(reversed(self.prompts)) if not names or names == ("calm",)), None)
        row = len(self.prompts) if row is None else row
        is_back = not self.away and any(name in OPPOSITES for name in self.prompts[-1])
        return row >= LONGEST or (row >= 3 and is_back)

    def _is_over(self) -> bool:
        """Whether some weather has been there for a while."""
        return any(name in WEATHER and len(self.prompts) - since >= LASTS for name, since in self.moving.items())

    def _turn_of_kinds(self) -> list[str]:
        """Camera, light and living, the one that was not named for longest first, now and then another."""
        kinds = sorted(self.last, key=lambda kind: (self.last[kind], self.generator.random()))
        if self.generator.random() < SECOND:
            kinds[:2] = kinds[1::-1]
        return kinds

    def _move(self, kind: str, *, may_leave: bool) -> str | None:
        if kind == "camera":
            return self._camera(may_leave=may_leave)
        return self._light() if kind == "light" else self._living()

    def _back(self) -> str | None:
        """The way back by one move."""
        return next((OPPOSITES[name] for name in reversed(self.away) if OPPOSITES[name] in self.names), None)

    def _camera(self, *, may_leave: bool) -> str | None:
        near = may_leave and self.away == ["zoom_in"] and self.generator.random() < GOES_ON
        back = self._back()
        if back and not near:
            return back if back not in self._before else None
        if not may_leave:
            return None
        weights = {name: OUTWARD[name] for name in (NEAR if near else OUTWARD) if name in self.names}
        for earlier in self.outward[::-1]:  # where it went last is not where it goes next: pans alternate
            if len(weights) > 1 and OPPOSITES[earlier] in weights:
                weights.pop(earlier, None)
                break
        return self._drawn({name: weight for name, weight in weights.items() if name not in self._before})

    def _light(self) -> str | None:
        if not self.lights:
            return None
        first = following(self.light, self.lights)
        second = following(first, self.lights)
        skips = self.generator.random() < LATER and second != self.light
        name = second if skips else first
        return name if name not in self._before else None

    def _living(self) -> str | None:
        if "calm" in self.names and self._is_over():
            return "calm"
        falls = {"snow", "rain"} if {"snow", "rain"} & set(self.moving) else set()  # one of them at a time
        ready = [name for name in self.lives if name not in self.moving and name not in falls]
        weights = {name: 1.0 if name in WEATHER | {"wind"} else 3.0 for name in ready}
        for name in set(weights) & set(SUITS):
            suits = self.light in SUITS[name]
            weights[name] *= 3.0 if suits else 0.0 if name == "snow" else 0.4
        if not any(weights.values()):
            return "calm" if "calm" in self.names and self.moving and "calm" not in self._before else None
        return self._drawn(weights)

    @property
    def _before(self) -> tuple[str, ...]:
        """The moves of the last prompt that had any."""
        return next((names for names in reversed(self.prompts) if names), ())

    def _drawn(self, weights: dict[str, float]) -> str | None:
        names = [name for name, weight in weights.items() if weight]
        return self.generator.choices(names, [weights[name] for name in names])[0] if names else None


def in_cycle(names: Sequence[str]) -> list[str]:
    """In the order of CYCLE, unknown ones at the end."""
    return sorted(names, key=lambda name: CYCLE.index(name) if name in CYCLE else len(CYCLE))


def following(name: str, ordered: Sequence[str]) -> str:
    """The next one after `name` in the cycle; never `name` itself unless it is the only one."""
    position = CYCLE.index(name) if name in CYCLE else -1
    later = [other for other in ordered if other not in CYCLE or CYCLE.index(other) > position]
    pick = next((other for other in later if other != name), None)
    return pick or next((other for other in ordered if other != name), ordered[0])
