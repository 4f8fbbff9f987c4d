"""The drift meter tells a picture that falls apart from one whose light changes, and costs next to nothing."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from engine import film
from engine.config import load_preset
from engine.domain import Resolution, Take
from engine.events import TakeCommitted
from engine.media import drift, image
from engine.pocket import scenes, world
from engine.pocket.framing import Framing
from engine.pocket.motion import Motion
from engine.pocket.render import Canvas
from tests.fakes import ScriptedBackend

EXAMPLES = Path(__file__).parents[3] / "assets" / "examples"
FPS = 12
LIGHTS = list(world.LIGHTS)
PICTURES = ("lake", "lighthouse", "landscape")


def picture(name: str) -> np.ndarray:
    if name == "landscape":
        drawn = scenes.landscape(np.random.default_rng(5), 384, 576)
        return image.fit((255 * drawn).astype(np.uint8), Resolution(288, 192))
    return image.fit(image.load(EXAMPLES / f"{name}.jpg"), Resolution(288, 192))


@pytest.fixture(params=PICTURES)
def anchor(request) -> np.ndarray:
    return picture(request.param)


def perform(canvas: Canvas, move: world.Move) -> Motion:
    """The states of the true clip of 25 frames of a move that starts where the canvas's film does."""
    still = Motion.still(1, canvas.framing.aspect)
    before = world.Statistics.of(canvas.draw_one(still))
    return world.at_frames(world.perform(move, [0.0] * world.CODES, before, world.progress(25), still.aspect))


def light_move(before: np.ndarray, name: str) -> np.ndarray:
    """The true clip (25, H, W, 3) of a move that starts at `before`."""
    height, width = before.shape[:2]
    canvas = Canvas.of(before, Framing(0, 0, width, height, width, height, Resolution(width, height)))
    return canvas.draw(perform(canvas, world.Move(lights=((name, 1.0),))))


def still(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[None], 9, axis=0)


def read(frames: np.ndarray, anchor: np.ndarray, overlap: int = 0):
    return drift.read(frames, anchor, overlap=overlap, fps=FPS)


def with_noise(pixels: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma, pixels.shape[:2])[..., None]
    return (pixels + noise).round().clip(0, 255).astype(np.uint8)


def with_grid(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """One pattern of standard deviation `sigma`, repeated every 8 pixels."""
    tile = np.random.default_rng(2).normal(0, 1, (8, 8))
    tile = sigma * (tile - tile.mean()) / tile.std()
    rows, columns = (side // 8 for side in pixels.shape[:2])
    return (pixels + np.tile(tile, (rows, columns))[..., None]).round().clip(0, 255).astype(np.uint8)


# What is not drift


def test_a_copied_anchor_reads_no_motion_rather_than_perfect(anchor):
    reading = read(still(anchor), anchor)
    assert (reading.structure, reading.sharpness, reading.grain, reading.colour_shift) == (1, 1, 0, 0)
    assert (reading.motion, reading.change) == (0, 0)
    assert drift.judge(reading).movement == "none"


@pytest.mark.parametrize("name", LIGHTS)
def test_an_intended_light_move_is_no_drift_however_far_the_colours_go(anchor, name):
    reading = read(light_move(anchor, name), anchor)
    judged = drift.judge(reading)
    assert (judged.level, judged.causes, judged.movement) == ("steady", (), "light")
    assert reading.structure > 0.95 and 0.9 < reading.sharpness < 1.15 and reading.grain < 0.03


def test_the_colour_shift_of_night_is_shown(anchor):
    assert read(light_move(anchor, "night"), anchor).colour_shift > 20


def test_a_negative_has_the_same_edges(anchor):
    """At night windows shine and the sky is dark: which side of an edge is brighter says nothing about the scene."""
    assert read(still(255 - anchor), anchor).structure > 0.95


def test_a_darker_tone_curve_is_no_drift(anchor):
    darker = (255 * (anchor / 255) ** 2.2).astype(np.uint8)
    assert drift.judge(read(still(darker), anchor)).level == "steady"


# What is


def chain(anchor: np.ndarray, moves: str, fault) -> list[np.ndarray]:
    """Last frames of a film whose every clip adds a fault, which the later light moves carry on."""
    frames, last = [], anchor
    for move in moves.split():
        last = fault(light_move(last, move)[-1])
        frames.append(last)
    return frames


def test_a_chain_that_gathers_a_grid_raises_the_hint_and_the_same_chain_without_does_not(anchor):
    moves = "night noon fog noon night noon fog noon"
    clean = [drift.judge(read(still(f), anchor)) for f in chain(anchor, moves, lambda frame: frame)]
    assert [judged.level for judged in clean] == ["steady"] * 8
    faulty = [read(still(f), anchor) for f in chain(anchor, moves, lambda frame: with_grid(frame, 1.5))]
    levels = [drift.judge(reading).level for reading in faulty]
    assert levels[-1] == "drifted"
    assert {cause for reading in faulty for cause in drift.judge(reading).causes} == {"grain"}
    assert np.mean([r.grain for r in faulty[4:]]) > np.mean([r.grain for r in faulty[:4]])


def test_a_pattern_of_eight_pixels_counts_more_than_noise_of_the_same_strength(anchor):
    noisy, gridded = (read(still(make(anchor, 4.0)), anchor).grain for make in (with_noise, with_grid))
    assert gridded > 1.1 * noisy > 0


def test_noise_rises_with_its_strength(anchor):
    grain = [read(still(with_noise(anchor, sigma)), anchor).grain for sigma in (0, 2, 4, 8, 16)]
    assert grain == sorted(grain) and grain[0] == 0
    assert drift.judge(read(still(with_noise(anchor, 16)), anchor)).causes == ("grain",)


def test_a_blurred_picture_is_blamed_for_its_blur_alone(anchor):
    soft = read(still(cv2.GaussianBlur(anchor, (0, 0), 1.5)), anchor)
    assert drift.judge(soft).level == "drifted" and drift.judge(soft).causes == ("sharpness",)
    assert soft.structure > 0.95 and soft.grain == 0


def test_half_a_picture_exchanged_is_a_lost_background(anchor):
    exchanged = anchor.copy()
    exchanged[:, 144:] = anchor[::-1, :144]
    assert "structure" in drift.judge(read(still(exchanged), anchor)).causes


def test_another_picture_has_nothing_of_the_structure():
    first, second = picture("lake"), picture("lighthouse")
    assert abs(read(still(second), first).structure) < 0.3


# Motion


def pan(pixels: np.ndarray, percent_a_second: float) -> np.ndarray:
    shifts = [-i * percent_a_second / 100 * 288 / FPS for i in range(25)]
    moves = [np.float32([[1, 0, shift], [0, 1, 0]]) for shift in shifts]
    return np.stack([cv2.warpAffine(pixels, move, (288, 192), borderMode=cv2.BORDER_REFLECT) for move in moves])


def test_a_slow_pan_is_motion_and_a_faster_one_more(anchor):
    motion = [read(pan(anchor, speed), anchor).motion for speed in (0, 1, 2, 4)]
    assert motion == sorted(motion) and motion[0] == 0 and motion[1] > drift.LEAST_MOTION
    assert drift.judge(read(pan(anchor, 1), anchor)).movement == "things"


def test_ripples_in_a_part_of_the_picture_are_no_still_clip_and_grain_is(anchor):
    rows, columns = np.mgrid[:192, :288].astype(np.float32)
    waves = [0.3 * np.sin(rows / 3 + i / 2) * (rows > 130) for i in range(25)]
    rippling = np.stack([cv2.remap(anchor, columns + wave, rows, cv2.INTER_LINEAR) for wave in waves])
    reading = read(rippling.astype(np.uint8), anchor)
    assert reading.motion < drift.LEAST_MOTION and drift.judge(reading).movement == "things"
    grain = np.random.default_rng(3).normal(0, 1.0, (25, 192, 288, 1))
    grainy = (anchor + grain).round().clip(0, 255).astype(np.uint8)
    assert drift.judge(read(grainy, anchor)).movement == "none"


@pytest.mark.parametrize("amount", [lambda t: 0.06 * t, lambda t: 0.3 * np.sin(np.pi * t)], ids=["tilt", "and back"])
def test_light_that_hardly_changes_or_comes_back_moves_no_thing(anchor, amount):
    ramp = np.linspace(-1, 1, 288)[:, None]
    lit = [anchor * (1 - amount(t) * (0.5 + 0.5 * ramp)) for t in np.linspace(0, 1, 25)]
    assert drift.judge(read(np.stack(lit).round().clip(0, 255).astype(np.uint8), anchor)).movement != "things"


def test_what_moved_in_the_overlap_belongs_to_the_clip_before(anchor):
    frames = np.concatenate([pan(anchor, 20)[:5], np.repeat(pan(anchor, 20)[4:5], 20, axis=0)])
    assert drift.judge(read(frames, anchor, overlap=5)).movement == "none"
    assert drift.judge(read(frames, anchor, overlap=0)).movement == "things"


# A camera that is known to move


@pytest.fixture(params=["lake", "lighthouse"])
def canvas(request) -> Canvas:
    upload = image.load(EXAMPLES / f"{request.param}.jpg")
    return Canvas.of(upload, Framing.of(upload.shape[1], upload.shape[0], Resolution(288, 192), margin=1.5))


@pytest.mark.parametrize("name", ["pan_left", "tilt_up", "zoom_in", "zoom_out", "roll_right"])
def test_a_move_of_the_camera_is_no_lost_background(canvas, name):
    states = perform(canvas, world.Move(camera=world.CAMERAS[name], lights=(("night", 1.0),)))
    frames, anchor = canvas.draw(states), canvas.draw_one(Motion.still(1, 1.5))
    moved = canvas.draw_one(replace(Motion.still(1, 1.5), camera=states.camera[-1:]))
    blind, reading = (drift.read(frames, anchor, overlap=0, fps=FPS, moved=known) for known in (None, moved))
    assert drift.judge(reading).level == "steady" and reading.structure > 0.9
    assert blind.structure < reading.structure - 0.2
    assert drift.judge(reading).movement == "things"


def test_what_is_lost_besides_the_move_is_still_seen(canvas):
    states = perform(canvas, world.Move(camera=world.CAMERAS["pan_left"]))
    moved = canvas.draw_one(states[-1:])
    broken = moved.copy()
    broken[:, 144:] = moved[::-1, :144]
    reading = drift.read(still(broken), canvas.draw_one(states[:1]), overlap=0, fps=FPS, moved=moved)
    assert "structure" in drift.judge(reading).causes


# Any frames


@pytest.mark.parametrize("size", [(16, 16), (16, 64), (64, 16), (48, 64)])
def test_tiny_and_flat_pictures_give_finite_figures(size):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8), np.zeros((*size, 3), np.uint8)]
    for first in pictures:
        for second in pictures:
            figures = vars(read(still(first), second, overlap=5)).values()
            assert all(np.isfinite(figure) for figure in figures)
    assert drift.judge(read(still(pictures[1]), pictures[1])).level == "steady"


def test_frames_that_cannot_be_measured_cost_a_warning_and_no_clip(anchor, caplog):
    assert drift.measure(still(anchor)[:, :4], anchor, overlap=0, fps=FPS) is None
    assert "could not be measured" in caplog.text


# In a film


def test_a_take_keeps_its_reading_and_its_event_carries_it(store, preset):
    events = list(film.render(store, ScriptedBackend(), preset, reserve_bytes=0))
    committed = [event for event in events if isinstance(event, TakeCommitted)]
    takes = [planned.take for planned in film.plan(store, preset).clips]
    assert [event.drift for event in committed] == [take.drift for take in takes]
    assert all(take.drift.change > 0 for take in takes)
    assert json.loads(json.dumps(committed[0].to_json()))["drift"]["structure"] == takes[0].drift.structure


def test_a_take_without_a_reading_or_with_a_senseless_one_is_as_good_as_any(store, preset):
    list(film.render(store, ScriptedBackend(), preset, reserve_bytes=0))
    before = film.plan(store, preset)
    for index, damage in enumerate(({}, {"drift": {"structure": "high"}}, {"drift": 7})):
        file = store.take_folder(before.clips[index].digest) / "take.json"
        fields = {key: value for key, value in json.loads(file.read_text()).items() if key != "drift"}
        file.write_text(json.dumps(fields | damage))
    after = film.plan(type(store)(store.folder), preset)
    assert [planned.status for planned in after.clips] == ["done"] * 3
    assert [planned.digest for planned in after.clips] == [planned.digest for planned in before.clips]
    assert [planned.take.drift for planned in after.clips] == [None] * 3


def test_a_reading_that_is_no_number_is_not_kept(store, preset):
    list(film.render(store, ScriptedBackend(), preset, reserve_bytes=0))
    take = film.plan(store, preset).clips[0].take
    text = take.model_dump_json().replace(f'"grain":{take.drift.grain}', '"grain":NaN')
    assert Take.model_validate_json(text).drift is None


@pytest.mark.slow
def test_measuring_costs_at_most_three_percent_of_a_pocket_clip(tmp_path):
    from engine.backends import open_backend

    preset = load_preset("pocket")
    Image.fromarray(picture("lake")).save(tmp_path / "lake.png")
    store = film.create(tmp_path / "film", tmp_path / "lake.png", preset, prompts=["Night falls over the lake"])
    backend = open_backend(preset)
    list(film.render(store, backend, preset, reserve_bytes=0))
    backend.close()
    timings = film.plan(store, preset).clips[0].take.timings
    assert 0 < timings["drift"] <= 0.03 * sum(timings.values())
