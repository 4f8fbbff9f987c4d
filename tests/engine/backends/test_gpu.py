"""On a card: tiers, a stop and a LoRA change leave the pictures as they are. `python -m pytest -m gpu tests`."""

import numpy as np
import pytest
import torch

from engine.backends.base import Interrupted
from engine.backends.local import LocalBackend
from engine.models.untrained import WanSize, build
from tests.engine.models.test_expert import write_lora
from tests.engine.models.tiny import TWO_EXPERTS, write_tiny_wan22

pytestmark = pytest.mark.gpu
TIERS = ("text on host", "experts in turn", "streamed", "leaves")
ONE_LEVEL = 1  # other kernels may be chosen where weights come and go, and round a last bit otherwise


@pytest.fixture
def open_on(tmp_path):
    """Opens the tiny Wan 2.2 with a LoRA for each expert on a tier of the card."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    entry = "{method: svi-2.0-wan2.2, lora: svi-high_noise.safetensors, low_noise_lora: svi-low_noise.safetensors}"
    text = TWO_EXPERTS.replace("{method: svi-2.0-wan2.2}", entry).replace("device: cpu", "device: cuda")
    preset = write_tiny_wan22(tmp_path, preset=text)
    for name in ("high", "low"):
        write_lora(tmp_path / f"svi-{name}_noise.safetensors", build(WanSize(), takes_picture=False).transformer)
    return lambda tier: LocalBackend.open(preset.model_copy(update={"tier": tier}), threads=1)


def frames_of(backend, request) -> np.ndarray:
    *_, result = backend.generate(request)
    return result.frames.astype(int)


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_makes_the_pictures_of_the_resident_one(open_on, clip_request, tier):
    request = clip_request(num_inference_steps=6)
    expected = frames_of(open_on("resident"), request)
    backend = open_on(tier)
    for strength in (1.0, 0.0, 1.0):  # the LoRAs come, go and come again between clips
        frames = frames_of(backend, clip_request(num_inference_steps=6, lora_strength=strength))
    assert np.abs(frames - expected).max() <= ONE_LEVEL


@pytest.mark.parametrize("tier", TIERS)
def test_a_stop_within_a_pass_leaves_the_next_clip_as_it_is(open_on, clip_request, tier):
    request, backend = clip_request(num_inference_steps=6), open_on(tier)
    expected = frames_of(backend, request)
    steps = backend.generate(request)
    next(steps)
    backend.interrupt()
    with pytest.raises(Interrupted):
        list(steps)
    assert np.abs(frames_of(backend, request) - expected).max() <= ONE_LEVEL


def test_stepping_down_the_whole_ladder_keeps_the_pictures(open_on, clip_request):
    request, backend = clip_request(num_inference_steps=6), open_on("resident")
    expected = frames_of(backend, request)
    while (tier := backend.components.placement.go_down()) is not None and tier.exact:
        assert np.abs(frames_of(backend, request) - expected).max() <= ONE_LEVEL
