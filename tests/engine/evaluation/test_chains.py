import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from engine.domain import Clip, Inputs, Project, Resolution
from engine.evaluation.chains import (
    SOLO,
    ask,
    balanced_moves,
    in_view_all_along,
    make_chains,
    mixed_chains,
    true_film,
)
from engine.pocket import pictures, world
from engine.pocket.framing import stay_inside
from engine.pocket.gates import psnr
from engine.pocket.motion import Motion
from engine.timeline import Timeline

SIZE = Resolution(96, 64)
FRAMES = 13
STATISTICS = world.Statistics(np.zeros(3), 0.4, 0.1)


@pytest.fixture(scope="module")
def chains():
    return make_chains(4, 0, 4, SIZE)


def test_half_of_the_pictures_are_held_out_photographs_and_half_are_scenes(chains):
    held_out = {path.rsplit("/", 1)[-1].rsplit(".", 1)[0] for _, path in pictures.HELD_OUT}
    assert [chain.name in held_out for chain in chains] == [True, False, True, False]
    assert not held_out & {path.rsplit("/", 1)[-1].rsplit(".", 1)[0] for _, path in pictures.PHOTOS}
    many = make_chains(2 * len(held_out) + 2, 0, 1, SIZE)
    assert len({chain.anchor.tobytes() for chain in many}) == len(many)  # later photographs are parts


def test_a_seed_changes_prompts_and_noise_and_keeps_the_pictures(chains):
    others = make_chains(4, 1, 4, SIZE)
    for chain, other in zip(chains, others, strict=True):
        assert np.array_equal(chain.anchor, other.anchor)
        assert chain.asked != other.asked
        assert chain.noise_seed(0) != other.noise_seed(0)
    again = make_chains(4, 0, 4, SIZE)
    assert [chain.asked for chain in again] == [chain.asked for chain in chains]


def test_a_prompt_asks_for_a_little_of_the_camera_and_all_of_the_light():
    asked = ask(("pan_left", "night"), random.Random(0))
    assert asked.move.camera == (-world.LITTLE * world.PAN, 0, 0, 0) and asked.move.lights == (("night", 1.0),)
    assert asked.prompt.startswith("The camera pans left a little while ")
    assert ask(("stay",), random.Random(0)).move.is_still


def test_the_first_and_the_last_clips_are_asked_for_the_same_moves():
    moves = balanced_moves(50, random.Random(0))
    fifths = [Counter(name for names in moves[start : start + 10] for name in names) for start in range(0, 50, 10)]
    for fifth in fifths:
        del fifth["stay"]  # a camera move that comes alone takes its place
    assert len(moves) == 50
    assert all(fifth == fifths[0] for fifth in fifths) and set(world.LIGHTS) <= set(fifths[0])
    assert any(name in world.CAMERAS for name in fifths[0])


@pytest.mark.parametrize("num_clips", [1, 3, 20, 44])
def test_short_films_go_through_whole_rounds(num_clips):
    moves = balanced_moves(num_clips, random.Random(0))
    assert len(moves) == num_clips
    assert max(Counter(moves[: len(SOLO)]).values()) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_no_true_camera_meets_the_edge_and_most_of_the_picture_stays_in_view(seed):
    for chain in make_chains(8, seed, 50, SIZE):
        state, states = chain.start, [chain.start]
        for index, clip in enumerate(true_film(chain, FRAMES, 1)):
            asked = world.perform(
                chain.asked[index].move, chain.code(index, FRAMES), STATISTICS, world.progress(FRAMES), state.aspect
            )
            inside, _ = stay_inside(asked, state, chain.canvas.framing)
            assert np.allclose(inside.camera, asked.camera)
            state = clip.after
            states.append(state)
        seen = in_view_all_along(states, chain.size)
        assert min(seen(state).mean() for state in states) >= 0.5


def test_what_left_the_view_once_is_not_judged():
    pan = Motion.still(1, 1.5)
    pan.camera[0, 0] = 0.5  # a quarter of the frame
    seen = in_view_all_along([Motion.still(1, 1.5), pan], SIZE)
    there, back = seen(pan), seen(Motion.still(1, 1.5))
    assert there[32, 40] and not there[32, 80]
    assert back[32, 60] and not back[32, 10]
    assert there.mean() == pytest.approx(0.75 * 0.98, abs=0.03)


def test_noise_is_seeded_as_a_project_seeds_its_clips(chains):
    inputs = Inputs(image="a.png", image_sha256="0" * 64)
    clips = tuple(Clip(prompt=asked.prompt) for asked in chains[0].asked)
    project = Project(
        preset="pocket",
        resolution=SIZE,
        seed=chains[0].project_seed,
        num_inference_steps=1,
        guidance_scale=1.0,
        inputs=inputs,
        clips=clips,
    )
    assert [chains[0].noise_seed(k) for k in range(4)] == [project.seed_of(k) for k in range(4)]


@pytest.mark.parametrize("num_motion_frames", [1, 5])
def test_true_clips_make_one_film_without_gap_or_repeat(chains, num_motion_frames):
    clips = list(true_film(chains[0], FRAMES, num_motion_frames))
    count = sum(len(clip.states) for clip in clips)
    assert count == Timeline(FRAMES, num_motion_frames, 16).total(len(clips))
    for earlier, clip in pairwise(clips):
        assert np.array_equal(earlier.after.light, clip.before.light)


def test_a_true_light_brings_its_own_mean(chains):
    chain = chains[0]
    for asked, clip in zip(chain.asked, true_film(chain, FRAMES, 1), strict=True):
        for name, _ in asked.move.lights:
            frame = chain.canvas.draw_one(clip.after)
            assert world.Statistics.of(frame).mean[0] == pytest.approx(world.LIGHTS[name].luma, abs=0.06)


def test_mixed_chains_ask_for_every_kind_of_move_on_every_photograph():
    chains = mixed_chains(27, 0, SIZE)
    assert len(chains) == len(pictures.HELD_OUT)
    for chain in chains:
        kinds = {(bool(a.move.camera != (0, 0, 0, 0) or a.move.free), bool(a.move.lights)) for a in chain.asked}
        assert kinds == {(False, False), (True, False), (False, True), (True, True)}
    assert psnr(chains[0].anchor, chains[1].anchor) < 30
