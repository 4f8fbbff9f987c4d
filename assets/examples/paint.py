"""Paints the pictures that ship: of the two example films, and to be found by keyword. `paint.py [FOLDER]`.

Everything is drawn here from noise and simple shapes, so that the examples carry no one else's rights.
"""

import sys
from itertools import pairwise
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


def street() -> Image.Image:
    """A dog sits in an old street in the late afternoon."""
    rng = np.random.default_rng(41)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    far = np.array((0.54 * WIDTH, 0.47 * HEIGHT))
    picture = sky(rng, (0.42, 0.62, 0.86), (0.99, 0.90, 0.74), horizon=0.5, cover=0.45)
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for side in (-1, 1):
        facades(draw, rng, far, side)
    picture = np.asarray(image) / 255
    depth = ((y - far[1]) / (HEIGHT - far[1])).clip(0, 1)
    across = (x - far[0]) / np.maximum(depth * 620, 1)
    row = 9 * np.log(np.maximum(depth, 0.01))
    joint = np.minimum(np.abs(row * 2 % 1 - 0.5), np.abs((across * 9 + np.floor(row * 2) * 0.5) % 1 - 0.5) * 1.1)
    stone = 1 + 0.09 * clouds(rng, HEIGHT, WIDTH, 0.9) + 0.05 * clouds(rng, HEIGHT, WIDTH, 0.5)
    shade = (0.80 + 0.20 * (joint < 0.42)) * stone * (0.82 + 0.18 * (across > -0.15))
    cobbles = mix(np.full_like(picture, (0.95, 0.80, 0.62)), np.full_like(picture, (0.50, 0.43, 0.40)), depth**0.5)
    on_road = ((np.abs(across) < 0.62) & (y > far[1])).astype(float)
    pavement = ((np.abs(across) < 0.86) & (y > far[1])).astype(float)
    picture = mix(picture, np.full_like(picture, (0.63, 0.56, 0.52)) * stone[..., None], pavement)
    picture = mix(picture, cobbles * shade[..., None], on_road)
    glow = np.exp(-(((x - far[0]) / 230) ** 2 + ((y - far[1] + 20) / 190) ** 2))
    picture = mix(picture, np.full_like(picture, (1.0, 0.88, 0.62)), 0.75 * glow)
    foot = np.exp(-((((x - 690) / 190) ** 2 + ((y - 706) / 24) ** 2) ** 2))
    picture = picture * (1 - 0.45 * foot[..., None])
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    dog(image, 640, 704)
    return image


def facades(draw: ImageDraw.ImageDraw, rng: np.random.Generator, far: np.ndarray, side: int) -> None:
    """House fronts along one side of the street, which runs to the point `far`; the nearest is drawn last."""
    ends = 1 / np.linspace(9.5, 0.8, 8) ** 0.92
    colours = ((222, 190, 150), (203, 146, 112), (226, 208, 178), (186, 128, 104), (208, 178, 128), (178, 160, 148))
    for number, (back, front) in enumerate(pairwise(ends)):
        height = rng.uniform(1.25, 1.6)
        light = (0.70 if side > 0 else 1.0) * rng.uniform(0.94, 1.04)

        def at(share: float, up: float, back: float = back, front: float = front) -> tuple[float, float]:
            scale = 1 / (1 / back + (1 / front - 1 / back) * share)
            return float(far[0] + side * 0.86 * 620 * scale), float(far[1] + (1 - up * 1.9) * scale * (HEIGHT - far[1]))

        haze = 1 - front
        wall = np.array(colours[(number + (side > 0) * 3) % len(colours)]) * light * (1 - haze * 0.5)
        wall = wall + np.array((250, 222, 176)) * haze * 0.5
        tone = lambda share, wall=wall: tuple(int(v) for v in (wall * share).clip(0, 255))  # noqa: E731
        draw.polygon([at(0, 0), at(0, height), at(1, height), at(1, 0)], fill=tone(1))
        draw.polygon([at(0, height), at(0, height + 0.07), at(1, height + 0.07), at(1, height)], fill=tone(0.55))
        draw.polygon([at(0, 0), at(0, 0.09), at(1, 0.09), at(1, 0)], fill=tone(0.72))
        for left in (0.12, 0.42, 0.72):
            for low in (0.2, 0.62, 1.02):
                if low + 0.26 > height:
                    continue
                door = low == 0.2 and left == 0.42
                bottom, top = (0.0, 0.44) if door else (low, low + 0.24)
                corners = [(left, bottom), (left, top), (left + 0.17, top), (left + 0.17, bottom)]
                edge = [
                    (left - 0.02, bottom),
                    (left - 0.02, top + 0.03),
                    (left + 0.19, top + 0.03),
                    (left + 0.19, bottom),
                ]
                draw.polygon([at(*corner) for corner in edge], fill=tone(1.12))
                pane = (96, 66, 48) if door else (74, 84, 98) if side > 0 else (120, 132, 140)
                mixed = np.array(pane) * (1 - haze * 0.5) + np.array((250, 222, 176)) * haze * 0.5
                draw.polygon([at(*corner) for corner in corners], fill=tuple(int(v) for v in mixed))
                if not door:
                    draw.line(
                        [at(left + 0.085, bottom), at(left + 0.085, top)], fill=tone(1.1), width=1 + int(4 * front)
                    )


def dog(image: Image.Image, x: float, ground: float) -> None:
    """A brown dog that sits and looks to the left, 250 pixels high, lit from behind; drawn large and scaled down."""
    scale = 4
    layer = Image.new("RGBA", (360 * scale, 300 * scale), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    coat, dark, light = (142, 92, 52, 255), (98, 60, 34, 255), (206, 164, 116, 255)

    def oval(left: float, top: float, right: float, bottom: float, fill: tuple) -> None:
        draw.ellipse([left * scale, top * scale, right * scale, bottom * scale], fill=fill)

    def shape(points: list[tuple[float, float]], fill: tuple) -> None:
        draw.polygon([(a * scale, b * scale) for a, b in points], fill=fill)

    curve = [(250 + 78 * t, 276 - 66 * t**1.6) for t in np.linspace(0, 1, 20)]
    for t, (a, b) in zip(np.linspace(0, 1, 20), curve, strict=True):
        oval(a - 11 + 5 * t, b - 11 + 5 * t, a + 11 - 5 * t, b + 11 - 5 * t, dark)
    shape([(120, 118), (176, 104), (232, 168), (262, 232), (262, 288), (150, 288), (128, 210)], coat)
    oval(172, 176, 276, 292, coat)
    oval(192, 214, 270, 292, dark)
    oval(186, 208, 262, 290, coat)
    shape([(126, 190), (152, 190), (150, 284), (128, 284)], dark)
    shape([(146, 176), (182, 186), (176, 286), (152, 286)], coat)
    oval(112, 274, 156, 294, dark)
    oval(136, 276, 186, 296, coat)
    oval(196, 276, 262, 296, coat)
    oval(114, 112, 178, 214, coat)
    oval(116, 140, 154, 210, light)
    shape([(118, 76), (178, 66), (182, 140), (124, 150)], coat)
    oval(94, 26, 178, 108, coat)
    shape([(112, 58), (52, 78), (46, 98), (62, 112), (122, 106)], coat)
    oval(44, 76, 84, 112, coat)
    shape([(56, 98), (112, 92), (118, 106), (66, 113)], light)
    oval(41, 74, 61, 92, (34, 26, 24, 255))
    draw.line([(60 * scale, 101 * scale), (100 * scale, 97 * scale)], fill=dark, width=2 * scale)
    oval(98, 54, 112, 68, (30, 22, 20, 255))
    oval(101, 56, 106, 61, (240, 236, 230, 255))
    shape([(138, 34), (166, 28), (188, 62), (186, 108), (166, 116), (150, 84)], dark)
    shape([(120, 134), (180, 124), (184, 138), (122, 150)], (176, 44, 40, 255))
    oval(136, 144, 150, 158, (232, 196, 84, 255))
    alpha = layer.getchannel("A")
    rim = np.asarray(alpha).astype(float) - np.roll(np.asarray(alpha).astype(float), (8, -10), (0, 1))
    pixels = np.asarray(layer).astype(float)
    down = np.linspace(1.06, 0.8, layer.height)[:, None, None]
    fur = 1 + 0.07 * clouds(np.random.default_rng(3), layer.height, layer.width, 0.6)[..., None]
    pixels[..., :3] = (pixels[..., :3] * down * fur + rim.clip(0, 255)[..., None] * np.array((0.5, 0.42, 0.28))).clip(
        0, 255
    )
    small = Image.fromarray(pixels.astype(np.uint8)).resize((360, 300), Image.Resampling.LANCZOS)
    image.paste(small, (int(x) - 110, int(ground) - 288), small)


def quay() -> Image.Image:
    """Fishing boats in a harbour in the evening, houses along the quay."""
    rng = np.random.default_rng(57)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    waterline = 0.58 * HEIGHT
    picture = sky(rng, (0.30, 0.42, 0.68), (0.99, 0.80, 0.60), horizon=0.58, cover=0.6)
    sun = np.exp(-(((x - 830) / 260) ** 2 + ((y - waterline + 40) / 120) ** 2))
    picture = mix(picture, np.full_like(picture, (1.0, 0.86, 0.58)), 0.7 * sun)
    for depth, low in ((0.75, 120), (0.45, 70)):
        line = waterline - low - 22 * ridge(rng, WIDTH, 1.6) + 60 * (x[0] / WIDTH - 0.3)
        hill = np.full_like(picture, np.array((0.36, 0.36, 0.46)) * (1 - depth) + np.array((0.86, 0.72, 0.66)) * depth)
        picture = mix(picture, hill, (y > line).astype(float))
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    left = -20.0
    walls = ((196, 92, 72), (226, 190, 120), (150, 172, 178), (232, 214, 190), (178, 120, 92), (120, 146, 128))
    for number in range(9):
        width, height = rng.uniform(64, 92), rng.uniform(96, 150) * (1 - number * 0.045)
        townhouse(draw, left, waterline - 14, width, height, walls[number % len(walls)])
        left += width
    draw.rectangle([0, waterline - 14, left + 60, waterline + 6], fill=(92, 84, 82))
    for place, size, hull in ((930, 0.72, (70, 96, 120)), (640, 0.95, (168, 60, 52)), (300, 1.25, (54, 92, 106))):
        boat(draw, place, waterline + 4 + 62 * (size - 0.6), size * 118, hull)
    picture = np.asarray(image) / 255
    edge = waterline + 4 + 62 * 0.4
    wave = clouds(rng, HEIGHT, WIDTH, 1.1) * 3.2 * (0.4 + ((y - waterline) / HEIGHT).clip(0, 1) * 5)
    mirror_y = (2 * edge - y + wave).clip(0, HEIGHT - 1).astype(int)
    mirror_x = (x + wave * 0.8).clip(0, WIDTH - 1).astype(int)
    depth = ((y - waterline) / (HEIGHT - waterline)).clip(0, 1)
    water = picture[mirror_y, mirror_x] * 0.66 + np.array((0.03, 0.07, 0.11))
    water = mix(water, np.full_like(picture, (0.07, 0.16, 0.24)), 0.55 * depth)
    spark = (clouds(rng, HEIGHT, WIDTH, 0.7) > 2.0) * np.exp(-(((x - 830) / 170) ** 2))
    water = mix(water, np.full_like(picture, (1.0, 0.90, 0.66)), (0.75 * spark).clip(0, 1))
    below = (y > waterline + 6) & ~boats_mask(waterline)
    picture = np.where(below[..., None], water, picture)
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.polygon([(0, HEIGHT), (0, 712), (420, 738), (560, HEIGHT)], fill=(86, 78, 74))
    draw.polygon([(0, 712), (420, 738), (424, 746), (0, 722)], fill=(136, 122, 112))
    for place in (90, 250, 390):
        draw.rectangle([place, 684 + place * 0.06, place + 26, 722 + place * 0.06], fill=(52, 48, 50))
        draw.ellipse([place - 5, 674 + place * 0.06, place + 31, 692 + place * 0.06], fill=(72, 68, 68))
    for _ in range(8):
        a, b, size = rng.uniform(120, 1050), rng.uniform(70, 250), rng.uniform(5, 10)
        draw.arc([a - size, b, a, b + size], 200, 340, fill=(72, 70, 84), width=2)
        draw.arc([a, b, a + size, b + size], 200, 340, fill=(72, 70, 84), width=2)
    return image


def boats_mask(waterline: float) -> np.ndarray:
    """Where the boats of `quay` are, (HEIGHT, WIDTH) bool: their hulls stand before the water."""
    mask = Image.new("L", (WIDTH, HEIGHT))
    for place, size in ((930, 0.72), (640, 0.95), (300, 1.25)):
        boat(ImageDraw.Draw(mask), place, waterline + 4 + 62 * (size - 0.6), size * 118, None)
    return np.asarray(mask) > 0


def townhouse(draw: ImageDraw.ImageDraw, x: float, ground: float, width: float, height: float, wall: tuple) -> None:
    draw.rectangle([x, ground - height, x + width, ground], fill=wall)
    draw.rectangle([x + width * 0.86, ground - height, x + width, ground], fill=tuple(int(v * 0.8) for v in wall))
    roof = [(x - 3, ground - height), (x + width / 2, ground - height - 34), (x + width + 3, ground - height)]
    draw.polygon(roof, fill=(112, 66, 56))
    for row in range(int(height // 36)):
        for column in range(3):
            a, b = x + width * (0.14 + 0.26 * column), ground - height + 14 + 34 * row
            lit = (row * 7 + column * 3 + int(width)) % 4 == 0
            draw.rectangle([a, b, a + width * 0.15, b + 18], fill=(252, 214, 130) if lit else (64, 68, 84))


def boat(draw: ImageDraw.ImageDraw, x: float, water: float, size: float, hull: tuple | None) -> None:
    """A fishing boat `size` pixels to each side of x, with a cabin and a mast; hull None: its outline for a mask."""

    def tone(colour: tuple) -> tuple | int:
        return colour if hull else 255

    mast = x + size * 0.12
    draw.line(
        [(mast, water - size * 0.3), (mast, water - size * 1.65)], fill=tone((70, 54, 46)), width=max(3, int(size / 24))
    )
    for end in (-0.92, 0.86):
        draw.line([(mast, water - size * 1.6), (x + size * end, water - size * 0.36)], fill=tone((88, 74, 66)), width=2)
    draw.line([(mast, water - size * 0.75), (x + size * 0.75, water - size * 1.1)], fill=tone((88, 74, 66)), width=3)
    draw.rectangle([x - size * 0.5, water - size * 0.72, x, water - size * 0.3], fill=tone((232, 224, 208)))
    draw.rectangle(
        [x - size * 0.56, water - size * 0.79, x + size * 0.06, water - size * 0.71], fill=tone((150, 82, 62))
    )
    for left in (-0.44, -0.22):
        draw.rectangle(
            [x + size * left, water - size * 0.64, x + size * (left + 0.14), water - size * 0.48],
            fill=tone((70, 84, 100)),
        )
    top = [(x - size, water - size * 0.42), (x - size * 0.3, water - size * 0.3), (x + size * 0.9, water - size * 0.38)]
    bottom = [(x + size * 0.74, water), (x - size * 0.8, water)]
    draw.polygon([*top, *bottom], fill=tone(hull or (0, 0, 0)))
    draw.line(top, fill=tone((238, 230, 214)), width=max(3, int(size / 22)))
    draw.polygon(
        [(x - size * 0.87, water - size * 0.16), (x + size * 0.79, water - size * 0.16), *bottom],
        fill=tone((62, 40, 40)),
    )


def woods() -> Image.Image:
    """A path into a wood of tall trees, morning light between the trunks."""
    rng = np.random.default_rng(73)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    light = np.array((0.97, 0.96, 0.76))
    far = np.array((0.56 * WIDTH, 0.54 * HEIGHT))
    glow = np.exp(-(((x - far[0]) / 420) ** 2 + ((y - far[1] + 120) / 330) ** 2))
    picture = mix(np.full((HEIGHT, WIDTH, 3), (0.40, 0.54, 0.34)), np.full((HEIGHT, WIDTH, 3), light), glow)
    leaves = clouds(rng, HEIGHT, WIDTH, 1.0)
    picture = mix(picture, np.full_like(picture, (0.30, 0.46, 0.22)), (leaves - 0.4).clip(0, 1) * 0.5 * (1 - glow))
    floor = far[1] + 8 * ridge(rng, WIDTH, 1.6)
    depth = ((y - floor) / (HEIGHT - floor)).clip(0, 1)
    grass = 1 + 0.20 * clouds(rng, HEIGHT, WIDTH, 0.8) + 0.14 * clouds(rng, HEIGHT, WIDTH, 0.4)
    ground = mix(np.full_like(picture, (0.66, 0.72, 0.42)), np.full_like(picture, (0.20, 0.27, 0.12)), depth**0.6)
    dapple = clouds(rng, 260, WIDTH, 1.1)[(np.log1p(depth * 20) * 80).astype(int).clip(0, 259), x.astype(int)] > 0.7
    ground = ground * grass[..., None] * (1 + 0.45 * dapple * (1 - 0.4 * depth))[..., None]
    middle = far[0] + 90 * np.sin(depth * 4.4) * depth**0.7 - 150 * depth**1.5
    half = 12 + 250 * depth**1.25
    ragged = 1 + 0.05 * clouds(rng, HEIGHT, WIDTH, 0.8)
    path = mix(np.full_like(picture, (0.86, 0.78, 0.56)), np.full_like(picture, (0.42, 0.32, 0.22)), depth**0.6)
    path = path * (1 + 0.10 * clouds(rng, HEIGHT, WIDTH, 0.6) + 0.30 * dapple)[..., None]
    ground = mix(ground, path, (((half * ragged - np.abs(x - middle)) / (3 + 22 * depth)) + 0.5).clip(0, 1))
    picture = np.where((y > floor)[..., None], ground, picture)
    for layer, near in enumerate((0.08, 0.2, 0.38, 0.62, 1.0)):
        picture = trunks(picture, rng, near, count=(34, 22, 14, 9, 5)[layer], far=far)
        canopy = clouds(rng, HEIGHT, WIDTH, 0.95) + 0.5 * clouds(rng, HEIGHT, WIDTH, 0.5)
        cover = ((canopy + 1.5 - y / HEIGHT * 5.2 + near * 0.9 - 0.9 * glow) * 1.6).clip(0, 1) * (0.5 + 0.4 * near)
        tone = np.array((0.16, 0.28, 0.10)) * near + np.array((0.58, 0.70, 0.36)) * (1 - near)
        picture = mix(picture, np.full_like(picture, tone) * (1 + 0.22 * canopy)[..., None], cover)
    slant = x - (y * 0.62)
    beams = (np.interp(slant.ravel(), np.arange(-HEIGHT, WIDTH), ridge(rng, WIDTH + HEIGHT, 1.1))).reshape(y.shape)
    beams = (beams - 0.35).clip(0, 1.4) * np.exp(-(((x - far[0]) / 460) ** 2)) * (1 - y / HEIGHT).clip(0, 1) ** 0.5
    picture = mix(picture, np.full_like(picture, (1.0, 0.97, 0.78)), (0.42 * beams).clip(0, 0.6))
    vignette = 1 - 0.28 * (((x / WIDTH - 0.54) / 0.6) ** 2 + ((y / HEIGHT - 0.5) / 0.7) ** 2).clip(0, 1)
    return Image.fromarray(((picture * vignette[..., None]).clip(0, 1) * 255).astype(np.uint8))


def trunks(picture: np.ndarray, rng: np.random.Generator, near: float, *, count: int, far: np.ndarray) -> np.ndarray:
    """The picture with a row of trunks at one depth: near 0 is pale and thin at the horizon, 1 dark and in front."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    foot = far[1] + near**1.15 * (HEIGHT - far[1]) * 0.82
    bark = clouds(rng, WIDTH, HEIGHT, 0.8).T
    tone = np.array((0.20, 0.15, 0.10)) * near**0.6 + np.array((0.72, 0.74, 0.54)) * (1 - near**0.6)
    for _ in range(count):
        side = rng.choice((-1, 1))
        place = far[0] + side * (60 + 330 * near + abs(rng.normal(0, 190 + 190 * near)))
        base = foot + rng.uniform(-10, 14) * (0.4 + near)
        half = (4 + 34 * near) * rng.uniform(0.7, 1.25)
        lean = rng.normal(0, 0.03)
        middle = place + lean * (base - y) + 5 * near * np.sin(y / 90 + place)
        width = half * (0.78 + 0.22 * (y / base)) + half * 0.9 * np.exp((y - base) / (10 + 26 * near)).clip(0, 1)
        across = (x - middle) / np.maximum(width, 1)
        inside = ((1 - np.abs(across)) * width / 2).clip(0, 1) * ((base + 4 - y) / 4).clip(0, 1)
        lit = 1.12 - 0.42 * side * across + 0.20 * bark * near
        picture = mix(picture, np.full_like(picture, tone) * lit[..., None], inside)
    return picture


FILMED = {"lake": lake, "lighthouse": lighthouse}  # as large as the films' anchors were painted
FOUND = {"street": street, "quay": quay, "woods": woods}
FOUND_SIZE, FOUND_BYTES = (960, 640), 80_000


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, paint in FILMED.items():
        paint().filter(ImageFilter.GaussianBlur(0.7)).save(folder / f"{name}.jpg", quality=92)
    for name, paint in FOUND.items():
        small = paint().filter(ImageFilter.GaussianBlur(0.6)).resize(FOUND_SIZE, Image.Resampling.LANCZOS)
        for quality in range(90, 40, -2):
            small.save(folder / f"{name}.jpg", quality=quality)
            if (folder / f"{name}.jpg").stat().st_size <= FOUND_BYTES:
                break


if __name__ == "__main__":
    main()
