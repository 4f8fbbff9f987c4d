"""What the channels of the embedded model's latents hold: a table of named groups. A new thing to predict is a row.

Latents are (B, C, f, h, w): f latent frames of four pixel frames, h × w tiles of the frame, whatever its size in
pixels.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from engine.pocket.motion import CAMERA, LEVELS, LIGHT, LOCAL, WIND
from engine.pocket.world import CODES, PATHS

Reach = Literal["frame", "tile", "clip", "given"]
_LIGHT_SCALES = (0.5, 0.5, 0.3, 0.25, 0.25, *[0.1] * 6)


@dataclass(frozen=True)
class Group:
    """`size` channels from `start` on. A channel holds its value divided by `scale`.

    reach: how a value is read. "frame": one for the whole frame, the mean over its tiles (a product of a class and a
    place, such as zoom times x, is what a transformer of this size does not learn). "tile": one a tile. "clip": the
    seed's code, which the noise brings and the model only reads. "given": what is known of the first frame; written by
    the encoder into every latent frame, ignored in what the model returns. weight: of its squared error in training.
    """

    name: str
    start: int
    size: int
    scale: tuple[float, ...]
    weight: float
    reach: Reach

    @property
    def channels(self) -> slice:
        return slice(self.start, self.start + self.size)


def _table(*rows: tuple[str, int, float | tuple[float, ...], float, Reach]) -> dict[str, Group]:
    table, start = {}, 0
    for name, size, scale, weight, reach in rows:
        scales = scale if isinstance(scale, tuple) else (scale,) * size
        assert len(scales) == size
        table[name] = Group(name, start, size, scales, weight, reach)
        start += size
    return table


GROUPS = _table(
    ("camera", len(CAMERA), (0.1, 0.1, 0.1, 0.03), 3.0, "frame"),
    ("light", len(LIGHT), _LIGHT_SCALES, 1.0, "frame"),
    ("levels", len(LEVELS), 0.5, 3.0, "frame"),
    ("wind", len(WIND), 1.0, 0.3, "frame"),
    ("paths", len(PATHS), 0.5, 3.0, "frame"),  # how much of a camera's free path; which one the seed's code says
    ("local", LOCAL, (0.1, 0.1, 0.3, 0.25, 0.25), 0.1, "tile"),
    ("code", CODES, 1.0, 0.05, "clip"),
    ("clock", 3, 1.0, 0.0, "given"),  # share of the time for a move; latent frame; 1 in latent frame 0
    ("place", 2, 1.0, 0.0, "given"),  # x, y
    ("picture", 6, (0.35, 0.2, 0.2, 0.5, 0.5, 0.4), 0.0, "given"),  # mean L, B − L, R − L; log spreads; log aspect
    ("tile", 10, (0.5, 0.2, 0.2, 1.0, 1.0, *[0.15] * 5), 0.0, "given"),  # the same of each tile; five cosines of luma
)
CHANNELS = sum(group.size for group in GROUPS.values())
FIELDS = slice(0, GROUPS["local"].channels.stop)  # what describes motion and light


@cache
def scales() -> Tensor:
    """(1, C, 1, 1, 1): what a channel's number is multiplied with."""
    return torch.tensor([scale for group in GROUPS.values() for scale in group.scale]).view(1, -1, 1, 1, 1)


@cache
def weights() -> Tensor:
    """(1, C, 1, 1, 1): of squared errors; they add up to 1."""
    values = torch.tensor([group.weight for group in GROUPS.values() for _ in range(group.size)])
    return (values / values.sum()).view(1, -1, 1, 1, 1)


def tied(noise: Tensor, code: Tensor | None = None) -> Tensor:
    """Noise (B, C, f, h, w) as this layout has it.

    A value for the whole frame gets one number of noise, not one a tile, whose mean would give it away at every noise
    level but the highest (Ge et al., Preserve Your Own Correlation, 2023). The code is one draw a clip, (B, CODES):
    data and noise share it, a coupling in the sense of rectified flow (Liu et al., 2022), so that one step tells seeds
    apart.
    """
    noise = noise.clone()
    for group in GROUPS.values():
        if group.reach == "frame":
            noise[:, group.channels] = noise[:, group.channels, :, :1, :1]
        elif group.reach == "clip":
            own = noise[:, group.channels, :1, :1, :1] if code is None else code.to(noise)[:, :, None, None, None]
            noise[:, group.channels] = own
    return noise


def code_of(latents: Tensor) -> Tensor:
    """The code (B, CODES) that latents or noise hold."""
    return latents[:, GROUPS["code"].channels, 0, 0, 0]


def with_code(latents: Tensor, code: Tensor) -> Tensor:
    """A copy of latents (B, C, f, h, w) that holds `code` (B, CODES)."""
    latents = latents.clone()
    latents[:, GROUPS["code"].channels] = code.to(latents)[:, :, None, None, None]
    return latents
