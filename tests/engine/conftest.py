"""Fixtures for tests that run a model: real Wan classes at tiny size, loaded from disk as the 14B model would be."""

from collections.abc import Callable

import numpy as np
import pytest

from engine.config import Preset
from engine.domain import ClipRequest, Resolution


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory) -> Preset:
    """A preset whose folders hold an untrained tiny Wan with a picture encoder."""
    from tests.engine.models.tiny import write_tiny_wan

    return write_tiny_wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="session")
def tiny_components(tiny_preset):
    from engine.models import components

    return components.load(tiny_preset)


@pytest.fixture(scope="session")
def clip_request() -> Callable[..., ClipRequest]:
    """Makes a request for 9 frames of 32×32 with random condition frames; keywords replace fields."""

    def make(*, num_condition_frames: int = 1, **changes) -> ClipRequest:
        pictures = np.random.default_rng(7).integers(0, 256, (num_condition_frames + 1, 32, 32, 3), dtype=np.uint8)
        values = dict(
            digest="0" * 64,
            clip_id="a" * 26,
            index=0,
            variant="film",
            prompt="A cat walks\n through &amp; out",
            negative_prompt="blurred",
            seed=42,
            num_inference_steps=3,
            guidance_scale=5.0,
            lora_strength=1.0,
            num_frames=9,
            overlap=0,
            fps=8,
            resolution=Resolution(32, 32),
            parent_digest=None,
            anchor=pictures[0],
            condition_frames=pictures[1:],
        )
        return ClipRequest(**values | changes)

    return make


@pytest.fixture(scope="session")
def untrained_pocket(tmp_path_factory) -> Preset:
    """A preset whose weights are a pocket model of the shipped architecture before any training."""
    from tests.engine.models.tiny import write_untrained_pocket

    return write_untrained_pocket(tmp_path_factory.mktemp("pocket"))
