"""How motions combine: closed form against the picture itself."""

import numpy as np
import pytest

from engine.pocket.motion import CALM, CAMERA, LEVELS, LIGHT, Motion, from_arrays, linear, sample_grid, to_arrays

EXACT = 1e-9
ASPECT = 832 / 480


def random_motion(seed: int, count: int, *, local: bool = False) -> Motion:
    """Camera moves up to half a frame, zooms to 1.6, rolls of 0.4; any light; what lives, without calm."""
    rng = np.random.default_rng(seed)
    levels = rng.random((count, len(LEVELS)))
    levels[:, CALM] = 0
    y, x = np.mgrid[-1:1:6j, -1:1:9j]
    bend = 0.02 * np.stack([np.sin(2 * x + k + seed) * np.cos(y - k) for k in range(5)])
    return Motion(
        rng.uniform(-0.5, 0.5, (count, len(CAMERA))) * [1, 1, 1, 0.8],
        rng.uniform(-0.6, 0.6, (count, len(LIGHT))),
        levels,
        rng.uniform(0, 1, (count, 2)),
        rng.uniform(0, 5, (count, 2)),
        ASPECT,
        rng.uniform(0.5, 1, (count, 1, 1, 1)) * bend if local else None,
    )


def picture(places: np.ndarray) -> np.ndarray:
    """L, B − L, R − L (3, …) of a smooth endless picture at places (2, …)."""
    x, y = places
    return np.stack([np.sin(3 * x) * np.cos(2 * y), 0.3 * np.cos(x + 2 * y), 0.3 * np.sin(2 * x - y)])


def shown(motion: Motion, base, places: np.ndarray) -> np.ndarray:
    """The first frame of `motion` at places, made of `base`, straight from the definition."""
    [matrix], [shift] = linear(motion.camera[:1], motion.aspect)
    light = motion.light[0]
    source = base(np.einsum("ij,j...->i...", matrix, places) + shift.reshape(2, *[1] * (places.ndim - 1)))
    gains = np.exp(light[[0, 1, 1]])
    return np.stack(
        [gains[k] * source[k] + light[2 + k] + light[5 + k] * places[0] + light[8 + k] * places[1] for k in range(3)]
    )


PLACES = np.stack(np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 5)))


def test_a_clip_after_a_state_is_the_clip_made_of_what_the_state_shows():
    clip, state = random_motion(1, 1), random_motion(2, 1)
    twice = shown(clip, lambda places: shown(state, picture, places), PLACES)
    assert np.abs(shown(clip.after(state), picture, PLACES) - twice).max() < EXACT


@pytest.mark.parametrize("seed", range(5))
def test_it_does_not_matter_which_clips_are_joined_first(seed):
    third, second, first = random_motion(seed, 9), random_motion(seed + 10, 1), random_motion(seed + 20, 1)
    one, other = third.after(second).after(first), third.after(second.after(first))
    for part in ("camera", "light", "levels", "clock"):
        assert np.abs(getattr(one, part) - getattr(other, part)).max() < EXACT, part


def test_local_parts_join_in_either_order_as_well_as_their_grid_allows():
    third, second, first = (random_motion(seed, 1, local=True) for seed in (1, 2, 3))
    third.camera[:], second.camera[:], first.camera[:] = 0.1, 0.05, -0.1
    one, other = third.after(second).after(first), third.after(second.after(first))
    inner = np.s_[:, :, 1:-1, 1:-1]  # beyond the outer tiles nothing is known
    # bilinear tiles: a hundredth of a half-frame is a twentieth of a tile
    assert np.abs(one.local[inner] - other.local[inner])[:, :2].max() < 0.01
    assert np.abs(one.local - one.local.mean()).max() > 0.03


@pytest.mark.parametrize("seed", range(5))
def test_since_undoes_after(seed):
    clip, state = random_motion(seed, 9), random_motion(seed + 50, 1)
    again = clip.after(state).since(state)
    assert np.abs(again.camera - clip.camera).max() < EXACT
    assert np.abs(again.light - clip.light).max() < EXACT
    assert np.abs(again.clock - clip.clock).max() < EXACT


def test_nothing_has_happened_since_oneself():
    state = random_motion(3, 1)
    now = state.since(state)
    assert np.abs(now.camera).max() < EXACT and np.abs(now.light).max() < EXACT


def test_standing_still_changes_no_state():
    state = random_motion(4, 1, local=True)
    after = Motion.still(5, ASPECT).after(state)
    for part in ("camera", "light", "levels", "local"):
        assert np.abs(getattr(after, part) - getattr(state, part)).max() < EXACT, part


def test_fifty_moves_and_their_way_back_end_where_they_began():
    start = state = random_motion(5, 1)
    moves = [random_motion(100 + index, 1) for index in range(50)]
    for move in moves:
        move.camera[:] *= 0.2
        move.light[:] *= 0.2
        state = move.after(state)
    for move in reversed(moves):
        state = Motion.still(1, ASPECT).since(move).after(state)
    assert np.abs(state.camera - start.camera).max() < 1e-6
    assert np.abs(state.light - start.light).max() < 1e-6


def test_calm_ends_what_lived_before():
    state, calm = Motion.still(1, ASPECT), Motion.still(1, ASPECT)
    state.levels[:, 0], calm.levels[:, CALM] = 0.6, 1.0
    assert calm.after(state).levels.max() == 0


def test_tiles_are_read_at_their_centres_and_go_on_outside():
    grid = np.arange(12.0).reshape(1, 3, 4)
    centres = np.stack(np.meshgrid((np.arange(4) + 0.5) / 2 - 1, (np.arange(3) + 0.5) / 1.5 - 1))
    assert np.allclose(sample_grid(grid, centres), grid)
    assert sample_grid(grid, np.array([[-9.0, 9.0], [-9.0, 9.0]])).tolist() == [[0.0, 11.0]]


@pytest.mark.parametrize("local", [False, True])
def test_stored_arrays_are_read_back_to_the_bit(local):
    stored = to_arrays(random_motion(6, 5, local=local))
    again = to_arrays(from_arrays(stored))
    assert stored.keys() == again.keys()
    assert all(np.array_equal(stored[name], again[name]) for name in stored)


def hostile(name: str, change) -> dict[str, np.ndarray]:
    arrays = to_arrays(random_motion(7, 5, local=True))
    arrays[name] = change(arrays[name])
    return arrays


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param(hostile("camera", lambda a: a[:, :3]), id="camera of three numbers"),
        pytest.param(hostile("camera", lambda a: a[:4]), id="a frame short"),
        pytest.param(hostile("light", lambda a: a * np.nan), id="light that is no number"),
        pytest.param(hostile("levels", lambda a: a + np.inf), id="endless levels"),
        pytest.param(hostile("wind", lambda a: a[..., None]), id="wind with another axis"),
        pytest.param(hostile("clock", lambda a: a.ravel()), id="flat clock"),
        pytest.param(hostile("local", lambda a: a[:, :4]), id="local without an offset"),
        pytest.param(hostile("local", lambda a: a[0]), id="local of one frame"),
        pytest.param(hostile("local", lambda a: a * np.nan), id="local that is no number"),
    ],
)
def test_arrays_that_are_no_motion_are_refused(arrays):
    with pytest.raises(ValueError):
        from_arrays(arrays)


@pytest.mark.parametrize("name", ["camera", "light", "levels", "wind", "clock", "aspect"])
def test_a_missing_array_is_refused(name):
    arrays = to_arrays(random_motion(8, 2))
    del arrays[name]
    with pytest.raises(KeyError):
        from_arrays(arrays)
