"""When memory runs out (promise P4): down the ladder, at most three tries, the same pictures, nothing left behind.

The CPU walks the ladder where a tier is asked for, or where the machine is said to have a GPU.
"""

import gc
import weakref

import numpy as np
import pytest
import torch

from engine import faults, tiers
from engine.backends.base import ClipResult, Notice, StepDone
from engine.backends.local import MAX_TRIES, LocalBackend
from engine.domain import Resolution
from engine.errors import OutOfMemory
from engine.evaluation.stand_in import DEVICE, stand_in
from engine.models import placement, untrained, wan
from engine.models.placement import WanPlacement
from engine.models.untrained import WanSize, build
from engine.tiers import GIB, Machine


@pytest.fixture(autouse=True)
def models_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SVI_MODELS_DIR", str(tmp_path / "models"))


@pytest.fixture
def ladder_preset(tiny_preset):
    return tiny_preset.model_copy(update={"tier": "resident"})


@pytest.fixture
def backend(ladder_preset):
    return LocalBackend.open(ladder_preset, threads=1)


@pytest.fixture(scope="module")
def expected(tiny_preset, clip_request):
    backend = LocalBackend.open(tiny_preset, threads=1)
    return frames_of(backend.generate(clip_request()))


def frames_of(items):
    *_, result = items
    return result.frames


@pytest.mark.parametrize(
    "point",
    ["clip.encoded:oom", "clip.step.denoise:oom:1", "clip.step.denoise:oom:3", "clip.denoised:oom", "clip.decoded:oom"],
)
def test_the_clip_is_made_on_the_next_tier_with_the_same_pixels(backend, clip_request, expected, point):
    with faults.injected(point) as fault:
        items = list(backend.generate(clip_request()))
    assert fault.fired
    notices = [item.text for item in items if isinstance(item, Notice)]
    assert len(notices) == 1 and "text on host" in notices[0] and "starts again" in notices[0]
    assert backend.components.placement.tier == "text on host"
    assert np.array_equal(frames_of(items), expected)
    after = items[items.index(next(item for item in items if isinstance(item, Notice))) :]
    assert [item.step for item in after if isinstance(item, StepDone)] == [1, 2, 3]


def test_memory_that_runs_out_while_loading_loads_the_next_tier(ladder_preset, clip_request, expected):
    with faults.injected("model.loaded:oom"):
        backend = LocalBackend.open(ladder_preset, threads=1)
    assert backend.components.placement.tier == "text on host"
    assert np.array_equal(frames_of(backend.generate(clip_request())), expected)


def test_a_clip_is_tried_three_times_and_the_next_one_goes_on_from_there(backend, clip_request, expected):
    tries = []

    def run_out_of_memory(*_):
        tries.append(backend.components.placement.tier)
        raise MemoryError

    hook = backend.components.transformer.patch_embedding.register_forward_pre_hook(run_out_of_memory)
    with pytest.raises(OutOfMemory, match="Clip 1 needs more memory"):
        list(backend.generate(clip_request()))
    hook.remove()
    assert tries == ["resident", "text on host", "streamed"] and len(tries) == MAX_TRIES
    assert backend.components.placement.tier == "leaves"
    assert np.array_equal(frames_of(backend.generate(clip_request())), expected)


def test_nothing_of_a_failed_try_stays_in_memory(backend, clip_request):
    seen = []

    def remember(module, inputs):
        seen.append(weakref.ref(inputs[0]))

    hook = backend.components.transformer.patch_embedding.register_forward_pre_hook(remember)
    alive = []
    with faults.injected("clip.denoised:oom"):
        for item in backend.generate(clip_request()):
            if isinstance(item, Notice):
                alive = [ref for ref in seen if ref() is not None]
            if isinstance(item, ClipResult):
                break
    hook.remove()
    assert len(seen) > 6 and not alive
    gc.collect()
    assert not [ref for ref in seen if ref() is not None]


def test_the_choice_is_remembered_by_the_next_backend(tiny_preset, clip_request, expected, monkeypatch):
    card = Machine("NVIDIA Card", "cuda", free_ram=100 * GIB, free_vram=100 * GIB)
    monkeypatch.setattr(placement, "machine_here", lambda device: card)  # the weights stay where the CPU finds them
    first = LocalBackend.open(tiny_preset, threads=1)
    assert first.components.placement.tier == "resident"
    with faults.injected("clip.encoded:oom"):
        list(first.generate(clip_request()))
    first.close()
    second = LocalBackend.open(tiny_preset, threads=1)
    assert second.components.placement.tier == "text on host"
    assert np.array_equal(frames_of(second.generate(clip_request())), expected)


def test_a_larger_clip_is_given_room_before_it_is_begun(tiny_preset, clip_request, monkeypatch):
    card = Machine("NVIDIA Card", "cuda", free_ram=100 * GIB, free_vram=tiers.SLACK + 60_000_000)
    monkeypatch.setattr(placement, "machine_here", lambda device: card)
    backend = LocalBackend.open(tiny_preset, threads=1)
    assert isinstance(next(backend.generate(clip_request())), StepDone)
    items = backend.generate(clip_request(resolution=Resolution(96, 96)))
    assert "Clips of 96×96 need more memory" in next(items).text
    items.close()
    assert backend.components.placement.tier == "tiled"


def test_a_computer_without_a_gpu_says_so_at_once(tiny_preset, clip_request):
    backend = LocalBackend.open(tiny_preset, threads=1)
    with faults.injected("clip.encoded:oom"), pytest.raises(OutOfMemory):
        list(backend.generate(clip_request()))
    assert backend.components.placement.tier == "resident"


@pytest.mark.parametrize("tier", ["text on host", "streamed", "leaves"])
def test_a_whole_clip_never_mixes_host_and_device(tiny_preset, clip_request, tier):
    """On the stand-in for a GPU an operation on tensors of both raises, wherever in the loop it is."""
    preset = tiny_preset.model_copy(update={"tier": tier})
    parts = build(WanSize())
    modules = wan.Modules(
        parts.transformer, parts.vae, parts.text_encoder, untrained.build_tokenizer(), parts.image_encoder
    )
    with stand_in():
        place = WanPlacement(
            preset,
            DEVICE,
            torch.float32,
            tiers.sizes_of(preset),
            machine=lambda: Machine("NVIDIA Card", "cuda", 1 << 40, 1 << 40),
        )
        components = wan.assemble(modules, device=DEVICE, dtype=torch.float32, placement=place)
        request = clip_request(num_inference_steps=1, guidance_scale=1.0)
        frames = frames_of(LocalBackend(components, preset).generate(request))
    assert frames.shape == (9, 32, 32, 3)
