"""The frame stays inside the picture, whatever is asked for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.domain import Resolution
from engine.pocket import world
from engine.pocket.framing import Framing, stay_inside
from engine.pocket.motion import Motion, linear

CORNERS = np.array([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]])
SLACK = 1e-6  # half-frame units: far below a pixel
RESOLUTIONS = (Resolution(832, 480), Resolution(480, 832), Resolution(288, 192), Resolution(640, 640))


def beyond(states: Motion, framing: Framing) -> float:
    """How far the farthest corner of any frame lies outside the picture, in half-frame units; negative inside."""
    matrix, shift = linear(states.camera, states.aspect)
    corners = matrix @ CORNERS + shift[..., None]  # (n, 2, 4)
    left, right, top, bottom = framing.room
    across, down = corners[:, 0], corners[:, 1]
    return float(max((left - across).max(), (across - right).max(), (top - down).max(), (down - bottom).max()))


def ramp(camera: tuple[float, float, float, float], aspect: float, count: int = 9) -> Motion:
    """A move that is eased in and out."""
    motion = Motion.still(count, aspect)
    motion.camera[:] = world.ease(np.linspace(0, 1, count))[:, None] * np.array(camera)
    return motion


def start_of(framing: Framing) -> Motion:
    return Motion.still(1, framing.aspect)


@settings(max_examples=60, deadline=None)
@given(
    side=st.integers(64, 6000),
    shape=st.floats(-math.log(4), math.log(4)),
    resolution=st.sampled_from(RESOLUTIONS),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_chain_of_moves_never_leaves_the_picture(side, shape, resolution, seed):
    rng = np.random.default_rng(seed)
    stretch = math.exp(shape)
    width, height = (side, side / stretch) if stretch > 1 else (side * stretch, side)
    framing = Framing.of(max(16, round(width)), max(16, round(height)), resolution)
    state = start_of(framing)
    assert beyond(state, framing) <= SLACK
    for _ in range(50):
        camera = rng.uniform(-1, 1, 4) * rng.choice([0.05, 0.5, 2.0]) * [1, 1, 0.6, 0.4]
        clip = ramp(tuple(camera), framing.aspect)
        inside, share = stay_inside(clip, state, framing)
        states = inside.after(state)
        assert 0 <= share <= 1
        assert np.isfinite(states.camera).all()
        assert beyond(states, framing) <= SLACK
        assert np.abs(inside.camera[0]).max() <= SLACK  # the frame that the clip starts from is what it was
        state = states[-1:]


def test_a_move_with_room_is_what_was_asked_for():
    framing = Framing.of(3000, 2000, Resolution(288, 192), margin=3.0)
    for camera in [*world.CAMERAS.values(), (0.3, -0.2, 0.2, 0.1)]:
        clip = ramp(camera, framing.aspect)
        inside, share = stay_inside(clip, start_of(framing), framing)
        assert share == 1.0
        assert np.abs(inside.camera - clip.camera).max() < 1e-9


def test_a_thousand_clips_of_zoom_stop_at_the_deepest():
    framing = Framing.of(3000, 2000, Resolution(288, 192))
    state, shares = start_of(framing), []
    for _ in range(1000):
        inside, share = stay_inside(ramp(world.CAMERAS["zoom_in"], framing.aspect), state, framing)
        state = inside.after(state)[-1:]
        shares.append(share)
    assert state.camera[0, 2] == pytest.approx(framing.deepest)
    assert shares[0] == 1.0 and shares[-1] == pytest.approx(0, abs=1e-6)


def test_a_thousand_clips_of_zooming_out_stop_at_the_whole_picture():
    framing = Framing.of(3000, 2000, Resolution(288, 192))
    state = start_of(framing)
    for _ in range(1000):
        inside, share = stay_inside(ramp(world.CAMERAS["zoom_out"], framing.aspect), state, framing)
        state = inside.after(state)[-1:]
        assert beyond(state, framing) <= SLACK
    assert state.camera[0, 2] == pytest.approx(-math.log(1.12))
    assert share == pytest.approx(0, abs=1e-6)


def test_the_share_says_how_much_of_a_zoom_is_left():
    framing = Framing.of(1000, 1000, Resolution(256, 256))
    inside, share = stay_inside(ramp((0, 0, -0.5, 0), framing.aspect), start_of(framing), framing)
    assert share == pytest.approx(math.log(1.12) / 0.5)
    assert inside.camera[-1, 2] == pytest.approx(-math.log(1.12))


def test_the_share_says_how_much_of_a_way_is_left():
    framing = Framing.of(1000, 1000, Resolution(256, 256))
    inside, share = stay_inside(ramp((2.0, 0, 0, 0), framing.aspect), start_of(framing), framing)
    assert 0 < share < 1
    assert share == pytest.approx(inside.camera[-1, 0] / 2.0)


def test_a_shortened_move_keeps_its_timing():
    framing = Framing.of(1000, 1000, Resolution(256, 256))
    clip = ramp((0, 0, -0.5, 0), framing.aspect, 25)
    inside, _ = stay_inside(clip, start_of(framing), framing)
    assert np.allclose(inside.camera[:, 2] / inside.camera[-1, 2], clip.camera[:, 2] / -0.5)


def test_small_pictures_may_be_magnified_and_large_ones_only_to_their_pixels():
    small, large = (Framing.of(side, side, Resolution(256, 256)) for side in (64, 6000))
    assert small.deepest == pytest.approx(math.log(2.0))
    assert large.deepest == pytest.approx(math.log(6000 / 1.12 / 256 / 0.4))
