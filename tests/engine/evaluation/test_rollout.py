"""The benchmark's films are the product's films."""

import random
from dataclasses import replace

import numpy as np
import pytest

from engine.backends.local import LocalBackend, set_threads
from engine.config import VariantPreset
from engine.domain import Resolution
from engine.evaluation import rollout
from engine.evaluation.chains import ask, make_chains, true_film
from engine.evaluation.rollout import Sampling
from engine.models import components as models
from engine.models.lora import LoraSlot, read_lora
from engine.pocket.gates import psnr
from engine.pocket.motion import last_of
from engine.variants import VARIANTS
from tests.engine.evaluation.loras import write_random_lora
from tests.engine.models.tiny import write_untrained_pocket

SIZE = Resolution(96, 64)
FRAMES = 13


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    return write_untrained_pocket(tmp_path_factory.mktemp("pocket")).model_copy(update={"num_frames": FRAMES})


@pytest.fixture(scope="module")
def components(preset):
    set_threads(1)
    return models.load(preset)


@pytest.fixture(scope="module")
def lora(components, tmp_path_factory):
    return write_random_lora(components.transformer, tmp_path_factory.mktemp("loras") / "random.safetensors")


def sampling(variant: str, *, is_composed: bool = False, steps: int = 1) -> Sampling:
    return Sampling(VARIANTS[variant], FRAMES, steps, is_composed)


@pytest.mark.parametrize("is_composed", [False, True])
@pytest.mark.parametrize("variant", ["shot", "film"])
def test_a_batch_of_chains_is_what_the_backend_makes_of_each(preset, components, lora, variant, is_composed):
    """Two clips, so that the hand-over is checked as well; within one level: a batch sums in another order."""
    handover = "composed" if is_composed else "frames"
    own = {"variants": {variant: VariantPreset(lora=str(lora))}, "folder": lora.parent, "handover": handover}
    preset = preset.model_copy(update=own)
    chains, how = make_chains(2, 0, 2, SIZE), sampling(variant, is_composed=is_composed, steps=2)
    slot = LoraSlot(components.transformer)
    slot.fuse([(read_lora(lora, components.transformer), 1.0)])
    batch = list(rollout.model_film(components, preset, chains, how))
    slot.clear()
    backend = LocalBackend(components, preset)
    for place, chain in enumerate(chains):
        condition, states = chain.anchor[None], None
        for index in range(2):
            *_, result = backend.generate(rollout.request_of(chain, index, condition, states, preset, how))
            difference = np.abs(result.frames.astype(int) - batch[index][place])
            assert np.percentile(difference, 99.9) <= 1
            count = how.variant.num_motion_frames
            condition = result.frames[-count:]
            states = last_of(result.tail_states, count) if is_composed else None
    backend._experts[0]._slot.clear()


def test_the_lora_changes_the_film(preset, components, lora):
    """Otherwise the test above would pass without any LoRA."""
    chains, slot = make_chains(1, 0, 1, SIZE), LoraSlot(components.transformer)
    plain = next(rollout.model_film(components, preset, chains, sampling("film")))
    slot.fuse([(read_lora(lora, components.transformer), 1.0)])
    fused = next(rollout.model_film(components, preset, chains, sampling("film")))
    slot.clear()
    assert np.abs(plain.astype(int) - fused).max() > 4


@pytest.mark.parametrize("variant", ["shot", "film"])
def test_exact_fields_lose_less_when_they_are_composed_than_when_frames_are_handed_over(preset, variant):
    chains = make_chains(2, 0, 4, SIZE)
    scores = {}
    for is_composed in (True, False):
        *_, last = rollout.exact_film(preset, chains, sampling(variant, is_composed=is_composed))
        truths = [list(true_film(chain, FRAMES, VARIANTS[variant].num_motion_frames))[-1].after for chain in chains]
        scores[is_composed] = [
            psnr(clip[-1], chain.canvas.draw_one(true)) for chain, clip, true in zip(chains, last, truths, strict=True)
        ]
    assert min(scores[True]) > 40
    assert all(composed > frames > 15 for composed, frames in zip(scores[True], scores[False], strict=True))


@pytest.mark.parametrize("is_composed", [False, True])
def test_a_perfect_model_that_is_asked_for_nothing_repeats_the_first_frame(preset, is_composed):
    chain = make_chains(1, 0, 3, SIZE)[0]
    still = replace(chain, asked=(ask(("stay",), random.Random(0)),) * 3)
    *_, last = rollout.exact_film(preset, [still], sampling("film", is_composed=is_composed))
    assert np.abs(last[0, -1].astype(int) - chain.anchor).max() <= 1


def test_copies_repeat_the_first_clip_and_ping_pong_turns_every_second_one():
    chains, how = make_chains(2, 0, 3, SIZE), sampling("shot")
    first, second, third = rollout.copied_film(chains, how, turned=False)
    assert np.array_equal(first, second) and np.array_equal(second, third)
    forth, back, again = rollout.copied_film(chains, how, turned=True)
    assert np.array_equal(back, forth[:, ::-1]) and np.array_equal(forth, again)
    still = list(rollout.still_film(chains, FRAMES))
    assert all(np.array_equal(clip[1, k], chains[1].anchor) for clip in still for k in (0, FRAMES - 1))
