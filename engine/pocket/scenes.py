"""Procedural pictures: landscapes, textures and toy scenes, drawn with numpy. Used for training and as examples."""

import numpy as np

Picture = np.ndarray  # float32 (H, W, 3) in [0, 1]
Masks = dict[str, np.ndarray]  # regions by name, float32 (H, W) in [0, 1]


def landscape(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Sky with a sun, rows of hills, sometimes water, houses or trees."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = _gradient(rng, y / height)
    if rng.random() < 0.6:
        cx, cy, r = rng.uniform(0, width), rng.uniform(0.05, 0.45) * height, rng.uniform(0.03, 0.12) * height
        _paint(picture, (x - cx) ** 2 + (y - cy) ** 2 < r * r, rng.uniform(0.7, 1.0, 3))
    picture += 0.12 * rng.random() * _clouds(rng, height, width)[..., None]
    horizon = rng.uniform(0.3, 0.65) * height
    for layer in range(rng.integers(1, 5)):
        ridge = horizon + layer * 0.12 * height - _ridge_line(rng, width) * rng.uniform(0.05, 0.25) * height
        colour = rng.uniform(0.05, 0.8, 3) * np.array([0.8, 1.0, 0.8])
        shade = colour * (1 + 0.25 * _clouds(rng, height, width)[..., None])
        picture = np.where((y > ridge)[..., None], shade, picture)
    if rng.random() < 0.35:
        level = rng.uniform(0.65, 0.85) * height
        ripple = 0.08 * np.sin(y * rng.uniform(0.6, 2.0) + 0.1 * x)[..., None]
        picture = np.where((y > level)[..., None], picture[::-1] * 0.5 + rng.uniform(0.0, 0.4, 3) + ripple, picture)
    for _ in range(rng.integers(0, 6)):
        _house(rng, picture, x, y) if rng.random() < 0.5 else _tree(rng, picture, x, y)
    return np.clip(picture, 0, 1).astype(np.float32)


def texture(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Coloured noise whose amplitude falls with frequency, as in photographs."""
    mixing = rng.normal(size=(3, 3)) * np.array([1.0, 0.35, 0.25])
    planes = np.stack([_clouds(rng, height, width, rng.uniform(0.7, 1.6)) for _ in range(3)], -1)
    return np.clip(rng.uniform(0.2, 0.8, 3) + rng.uniform(0.05, 0.3) * planes @ mixing.T, 0, 1).astype(np.float32)


def toy(rng: np.random.Generator, height: int, width: int) -> Picture:
    """A few flat shapes with hard edges on a plain gradient."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = _gradient(rng, y / height)
    for _ in range(rng.integers(2, 9)):
        cx, cy, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.06, 0.3) * height
        aspect = rng.uniform(0.5, 2)
        if rng.random() < 0.5:
            inside = ((x - cx) / aspect) ** 2 + ((y - cy) * aspect) ** 2 < size**2
        else:
            angle = rng.uniform(0, np.pi)
            along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
            across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
            inside = (abs(along) < size * aspect) & (abs(across) < size / aspect)
        _paint(picture, inside, rng.uniform(0, 1, 3))
    return np.clip(picture, 0, 1).astype(np.float32)


KINDS = (landscape, landscape, texture, toy)


def scene(rng: np.random.Generator, height: int, width: int) -> Picture:
    """One picture of a random kind, drawn at twice the size and averaged, so that edges are smooth."""
    big = KINDS[rng.integers(len(KINDS))](rng, 2 * height, 2 * width)
    return big.reshape(height, 2, width, 2, 3).mean((1, 3))


def _gradient(rng: np.random.Generator, share: np.ndarray) -> Picture:
    top, bottom = rng.uniform(0.1, 0.9, 3), rng.uniform(0.2, 1.0, 3)
    return top + share[..., None] * (bottom - top)


def _paint(picture: Picture, inside: np.ndarray, colour: np.ndarray) -> None:
    picture[inside] = colour


def _clouds(rng: np.random.Generator, height: int, width: int, power: float = 1.3) -> np.ndarray:
    """Noise (H, W) of unit variance with spectrum 1/f^power."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** power
    amplitude[0, 0] = 0
    phase = rng.normal(size=amplitude.shape) + 1j * rng.normal(size=amplitude.shape)
    field = np.fft.irfft2(amplitude * phase, s=(height, width))
    return field / (field.std() + 1e-6)


def _ridge_line(rng: np.random.Generator, width: int) -> np.ndarray:
    line = _clouds(rng, 2, width, rng.uniform(1.0, 1.8))[0]
    return (line - line.min()) / (np.ptp(line) + 1e-6)


def _house(rng: np.random.Generator, picture: Picture, x: np.ndarray, y: np.ndarray) -> None:
    height, width = y.shape
    left, size = rng.uniform(0, width), rng.uniform(0.08, 0.25) * height
    floor, roof = rng.uniform(0.6, 0.95) * height, size * rng.uniform(0.3, 0.8)
    ceiling, right = floor - size * rng.uniform(0.7, 2.5), left + size
    _paint(picture, (x > left) & (x < right) & (y < floor) & (y > ceiling), rng.uniform(0.2, 0.95, 3))
    slope = abs(x - (left + right) / 2) / (size / 2 + 1)
    _paint(picture, (y < ceiling) & (y > ceiling - roof * (1 - slope)) & (slope < 1.1), rng.uniform(0.1, 0.7, 3))
    pane = max(size / 6, 2)
    windows = ((x - left) % (2 * pane) > pane) & ((y - ceiling) % (2.5 * pane) > 1.4 * pane)
    front = (x < right - pane / 2) & (x > left) & (y < floor - pane) & (y > ceiling)
    _paint(picture, windows & front, rng.uniform(0.3, 1, 3))


def _tree(rng: np.random.Generator, picture: Picture, x: np.ndarray, y: np.ndarray) -> None:
    height, width = y.shape
    cx, floor, size = rng.uniform(0, width), rng.uniform(0.65, 0.98) * height, rng.uniform(0.06, 0.2) * height
    _paint(picture, (abs(x - cx) < size * 0.12) & (y < floor) & (y > floor - size * 1.2), np.array([0.3, 0.2, 0.12]))
    colour = rng.uniform(0.1, 0.6, 3) * np.array([0.7, 1.2, 0.5])
    for _ in range(rng.integers(2, 6)):
        dx, dy = rng.normal(0, size * 0.4, 2)
        crown = (x - cx - dx) ** 2 + (y - floor + 1.6 * size + dy) ** 2 < (size * rng.uniform(0.4, 0.8)) ** 2
        _paint(picture, crown, np.clip(colour * rng.uniform(0.7, 1.3), 0, 1))


def masked_landscape(rng: np.random.Generator, height: int, width: int) -> tuple[Picture, Masks]:
    """A landscape and where its sky, water, foliage and lamps are: float32 (H, W) in [0, 1], zero where it has none.

    By day, in the evening or at night; mountains, perhaps a lake or a sea that mirrors them, meadows, trees, a tower.
    """
    picture, masks = _masked(rng, 2 * height, 2 * width)
    picture = picture.reshape(height, 2, width, 2, 3).mean((1, 3))
    halved = {name: mask.reshape(height, 2, width, 2).mean((1, 3)).astype(np.float32) for name, mask in masks.items()}
    return picture, halved


SKIES = (  # colours at the top and at the horizon: blue, blue, overcast, evening, night
    ((0.25, 0.5, 0.85), (0.75, 0.85, 0.95)),
    ((0.25, 0.5, 0.85), (0.75, 0.85, 0.95)),
    ((0.82, 0.86, 0.9), (0.9, 0.92, 0.94)),
    ((0.4, 0.42, 0.65), (0.95, 0.75, 0.6)),
    ((0.05, 0.07, 0.16), (0.12, 0.15, 0.28)),
)
DIMMED = (1.0, 1.0, 1.0, 0.75, 0.35)  # light of everything below such a sky
NIGHT = 4
WALLS = np.array([[0.8, 0.75, 0.65], [0.65, 0.25, 0.2], [0.45, 0.42, 0.4]])


def _masked(rng: np.random.Generator, height: int, width: int) -> tuple[Picture, Masks]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    horizon, time = rng.uniform(0.4, 0.65) * height, int(rng.integers(len(SKIES)))
    top, low = (np.clip(np.array(colour) + rng.normal(0, 0.02, 3), 0, 1) for colour in SKIES[time])
    dim = DIMMED[time]
    picture = (top + np.clip(y / horizon, 0, 1)[..., None] * (low - top)).astype(np.float32)
    cover = np.clip(_clouds(rng, height, width, 1.6) - rng.uniform(0, 1.5), 0, 1)[..., None]
    picture += 0.8 * cover * (dim * np.array([0.95, 0.95, 0.97]) - picture)
    masks = {name: np.zeros((height, width), bool) for name in ("sky", "water", "foliage", "lamps")}
    masks["sky"][:] = True
    for layer in range(rng.integers(1, 4)):
        ridge = horizon - _ridge_line(rng, width) * rng.uniform(0.05, 0.28) * height * (1 - 0.25 * layer)
        haze = 0.5 - 0.2 * layer
        rock = np.array([0.38, 0.38, 0.36]) * _grain(rng, height, width, 0.2, 1.1)
        _cover(picture, masks, y > ridge, dim * rock * (1 - haze) + haze * low)
    has_water = rng.random() < 0.7
    meadow = rng.uniform(0.12, 0.3) * height if has_water else height - horizon
    green = dim * (np.array([0.25, 0.36, 0.14]) * rng.uniform(0.7, 1.3) + rng.normal(0, 0.015, 3))
    if has_water:
        mirrored = picture[np.clip((2 * horizon - y[:, 0]).astype(int), 0, height - 1)]
        depth = np.clip((y - horizon) / (height - horizon), 0, 1)[..., None]
        streaks = _clouds(rng, height, width // 8 + 1, 0.5).repeat(8, 1)[:, :width, None] * (0.02 + 0.05 * depth)
        own = np.array([0.15, 0.32, 0.42]) * (0.3 + 0.35 * depth) + streaks
        _cover(picture, masks, y > horizon, mirrored * (0.7 - 0.35 * depth) + dim * own, "water")
    bank = height - meadow + (0.3 - _ridge_line(rng, width)) * 0.25 * meadow
    _cover(picture, masks, y > bank, green * _grain(rng, height, width, 0.3, 0.5), "foliage")
    for _ in range(rng.integers(0, 7)):
        centre, floor = rng.uniform(0, width), height - rng.uniform(0.4, 0.95) * meadow
        size = rng.uniform(0.08, 0.22) * height
        leaves = green * rng.uniform(0.6, 1.1) * _grain(rng, height, width, 0.35, 0.6)
        trunk = (abs(x - centre) < 0.06 * size) & (y < floor) & (y > floor - size)
        _cover(picture, masks, trunk, dim * np.array([0.3, 0.2, 0.14]))
        ragged = 0.5 * size * (1 + 0.15 * _ridge_line(rng, width)[None])
        _cover(picture, masks, (x - centre) ** 2 + (y - floor + 1.2 * size) ** 2 < ragged**2, leaves, "foliage")
    if rng.random() < 0.6:
        centre, half = rng.uniform(0.1, 0.9) * width, rng.uniform(0.02, 0.06) * width
        tower = (abs(x - centre) < half) & (y > rng.uniform(0.15, 0.4) * height) & (y < height - 0.7 * meadow)
        _cover(picture, masks, tower, dim * rng.choice(WALLS) * _grain(rng, height, width, 0.06, 0.8))
    for _ in range(rng.integers(3, 12) if time == NIGHT else 0):
        radius = rng.uniform(0.005, 0.01) * height
        spot = (x - rng.uniform(0, width)) ** 2 + (y - rng.uniform(0.1, 0.9) * height) ** 2 < radius**2
        _cover(picture, masks, spot, np.array([1.0, 0.9, 0.7]), "lamps")
    return np.clip(picture, 0, 1).astype(np.float32), masks


def _grain(rng: np.random.Generator, height: int, width: int, amount: float, power: float) -> np.ndarray:
    """Noise (H, W, 1) about 1."""
    return 1 + amount * np.clip(_clouds(rng, height, width, power), -2, 2)[..., None]


def _cover(picture: Picture, masks: Masks, inside: np.ndarray, colour: np.ndarray, name: str = "") -> None:
    """Paint `colour`, one or one a pixel, and let the region `name`, or none, have the place."""
    picture[inside] = colour[inside] if colour.ndim == 3 else colour
    for region, mask in masks.items():
        mask[inside] = region == name
