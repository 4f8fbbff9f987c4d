"""Gates of the pocket model: what it may claim, measured on photographs it never saw.

For every move and for pairs of moves: PSNR of the generated last frame against the true one, rendered from the same
picture, beside "nothing moves". A move that fails its gate is not in the vocabulary.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.domain import Resolution
from engine.models.components import Components
from engine.pocket import asked, codec, sampling, world
from engine.pocket.encode import fit_clip, fit_frame
from engine.pocket.framing import Framing, stay_inside
from engine.pocket.living import OFFERED
from engine.pocket.motion import LEVELS, Motion
from engine.pocket.pictures import HELD_OUT, find_photos, load_photo
from engine.pocket.render import Canvas
from engine.variants import Variant

CAMERA_GATE, LIGHT_GATE, PAIR_GATE, WORST_GATE = 30.0, 32.0, 28.0, 28.0
LEVEL_GATE = 0.15  # how far a level of living motion may be from the one that was asked for
PROMPTS = {
    "stay": "Nothing changes around the old harbour",
    "pan_left": "The camera pans left over the old harbour",
    "pan_right": "The camera pans right over the old harbour",
    "tilt_up": "The camera tilts up above the old harbour",
    "tilt_down": "The camera tilts down to the old harbour",
    "zoom_in": "The camera zooms in on the old harbour",
    "zoom_out": "The camera zooms out from the old harbour",
    "roll_left": "The camera rolls to the left",
    "roll_right": "The camera rolls to the right",
    "wander": "The camera wanders freely around the old harbour",
    "handheld": "A handheld camera shows the old harbour",
    "night": "Night falls over the old harbour",
    "sunrise": "The sun rises over the old harbour",
    "noon": "Bright daylight over the old harbour",
    "sunset": "The sun sets behind the old harbour",
    "fog": "Fog rolls in over the old harbour",
    "storm": "A storm gathers over the old harbour",
    "autumn": "Autumn comes to the old harbour",
    "winter": "Winter comes to the old harbour",
    "ripple": "The water ripples",
    "sway": "The trees sway in the wind",
    "drift": "Clouds drift over the old harbour",
    "wind": "The wind blows over the old harbour",
    "haze": "Mist drifts past the old harbour",
    "snow": "Snow falls on the old harbour",
    "rain": "Rain falls on the old harbour",
    "twinkle": "The lamps flicker",
    "calm": "The water becomes calm",
}
PAIRS = (
    ("pan_left", "night"),
    ("pan_right", "sunrise"),
    ("tilt_up", "fog"),
    ("tilt_down", "sunset"),
    ("zoom_in", "night"),
    ("zoom_out", "winter"),
    ("roll_left", "autumn"),
    ("roll_right", "storm"),
)
STORY = ("sunrise", "zoom_in", "night", "pan_left", "fog", "zoom_out", "noon", "tilt_up")
SHIPPED_SIZE = (480, 832)  # height, width


@dataclass(frozen=True)
class Figures:
    """PSNR in dB of the last frame (see `telling_frame`): mean over pictures, of nothing moving, of the worst picture;
    and the largest error
    of a level of living motion, mean over pictures."""

    generated: float
    still: float
    worst: float
    level_error: float

    def passes(self, name: str) -> bool:
        if self.level_error > LEVEL_GATE or (name in LEVELS and name not in (*OFFERED, "calm")):
            return False
        if name in asked.LIVING_NAMES:
            return self.generated >= PAIR_GATE
        gate = PAIR_GATE if "+" in name else LIGHT_GATE if name in world.LIGHTS else CAMERA_GATE
        return self.generated >= gate and self.worst >= WORST_GATE


@dataclass(frozen=True)
class Report:
    """Figures per move on held-out photographs; `pairs` are named “pan_left+night”."""

    moves: dict[str, Figures]
    pairs: dict[str, Figures]
    size: tuple[int, int]
    num_frames: int
    num_inference_steps: int
    photos: tuple[str, ...]

    @property
    def passed(self) -> list[str]:
        """Names of the moves that may be offered."""
        return [name for name, figures in self.moves.items() if figures.passes(name)]

    def as_dict(self) -> dict:
        """Plain values, in the order of the vocabulary."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Stage:
    """A held-out photograph, framed as a film: its first frame and what a light move needs to know of it."""

    name: str
    canvas: Canvas
    first: np.ndarray
    statistics: world.Statistics

    @classmethod
    def of(cls, name: str, picture: np.ndarray, size: tuple[int, int]) -> "Stage":
        framing = Framing.of(picture.shape[1], picture.shape[0], Resolution(size[1], size[0]))
        canvas = Canvas.of(picture, framing)
        first = canvas.draw(Motion.still(1, framing.aspect))[0]
        return cls(name, canvas, first, world.Statistics.of(first))

    @property
    def start(self) -> Motion:
        return Motion.still(1, self.canvas.framing.aspect)

    def draw(self, motion: Motion, frames: Sequence[int]) -> np.ndarray:
        """Frames (n, H, W, 3) of a clip that begins with the first frame, its camera kept inside the picture."""
        inside, _ = stay_inside(motion, self.start, self.canvas.framing)
        return self.canvas.draw(inside.after(self.start), frames)


def report(
    components: Components,
    *,
    size: tuple[int, int] = SHIPPED_SIZE,
    num_frames: int = 81,
    num_inference_steps: int = 1,
    shift: float = 5.0,
    sheet: Path | None = None,
    seed: int = 0,
) -> Report:
    """Measure every move and pair; with `sheet`, also write contact sheets: a strip of frames, and the truth's last."""
    stages = held_out_stages(size)
    names = [*((name,) for name in PROMPTS), *PAIRS]
    measured: dict[str, Figures] = {}
    strips: dict[str, list[np.ndarray]] = {}
    for chosen in names:
        motions = sampling.generate(
            components,
            [stage.first for stage in stages],
            [prompt(chosen)] * len(stages),
            [seed] * len(stages),
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            shift=shift,
        )
        label = "+".join(chosen)
        values, still, wrong = [], [], []
        for stage, motion in zip(stages, motions, strict=True):
            true = truth(stage, move_of(chosen), seed, num_frames)
            judged = telling_frame(true)
            [last], [made] = stage.draw(true, [judged]), stage.draw(motion, [judged])
            values.append(psnr(made, last))
            still.append(psnr(stage.first, last))
            wrong.append(np.abs(motion.levels[-1] - true.levels[-1]).max())
            if sheet and stage is stages[len(strips) % len(stages)]:
                shown = stage.draw(motion, [0, num_frames // 3, num_frames // 2, num_frames - 1])
                strips[label] = [*shown, last]
        measured[label] = Figures(
            float(np.mean(values)), float(np.mean(still)), float(np.min(values)), float(np.mean(wrong))
        )
    if sheet:
        write_sheet(strips, sheet)
    return Report(
        {name: figures for name, figures in measured.items() if "+" not in name},
        {name: figures for name, figures in measured.items() if "+" in name},
        size,
        num_frames,
        num_inference_steps,
        tuple(stage.name for stage in stages),
    )


def telling_frame(motion: Motion) -> int:
    """The frame that a move is judged by: the last, or the one farthest out where it ends where it began."""
    way = np.abs(motion.camera).max(1)
    return int(way.argmax()) if way[-1] < 0.1 * way.max() else len(motion) - 1


def score(measured: Report) -> float:
    """One number to keep the best weights by: mean PSNR of the generated last frames."""
    figures = [*measured.moves.values(), *measured.pairs.values()]
    return sum(one.generated for one in figures) / len(figures)


def prompt(names: Sequence[str]) -> str:
    """A sentence that asks for the moves `names` in their normal amount."""
    return joined([PROMPTS[name] for name in names])


def joined(texts: Sequence[str]) -> str:
    """Sentences as one."""
    return " while ".join([texts[0], *(text[0].lower() + text[1:] for text in texts[1:])])


def plain_prompt(name: str) -> str:
    return prompt((name,))


def move_of(names: Sequence[str]) -> world.Move:
    """What `prompt(names)` asks for."""
    return asked.of(*(name for name in names if name != "stay")).move


def truth(stage: Stage, move: world.Move, seed: int, num_frames: int) -> Motion:
    """What the move makes of a stage's first frame with this seed, at every frame."""
    height, width = stage.first.shape[:2]
    code = codec.code_for(seed, num_frames, world.grid_of(width, height))
    return world.at_frames(world.perform(move, code, stage.statistics, world.progress(num_frames), width / height))


def held_out_stages(size: tuple[int, int]) -> list[Stage]:
    return [Stage.of(path.stem, _bytes(load_photo(path)), size) for path in find_photos(HELD_OUT)]


def _bytes(pixels) -> np.ndarray:
    return ((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def psnr(made: np.ndarray, true: np.ndarray) -> float:
    """In dB of uint8 pictures, at most 100."""
    error = float(np.square(made.astype(np.float32) - true).mean()) / 255**2
    return float(-10 * np.log10(max(error, 1e-10)))


def write_sheet(strips: dict[str, list[np.ndarray]], path: Path, width: int = 208) -> None:
    """One strip of frames a row, with its name; the last column is the truth."""
    from PIL import ImageDraw

    first = next(iter(strips.values()))[0]
    height, label = round(width * first.shape[0] / first.shape[1]), 14
    columns = max(map(len, strips.values()))
    sheet = Image.new("RGB", (columns * (width + 4), len(strips) * (height + label + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, frames) in enumerate(strips.items()):
        top = row * (height + label + 4)
        pen.text((2, top + 1), f"{name}: {len(frames) - 1} frames, then the true last one", fill="black")
        for column, frame in enumerate(frames):
            small = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(small, (column * (width + 4), top + label))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def held_out_photos(size: tuple[int, int]) -> np.ndarray:
    """First frames (n, H, W, 3) uint8."""
    return np.stack([stage.first for stage in held_out_stages(size)])


@torch.no_grad()
def chain_psnr(
    components: Components,
    variant: Variant,
    *,
    size: tuple[int, int],
    num_clips: int,
    num_frames: int = 25,
    shift: float = 5.0,
    seed: int = 0,
) -> list[float]:
    """PSNR in dB of each clip's last frame against the truth, mean over the held-out photographs.

    A chain of light moves and rests a picture, handed over by frames as `variant` does it; one sampling step. The truth
    keeps the picture's own pixels, so what hand-over, fit and model lose, camera included, adds up.
    """
    stages, names = held_out_stages(size), ("stay", *world.LIGHTS)
    rng = random.Random(seed)
    orders = [[name for _ in range(0, num_clips, len(names)) for name in rng.sample(names, len(names))] for _ in stages]
    grid, shares = world.grid_of(size[1], size[0]), world.progress(num_frames)
    true, states = [stage.first for stage in stages], [stage.start for stage in stages]
    tails, values = [stage.first[None] for stage in stages], []
    for index in range(num_clips):
        seeds = [rng.randrange(2**31) for _ in stages]
        motions = sampling.generate(
            components,
            [tail[0] for tail in tails],
            [plain_prompt(order[index]) for order in orders],
            seeds,
            num_frames=num_frames,
            shift=shift,
            padding=variant.padding,
            known=[fit_clip(tail, grid) for tail in tails],
            states=[fit_frame(stage.first, tail[0]) for stage, tail in zip(stages, tails, strict=True)]
            if variant.padding == "anchor"
            else None,
        )
        for place, (stage, motion) in enumerate(zip(stages, motions, strict=True)):
            last = range(num_frames - variant.num_motion_frames, num_frames)
            tails[place] = Canvas.of_frame(tails[place][0]).draw(motion, last)
            code, before = codec.code_for(seeds[place], num_frames, grid), world.Statistics.of(true[place])
            moved = world.perform(move_of((orders[place][index],)), code, before, shares, motion.aspect)
            states[place] = moved[-1:].after(states[place])
            true[place] = stage.canvas.draw_one(states[place])
        values.append(float(np.mean([psnr(tail[-1], last) for tail, last in zip(tails, true, strict=True)])))
    return values
