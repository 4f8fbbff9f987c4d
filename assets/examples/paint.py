"""Paints the pictures of the two example films: `python assets/examples/paint.py [FOLDER]`.

Everything is drawn here from noise and simple shapes, so that the examples carry no one else's rights.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 1152, 768


def clouds(rng: np.random.Generator, height: int, width: int, power: float = 1.4) -> np.ndarray:
    """Smooth noise (height, width) with mean 0 and deviation 1, stretched sideways."""
    fy, fx = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    radius = np.sqrt((fy * 0.7) ** 2 + (fx * 1.6) ** 2)
    spectrum = rng.normal(size=radius.shape) + 1j * rng.normal(size=radius.shape)
    plane = np.fft.irfft2(spectrum / np.maximum(radius, 1) ** power, s=(height, width))
    return (plane - plane.mean()) / plane.std()


def ridge(rng: np.random.Generator, width: int, roughness: float) -> np.ndarray:
    """A mountain line (width,) with mean 0 and deviation 1."""
    frequency = np.fft.rfftfreq(width) * width
    spectrum = (rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)) / np.maximum(
        frequency, 1.5
    ) ** roughness
    line = np.fft.irfft(spectrum, n=width)
    return (line - line.mean()) / line.std()


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    return a * (1 - share[..., None]) + b * share[..., None]


def sky(rng: np.random.Generator, top: tuple, low: tuple, *, horizon: float, cover: float) -> np.ndarray:
    """A gradient with lit clouds, (HEIGHT, WIDTH, 3) in [0, 1]."""
    y = np.linspace(0, 1, HEIGHT)[:, None].repeat(WIDTH, 1)
    picture = mix(np.full((HEIGHT, WIDTH, 3), top), np.full((HEIGHT, WIDTH, 3), low), (y / horizon).clip(0, 1) ** 0.8)
    field = clouds(rng, HEIGHT, WIDTH, 1.7)
    body = ((field - (1.0 - cover)) / 1.2).clip(0, 1) ** 0.8 * (1 - 0.6 * (y / horizon).clip(0, 1))
    lit = ((field - np.roll(field, 14, axis=0)) * 1.5 + 0.65).clip(0, 1)
    return mix(picture, mix(np.full_like(picture, (0.72, 0.76, 0.84)), np.ones_like(picture), lit), body * 0.9)


def lake() -> Image.Image:
    """Mountains in haze above a lake, pines on the near shore."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    horizon = 0.62 * HEIGHT
    picture = sky(rng, (0.25, 0.50, 0.82), (0.86, 0.91, 0.95), horizon=0.62, cover=0.55)
    near, far = np.array((0.20, 0.33, 0.30)), np.array((0.70, 0.79, 0.88))
    for layer, depth in enumerate((1.0, 0.72, 0.45, 0.2)):
        line = horizon - (90 + 150 * depth) + 40 * layer - (62 - 8 * layer) * ridge(rng, WIDTH, 1.55 - 0.08 * layer)
        rock = clouds(rng, HEIGHT, WIDTH, 1.15) * 0.06 * (1 - depth * 0.7)
        slope = np.gradient(line)[None] * -0.16 * (1.1 - depth)
        colour = (near * (1 - depth) + far * depth)[None, None] * (1 + rock + slope)[..., None]
        snow = ((line + 46 + 14 * clouds(rng, HEIGHT, WIDTH, 1.2) - y) / 14).clip(0, 1) * (0.95 if depth > 0.4 else 0)
        picture = mix(picture, mix(colour, np.full_like(colour, (0.97, 0.98, 1.0)), snow), (y > line).astype(float))
        haze = ((y - line) / 260).clip(0, 1) * 0.45 * depth
        picture = mix(picture, np.full_like(picture, (0.84, 0.89, 0.94)), np.where(y > line, haze, 0))
    shore = horizon
    below = y > shore
    wave = clouds(rng, HEIGHT, WIDTH, 1.2) * 3.5 * ((y - shore) / HEIGHT).clip(0, 1) * 4
    mirror_y = (2 * shore - y + wave).clip(0, HEIGHT - 1).astype(int)
    mirror_x = (x + wave).clip(0, WIDTH - 1).astype(int)
    water = picture[mirror_y, mirror_x] * np.array((0.72, 0.84, 0.90)) + np.array((0.0, 0.02, 0.04))
    picture = np.where(below[..., None], water, picture)
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    bank = 0.90 * HEIGHT - 26 * ridge(rng, WIDTH, 1.8) - 50 * np.exp(-(((np.arange(WIDTH) - 100) / 260) ** 2))
    draw.polygon([(0, HEIGHT), *((i, float(v)) for i, v in enumerate(bank)), (WIDTH, HEIGHT)], fill=(44, 66, 40))
    for _ in range(52):
        left = int(abs(rng.normal(0, 230)) if rng.random() < 0.72 else WIDTH - abs(rng.normal(0, 110))) % WIDTH
        pine(draw, rng, left, float(bank[left]) + 10, rng.uniform(60, 210))
    for _ in range(900):
        left = int(rng.integers(WIDTH))
        foot = float(rng.uniform(bank[left], HEIGHT))
        green = tuple(int(v) for v in np.array((70, 104, 52)) * rng.uniform(0.6, 1.35))
        draw.line([(left, foot), (left + rng.normal(0, 4), foot - rng.uniform(6, 18))], fill=green, width=2)
    return image


def pine(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, foot: float, height: float) -> None:
    base = np.array((34, 62, 44)) * rng.uniform(0.7, 1.25)
    draw.rectangle([x - 3, foot - height * 0.2, x + 3, foot], fill=(58, 42, 30))
    for level in range(9):
        share = level / 9
        half = height * 0.20 * (1 - share) * rng.uniform(0.85, 1.1) + 3
        top = foot - height * (0.22 + 0.78 * share)
        fill = tuple(int(v) for v in base * (0.8 + 0.5 * share))
        draw.polygon(
            [(x - half, top + height * 0.13), (x, top - height * 0.06), (x + half, top + height * 0.13)], fill=fill
        )


def lighthouse() -> Image.Image:
    """A lighthouse and a small house on a headland above the sea."""
    rng = np.random.default_rng(23)
    y, _x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    horizon = 0.56 * HEIGHT
    picture = sky(rng, (0.32, 0.56, 0.85), (0.90, 0.93, 0.93), horizon=0.56, cover=0.75)
    depth = ((y - horizon) / (HEIGHT - horizon)).clip(0, 1)
    sea = mix(np.full_like(picture, (0.44, 0.66, 0.74)), np.full_like(picture, (0.05, 0.27, 0.40)), depth**0.7)
    row = (np.log1p(depth * 30) * 60).astype(int)
    swell = clouds(rng, 300, WIDTH, 0.9)[row.clip(0, 299), np.arange(WIDTH)[None]]
    foam = (swell > 1.9).astype(float) * depth**0.5
    sea = mix(sea * (1 + 0.10 * swell * (0.3 + depth))[..., None], np.full_like(sea, (0.93, 0.96, 0.97)), foam * 0.8)
    picture = np.where((y > horizon)[..., None], sea, picture)
    line = 0.60 * HEIGHT + 300 * ((np.arange(WIDTH) / WIDTH - 0.60) / 0.4).clip(-9, 0) ** 2 * 2.4
    line = line + 10 * ridge(rng, WIDTH, 1.3) - 26 * np.exp(-(((np.arange(WIDTH) - 930) / 170) ** 2))
    rock = clouds(rng, HEIGHT, WIDTH, 0.95)
    under = ((y - line) / 120).clip(0, 1)
    grass = np.array((0.42, 0.54, 0.26)) * (1 + 0.16 * rock)[..., None]
    cliff = np.array((0.47, 0.43, 0.39)) * (1 + 0.28 * clouds(rng, WIDTH, HEIGHT, 0.9).T + 0.1 * rock)[..., None]
    edge = ((under - 0.34 + 0.1 * rock) * 9).clip(0, 1)
    picture = np.where((y > line)[..., None], mix(grass, cliff, edge), picture)
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    ground = float(line[880]) + 6
    tower(draw, 880, ground, 330)
    house(draw, 1000, float(line[1000]) + 10)
    for _ in range(9):
        left, top, size = rng.uniform(80, 700), rng.uniform(90, 330), rng.uniform(5, 11)
        draw.arc([left - size, top, left, top + size], 200, 340, fill=(70, 76, 86), width=2)
        draw.arc([left, top, left + size, top + size], 200, 340, fill=(70, 76, 86), width=2)
    return image


def tower(draw: ImageDraw.ImageDraw, x: float, ground: float, height: float) -> None:
    """A tapering tower in red and white bands, shaded from the left, with a lantern room."""
    for band in range(7):
        low, high = band / 7, (band + 1) / 7
        for strip in range(24):
            across = strip / 24 * 2 - 1
            light = 1.05 - 0.42 * (across * 0.5 + 0.5) ** 1.5
            colour = (236, 232, 224) if band % 2 == 0 else (196, 60, 48)
            fill = tuple(min(255, int(v * light)) for v in colour)
            corners = []
            for level, side in ((low, across), (low, across + 1 / 12), (high, across + 1 / 12), (high, across)):
                half = 44 - 18 * level
                corners.append((x + side * half, ground - level * height))
            draw.polygon(corners, fill=fill)
    top = ground - height
    draw.rectangle([x - 36, top - 8, x + 36, top], fill=(64, 66, 72))
    draw.rectangle([x - 19, top - 48, x + 19, top - 8], fill=(250, 226, 150))
    for bar in (-19, -7, 6, 18):
        draw.line([(x + bar, top - 48), (x + bar, top - 8)], fill=(60, 62, 68), width=3)
    draw.polygon([(x - 27, top - 46), (x, top - 82), (x + 27, top - 46)], fill=(150, 44, 38))
    for level in (0.22, 0.52, 0.8):
        draw.rectangle([x - 8, ground - level * height - 22, x + 5, ground - level * height], fill=(56, 60, 74))


def house(draw: ImageDraw.ImageDraw, x: float, ground: float) -> None:
    draw.rectangle([x, ground - 66, x + 112, ground], fill=(240, 236, 226))
    draw.rectangle([x + 78, ground - 66, x + 112, ground], fill=(206, 200, 192))
    draw.polygon(
        [(x - 10, ground - 64), (x + 18, ground - 110), (x + 96, ground - 110), (x + 122, ground - 64)],
        fill=(122, 62, 50),
    )
    for left in (14, 44, 88):
        draw.rectangle([x + left, ground - 48, x + left + 15, ground - 24], fill=(70, 84, 104))
    draw.rectangle([x + 64, ground - 44, x + 80, ground], fill=(96, 66, 48))


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, picture in (("lake", lake()), ("lighthouse", lighthouse())):
        smooth = picture.filter(ImageFilter.GaussianBlur(0.7))
        smooth.save(folder / f"{name}.jpg", quality=92)


if __name__ == "__main__":
    main()
