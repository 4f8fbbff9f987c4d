import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from engine.domain import Clip, Inputs, Project, Resolution
from engine.evaluation.chains import balanced_actions, make_chains, true_film
from engine.timeline import Timeline
from engine.training import pictures
from engine.training.metrics import psnr
from engine.training.world import ACTIONS, FPS, NUM_FRAMES, clip_after, perform

SIZE = Resolution(48, 32)


@pytest.fixture(scope="module")
def chains():
    return make_chains(4, 0, 4, SIZE)


def test_half_of_the_pictures_are_held_out_photographs_and_half_are_scenes(chains):
    held_out = {path.rsplit("/", 1)[-1].rsplit(".", 1)[0] for _, path in pictures.HELD_OUT}
    assert [chain.picture in held_out for chain in chains] == [True, False, True, False]
    assert not held_out & {path.rsplit("/", 1)[-1].rsplit(".", 1)[0] for _, path in pictures.PHOTOS}
    assert len({chain.anchor.tobytes() for chain in make_chains(12, 0, 1, SIZE)}) == 12  # later photographs are crops


def test_a_seed_changes_prompts_and_noise_and_keeps_the_pictures(chains):
    others = make_chains(4, 1, 4, SIZE)
    for chain, other in zip(chains, others, strict=True):
        assert np.array_equal(chain.anchor, other.anchor)
        assert chain.prompts != other.prompts
        assert chain.noise_seed(0) != other.noise_seed(0)
    again = make_chains(4, 0, 4, SIZE)
    assert [chain.prompts for chain in again] == [chain.prompts for chain in chains]


def test_prompts_ask_for_their_moves(chains):
    for chain in chains:
        for action, prompt in zip(chain.actions, chain.prompts, strict=True):
            assert any(phrase.partition("{subject}")[0] in prompt for phrase in action.phrases)


def test_the_first_and_the_last_clips_are_asked_for_the_same_moves():
    actions = balanced_actions(50, random.Random(0))
    fifths = [Counter(action.name for action in actions[start : start + 10]) for start in range(0, 50, 10)]
    assert len(actions) == 50
    assert all(fifth == fifths[0] for fifth in fifths) and len(fifths[0]) == len(ACTIONS)


@pytest.mark.parametrize("num_clips", [1, 3, 20, 44])
def test_short_films_go_through_whole_rounds(num_clips):
    actions = balanced_actions(num_clips, random.Random(0))
    assert len(actions) == num_clips
    assert max(Counter(action.name for action in actions[: len(ACTIONS)]).values()) == 1


def test_noise_is_seeded_as_a_project_seeds_its_clips(chains):
    inputs = Inputs(image="a.png", image_sha256="0" * 64)
    clips = tuple(Clip(prompt=prompt) for prompt in chains[0].prompts)
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


def test_the_truth_of_a_chain_parts_from_what_its_last_move_makes_of_the_anchor():
    (chain,) = make_chains(1, 0, 20, SIZE)
    first, *_, last = true_film(chain, 1)
    assert psnr(first.after[None], first.anchored[None]) > 90
    assert psnr(last.after[None], last.anchored[None]) < 40


@pytest.mark.parametrize("num_motion_frames", [1, 5])
def test_true_clips_make_one_film_without_gap_or_repeat(chains, num_motion_frames):
    clips = list(true_film(chains[0], num_motion_frames))
    film = torch.cat([clip.frames for clip in clips])
    assert len(film) == Timeline(NUM_FRAMES, num_motion_frames, FPS).total(len(clips))
    for earlier, clip in pairwise(clips):
        assert torch.allclose(earlier.after, clip.before, atol=1e-6)
    for action, clip in zip(chains[0].actions, clips, strict=True):
        assert torch.allclose(clip.after, perform(clip.before[None], action)[0], atol=1e-6)


def test_with_five_motion_frames_a_whole_clip_is_the_worlds(chains):
    first, second, *_ = true_film(chains[0], 5)
    whole = torch.cat([first.frames[-5:], second.frames])
    expected = clip_after(first.before[None], second.before[None], second.after[None])[0].transpose(0, 1)
    assert torch.allclose(whole, expected, atol=1e-6)
