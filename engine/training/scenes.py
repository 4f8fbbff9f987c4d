"""Procedural pictures: landscapes, textures and toy scenes, drawn with numpy. Used for training and as examples."""

import numpy as np

Picture = np.ndarray  # float32 (H, W, 3) in [0, 1]


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
