"""The pocket world: what each prompt does to any picture, exactly.

A light move is a transfer of statistics (after Reinhard et al., Color Transfer between Images, 2001): brightness and
colour take the move's mean, and what differs from the mean is scaled to the move's contrast, leaving room for the
move's own vertical gradient. A move repeated changes next to nothing, and any chain of prompts has a true outcome.

Pixels are float in [−1, 1], (B, 3, H, W) for pictures and (B, 3, F, H, W) for clips. Knows nothing of models.
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
GAIN_RANGE = (0.3, 2.5)  # weaker would erase the picture for later clips, stronger would blow up codec noise
COLOUR_POWER = 0.5  # colours go half of the way (as a ratio): all of it makes pale photographs garish
NUM_FRAMES = 25
FPS = 12
HOLD = 4  # a move starts after this frame, so that five motion frames and one give the same motion


@dataclass(frozen=True)
class Light:
    """Target statistics in units of pixels in [−1, 1]; slopes go from the top (−1) to the bottom (+1)."""

    luma: float
    luma_slope: float
    contrast: float
    tint: tuple[float, float, float]
    tint_slope: tuple[float, float, float]
    saturation: float


@dataclass(frozen=True)
class Action:
    """One word of the vocabulary: a light move, or none for a picture that stays as it is."""

    name: str
    light: Light | None
    keywords: tuple[str, ...]
    phrases: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "stay" if self.light is None else "light"


NONE = (0.0, 0.0, 0.0)
ACTIONS: tuple[Action, ...] = (
    Action(
        "stay",
        None,
        ("stay", "still", "calm", "nothing", "rests", "unchanged", "waits"),
        (
            "{subject}",
            "{subject} stays still",
            "Nothing changes around {subject}",
            "{subject} in a quiet, calm moment",
            "{subject} rests, unchanged",
            "Everything stays as it is",
            "{subject} waits, the light is unchanged",
            "A still view of {subject}",
        ),
    ),
    Action(
        "night",
        Light(-0.66, 0.12, 0.17, (-0.10, -0.02, 0.24), (0.02, 0.0, -0.08), 0.04),
        ("night", "darkness", "moonlight", "dark", "midnight", "nightfall"),
        (
            "Night falls over {subject}",
            "Darkness falls on {subject}",
            "It becomes night, {subject} in the moonlight",
            "The night comes and {subject} lies in the dark",
            "{subject} at midnight",
            "{subject} grows dark",
            "Nightfall: moonlight covers {subject}",
        ),
    ),
    Action(
        "sunrise",
        Light(0.18, 0.12, 0.30, (0.24, 0.02, -0.36), (0.12, 0.0, -0.20), 0.10),
        ("sunrise", "dawn", "morning", "rises", "daybreak", "golden"),
        (
            "The sun rises over {subject}",
            "Sunrise: golden light fills {subject}",
            "Dawn breaks over {subject}",
            "A golden morning begins for {subject}",
            "{subject} in the morning light",
            "Daybreak, the sun rises and warms {subject}",
        ),
    ),
    Action(
        "noon",
        Light(0.12, 0.0, 0.40, NONE, NONE, 0.16),
        ("noon", "midday", "daylight", "bright", "clears", "sunny"),
        (
            "Bright daylight over {subject}",
            "Noon: the sky clears above {subject}",
            "{subject} at midday",
            "A sunny day, {subject} in clear daylight",
            "The weather clears and {subject} is bright again",
            "Sunny midday light on {subject}",
        ),
    ),
    Action(
        "sunset",
        Light(-0.20, -0.25, 0.28, (0.36, -0.09, -0.48), (0.20, -0.08, -0.18), 0.11),
        ("sunset", "dusk", "evening", "sets", "twilight"),
        (
            "Sunset over {subject}",
            "The sun sets behind {subject}",
            "Dusk: a red evening light on {subject}",
            "{subject} in the evening glow",
            "Evening comes and the sun sets over {subject}",
            "Red twilight covers {subject}",
        ),
    ),
    Action(
        "fog",
        Light(0.44, -0.10, 0.15, (-0.02, 0.0, 0.04), NONE, 0.015),
        ("fog", "mist", "haze", "foggy", "misty"),
        (
            "Fog rolls in over {subject}",
            "Mist covers {subject}",
            "A thick fog hides {subject}",
            "{subject} disappears in the haze",
            "{subject} becomes foggy",
            "Misty air drifts around {subject}",
        ),
    ),
    Action(
        "storm",
        Light(-0.40, 0.20, 0.23, (-0.08, 0.04, 0.02), NONE, 0.03),
        ("storm", "thunder", "rain", "clouds", "stormy"),
        (
            "A storm gathers over {subject}",
            "Dark storm clouds cover {subject}",
            "Thunder and rain come to {subject}",
            "{subject} under stormy clouds",
            "Heavy rain falls on {subject}",
            "The storm reaches {subject}",
        ),
    ),
    Action(
        "autumn",
        Light(-0.06, 0.0, 0.32, (0.30, 0.00, -0.70), (0.0, 0.02, -0.10), 0.13),
        ("autumn", "fall", "october", "leaves"),
        (
            "Autumn comes to {subject}",
            "{subject} in autumn colours",
            "Yellow leaves of autumn around {subject}",
            "Autumn: golden brown leaves cover {subject}",
            "October colours {subject}",
            "The leaves turn brown near {subject}",
        ),
    ),
    Action(
        "winter",
        Light(0.34, 0.12, 0.27, (-0.20, 0.02, 0.42), NONE, 0.03),
        ("winter", "snow", "frost", "ice", "snowy", "freezes", "cold"),
        (
            "Winter comes to {subject}",
            "Snow covers {subject}",
            "Frost and ice settle on {subject}",
            "{subject} on a cold winter day",
            "{subject} freezes, snowy and white",
            "Cold snow falls on {subject}",
        ),
    ),
)
BY_NAME = {action.name: action for action in ACTIONS}

SUBJECTS = (
    "the harbour", "the city", "an old town", "the valley", "a quiet street", "the mountains", "the lake", "the castle",
    "a small house", "the cat", "the forest", "a garden", "the sea", "the bridge", "a boat on the water", "the field",
    "the temple", "a lonely tree", "the woman", "a man in a coat", "the street market", "the tower", "the village",
    "a dog in the grass", "the river", "the desert", "the beach", "the train station", "a lighthouse", "the road",
    "the hills", "the island", "the picture", "the scene", "the whole view", "a child by the window", "the square",
)  # fmt: skip
OPENINGS = (
    "", "", "", "", "a wide shot, ", "cinematic, ", "slowly, ", "now ", "then ", "and ", "in this clip, ",
    "over time, ",
)  # fmt: skip
ENDINGS = (
    "", "", "", "", ", slowly", ", cinematic", " little by little", " again", ", high detail", ", beautiful",
    " as time passes",
)  # fmt: skip


def _loose_words() -> tuple[str, ...]:
    """Words that ask for nothing by themselves, and as many that the model does not know."""
    phrases = [phrase.replace("{subject}", "") for action in ACTIONS for phrase in action.phrases]
    keywords = {word for action in ACTIONS for word in action.keywords}
    common = sorted({word for text in (*phrases, *SUBJECTS) for word in words_of(text)} - keywords)
    return (*common, *["…unknown…"] * len(common))


def ease(frame: Tensor) -> Tensor:
    """Share of a move that is done at `frame`: 0 up to frame HOLD, 1 at the last, with flat ends (smootherstep)."""
    u = ((frame - HOLD) / (NUM_FRAMES - 1 - HOLD)).clamp(0, 1)
    return u**3 * (u * (6 * u - 15) + 10)


def apply_light(pictures: Tensor, light: Light) -> Tensor:
    """The pictures (B, 3, H, W) after the move; applying it again changes nothing but what clipping does."""
    weights = pictures.new_tensor(LUMA).view(1, 3, 1, 1)
    luma = (pictures * weights).sum(1, keepdim=True)
    tint, tint_slope = (_without_luma(pictures.new_tensor(colour)) for colour in (light.tint, light.tint_slope))
    lit = light.luma + _towards(luma, light.contrast, pictures.new_tensor(light.luma_slope), 1.0)
    return (lit + tint + _towards(pictures - luma, light.saturation, tint_slope, COLOUR_POWER)).clamp(-1, 1)


def perform(pictures: Tensor, action: Action) -> Tensor:
    """The pictures after `action`."""
    return pictures if action.light is None else apply_light(pictures, action.light)


def transition(before: Tensor, after: Tensor) -> Tensor:
    """A clip (B, 3, 25, H, W) from one picture to the other, still up to frame HOLD."""
    share = ease(torch.arange(NUM_FRAMES, dtype=before.dtype, device=before.device)).view(1, 1, -1, 1, 1)
    return before[:, :, None] + share * (after - before)[:, :, None]


def clip_after(earlier: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """A clip that begins with the last five frames of the move earlier → before, then moves to `after`."""
    clip = transition(before, after)
    tail = transition(earlier, before)[:, :, -HOLD - 1 :]
    return torch.cat([tail, clip[:, :, HOLD + 1 :]], dim=2)


def caption(action: Action, generator: random.Random) -> str:
    """A random English sentence that asks for `action`, or a few loose words around one of its keywords."""
    if generator.random() < 0.25:
        words = generator.choices(LOOSE_WORDS, k=generator.randint(0, 9))
        if action.kind != "stay" or generator.random() < 0.5:
            words.insert(generator.randint(0, len(words)), generator.choice(action.keywords))
        return " ".join(words)
    phrase = generator.choice(action.phrases).format(subject=generator.choice(SUBJECTS))
    text = generator.choice(OPENINGS) + phrase + generator.choice(ENDINGS)
    if generator.random() < 0.3:
        text = text.lower()
    return text + generator.choice(("", "", ".", "!"))


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation, as the tokenizer splits it."""
    return "".join(character if character.isalnum() else " " for character in text.lower()).split()


def vertical_axis(pictures: Tensor) -> Tensor:
    """y in [−1, 1], top to bottom, (1, 1, H, 1)."""
    height = pictures.shape[-2]
    y = (2 * torch.arange(height, dtype=pictures.dtype, device=pictures.device) + 1) / height - 1
    return y.view(1, 1, -1, 1)


def _towards(planes: Tensor, spread: float, slope: Tensor, power: float) -> Tensor:
    """Deviations from the mean, scaled towards `spread`; as much as they lose goes to the gradient `slope`·y."""
    deviations = planes - planes.mean((-2, -1), keepdim=True)
    own = deviations.square().mean((1, 2, 3), keepdim=True).sqrt()
    gain = (spread / own.clamp(min=1e-3)).pow(power).clamp(*GAIN_RANGE)
    return gain * deviations + (1 - gain).clamp(min=0) * slope * vertical_axis(planes)


def _without_luma(colour: Tensor) -> Tensor:
    colour = colour.view(1, 3, 1, 1)
    return colour - (colour * colour.new_tensor(LUMA).view(1, 3, 1, 1)).sum()


LOOSE_WORDS = _loose_words()
