"""The benchmark's films are the product's films."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.backends.local import LocalBackend, set_threads
from engine.config import VariantPreset, load_preset
from engine.domain import Resolution
from engine.evaluation import rollout
from engine.evaluation.chains import make_chains
from engine.evaluation.rollout import Sampling
from engine.models import components as models
from engine.models.lora import MODULES_PER_BLOCK, LoraSlot, read_lora
from engine.training.metrics import psnr
from engine.training.world import BY_NAME
from engine.variants import VARIANTS

SIZE = Resolution(32, 32)


@pytest.fixture(scope="module")
def components():
    set_threads(1)
    return models.load(load_preset("pocket"))


@pytest.fixture(scope="module")
def lora(components, tmp_path_factory):
    """A small random change of every layer that a LoRA adapts."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    layers = dict(components.transformer.named_modules())
    for block in range(len(components.transformer.blocks)):
        for name in MODULES_PER_BLOCK:
            layer, key = layers[f"blocks.{block}.{name}"], f"transformer.blocks.{block}.{name}"
            tensors[f"{key}.lora_A.weight"] = 0.05 * torch.randn(2, layer.in_features, generator=generator)
            tensors[f"{key}.lora_B.weight"] = 0.05 * torch.randn(layer.out_features, 2, generator=generator)
    path = tmp_path_factory.mktemp("loras") / "random.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("variant", ["shot", "film"])
def test_a_batch_of_chains_is_what_the_backend_makes_of_each(components, lora, variant):
    """Two clips, so that the hand-over is checked as well; within one level: a batch sums in another order."""
    preset = load_preset("pocket")
    preset = preset.model_copy(update={"variants": {variant: VariantPreset(lora=str(lora))}, "folder": lora.parent})
    chains = make_chains(2, 0, 2, SIZE)
    sampling = Sampling(VARIANTS[variant], VARIANTS[variant].padding, num_inference_steps=2)
    slot = LoraSlot(components.transformer)
    slot.fuse([(read_lora(lora, components.transformer), 1.0)])
    batch = list(rollout.model_film(components, preset, chains, sampling))
    slot.clear()
    backend = LocalBackend(components, preset)
    for place, chain in enumerate(chains):
        condition = chain.anchor[None]
        for index in range(2):
            request = rollout.request_of(chain, index, condition, preset, sampling)
            *_, result = backend.generate(request)
            assert np.abs(result.frames.astype(int) - batch[index][place]).max() <= 1
            condition = batch[index][place][-sampling.variant.num_motion_frames :]
    backend._experts[0]._slot.clear()


def test_the_lora_changes_the_film(components, lora):
    """Otherwise the test above would pass without any LoRA."""
    chains = make_chains(1, 0, 1, SIZE)
    sampling = Sampling(VARIANTS["film"], "zeros", num_inference_steps=1)
    slot = LoraSlot(components.transformer)
    preset = load_preset("pocket")
    plain = next(rollout.model_film(components, preset, chains, sampling))
    slot.fuse([(read_lora(lora, components.transformer), 1.0)])
    fused = next(rollout.model_film(components, preset, chains, sampling))
    slot.clear()
    assert np.abs(plain.astype(int) - fused).max() > 8


def test_padding_is_the_arms_not_the_variants(components):
    chains = make_chains(1, 0, 1, SIZE)
    preset = load_preset("pocket")
    films = [
        next(rollout.model_film(components, preset, chains, Sampling(VARIANTS["shot"], padding, 1)))
        for padding in ("zeros", "anchor")
    ]
    assert np.abs(films[0].astype(int) - films[1]).max() > 1


@pytest.mark.parametrize("num_motion_frames", [1, 5])
def test_the_codecs_film_is_a_ceiling_and_the_perfect_one_lies_below(components, num_motion_frames):
    preset = load_preset("pocket")
    chains = make_chains(2, 0, 3, SIZE)
    truths = [list(rollout.true_film(chain, num_motion_frames))[-1].after for chain in chains]
    scores = []
    for film in (rollout.codec_film, rollout.perfect_film):
        *_, last = film(components, preset, chains, num_motion_frames)
        made = torch.from_numpy(last[:, -1]).permute(0, 3, 1, 2) / 127.5 - 1
        scores.append(psnr(made, torch.stack(truths)))
    assert (scores[0] >= scores[1] - 0.05).all()  # the hand-over can only lose, but for rounding
    assert scores[1].min() > 20


def test_a_perfect_model_that_is_asked_for_nothing_repeats_what_the_codec_kept(components):
    chain = make_chains(1, 0, 3, SIZE)[0]
    still = dataclasses.replace(chain, actions=(BY_NAME["stay"],) * 3)
    first, *_, last = rollout.perfect_film(components, load_preset("pocket"), [still], 1)
    assert np.abs(first[0, -1].astype(int) - last[0, -1]).max() <= 2  # one level of rounding at each hand-over


def test_an_anchored_film_knows_the_last_move_only(components):
    chain = make_chains(1, 0, 3, SIZE)[0]
    films = []
    for names in (("fog", "storm", "night"), ("noon", "night", "stay")):
        asked = dataclasses.replace(chain, actions=tuple(BY_NAME[name] for name in names))
        *_, last = rollout.anchored_film(components, load_preset("pocket"), [asked], 1)
        films.append(last[0, -1].astype(int))
    assert np.abs(films[0] - films[1]).max() <= 1


def test_copies_repeat_the_first_clip_and_ping_pong_turns_every_second_one():
    chains = make_chains(2, 0, 3, SIZE)
    first, second, third = rollout.copied_film(chains, 1, turned=False)
    assert np.array_equal(first, second) and np.array_equal(second, third)
    forth, back, again = rollout.copied_film(chains, 1, turned=True)
    assert np.array_equal(back, forth[:, ::-1]) and np.array_equal(forth, again)
    still = list(rollout.still_film(chains))
    assert all(np.array_equal(clip[1, k], chains[1].anchor) for clip in still for k in (0, 24))
