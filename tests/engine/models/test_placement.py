"""Every tier on a stand-in for a GPU and on the CPU: what it takes, that nothing mixes, and that pictures stay equal."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import tiers
from engine.backends.local import LocalBackend
from engine.domain import Resolution
from engine.errors import OutOfMemory
from engine.evaluation.stand_in import DEVICE, hollow, stand_in
from engine.models import untrained, wan
from engine.models.attention import PlainDenoiser
from engine.models.lora import Lora, LoraModule, LoraSlot
from engine.models.placement import (
    WanPlacement,
    castable_layers,
    end_offloading,
    is_in_8_bits,
    keep_in_8_bits,
    machine_here,
    measure,
    stream_blocks,
    stream_layers,
)
from engine.models.untrained import WanSize, build
from engine.tiers import GIB, PUBLISHED, SLACK, Activations, Machine

CPU = torch.device("cpu")
SMALL = Resolution(832, 480)


@pytest.fixture(autouse=True)
def models_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SVI_MODELS_DIR", str(tmp_path / "models"))


def card(vram=1000.0, ram=1000.0):
    return Machine("NVIDIA Card", "cuda", free_ram=int(ram * GIB), free_vram=int(vram * GIB))


def parts_of(modules):
    experts = [modules[name] for name in ("transformer", "low_noise_transformer") if name in modules]
    return experts, modules["vae"], modules["text_encoder"], modules.get("image_encoder")


# ---- sizes


@pytest.mark.parametrize("base", PUBLISHED)
def test_the_published_sizes_are_those_of_the_modules(tiny_preset, base):
    layout = untrained.published_layout(tiny_preset.model_copy(update={"base": base}))
    assert measure(*parts_of(untrained.empty_modules(layout, torch.bfloat16))) == PUBLISHED[base]


def test_the_layers_in_8_bits_are_those_that_diffusers_casts():
    transformer = build(WanSize()).transformer
    keep_in_8_bits(transformer, torch.float32)
    stored = {name for name, p in transformer.named_parameters() if p.dtype == torch.float8_e4m3fn}
    assert stored == {
        f"{name}.{p}" for name, layer in castable_layers(transformer) for p, _ in layer.named_parameters()
    }
    assert not any("norm" in name or "embed" in name for name in stored)
    keep_in_8_bits(transformer, torch.float32)  # a second time changes nothing


# ---- on a stand-in for a GPU


@pytest.fixture
def short_14b(tiny_preset):
    """Makes the published model with three blocks of everything, on the host of the stand-in."""

    def make(base):
        whole = untrained.published_layout(tiny_preset.model_copy(update={"base": base}))
        layout = replace(
            whole,
            transformer=whole.transformer | {"num_layers": 3},
            text=whole.text | {"num_layers": 2},
            image=whole.image and whole.image | {"num_hidden_layers": 2},
        )
        modules = untrained.empty_modules(layout, torch.bfloat16)
        for module in modules.values():
            hollow(module)
        return modules

    return make


def make_clip(components, resolution, num_frames, *, uses_vae):
    """What a clip asks of the parts, one after the other, on a device that computes nothing."""

    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device=DEVICE)

    bfloat16, device = torch.bfloat16, components.device
    text = components.encode_text(["night falls"], 512).to(device, bfloat16)
    picture = None
    if components.encode_image is not None:
        picture = components.encode_image(empty(1, 3, resolution.height, resolution.width)).to(bfloat16)
    latents = empty(1, 16, (num_frames - 1) // 4 + 1, resolution.height // 8, resolution.width // 8)
    if uses_vae:
        latents = components.codec.encode(empty(1, 3, num_frames, resolution.height, resolution.width))
    condition = torch.cat([latents[:, :4], latents], dim=1).to(bfloat16)
    for expert in (components.transformer, components.low_noise_transformer):
        if expert is not None:
            components.placement.bring(expert)
            model_input = torch.cat([latents.to(bfloat16), condition], dim=1)
            PlainDenoiser(expert, [text], picture)(model_input, 0.5, 0)
    if uses_vae:
        components.codec.decode(latents)


@pytest.mark.parametrize(
    ("tier", "base", "resolution", "uses_vae"),  # which takes seconds even here, and is alike on the tiers between
    [
        ("resident", "wan2.1", SMALL, True),
        ("text on host", "wan2.1", SMALL, False),
        ("experts in turn", "wan2.2", SMALL, False),
        ("streamed", "wan2.2", SMALL, True),
        ("float8", "wan2.1", SMALL, False),
        ("leaves", "wan2.1", SMALL, False),
        ("tiled", "wan2.1", Resolution(448, 256), True),
    ],
)
def test_no_tier_takes_more_than_expected_and_none_mixes_devices(
    tiny_preset, short_14b, tier, base, resolution, uses_vae
):
    modules = short_14b(base)
    size = (resolution.width, resolution.height)
    preset = tiny_preset.model_copy(update={"tier": tier, "base": base, "resolutions": (size,), "num_frames": 5})
    with stand_in() as meter:
        sizes = measure(*parts_of(modules))
        placement = WanPlacement(preset, DEVICE, torch.bfloat16, sizes, machine=card)
        components = wan.assemble(
            wan.Modules(**modules, tokenizer=untrained.build_tokenizer()),
            device=DEVICE,
            dtype=torch.bfloat16,
            placement=placement,
        )
        meter.restart()
        make_clip(components, resolution, preset.num_frames, uses_vae=uses_vae)
    expected = placement.expected.vram_bytes - SLACK // 20 * 19  # prompts, latents and buffers are part of the slack
    assert placement.tier == tier
    assert 0.6 * expected * uses_vae < meter.peak <= expected, f"{meter.peak / GIB:.2f} of {expected / GIB:.2f} GiB"


@pytest.mark.parametrize("branches", [1, 2])
def test_a_step_of_the_published_model_takes_no_more_than_expected(short_14b, branches):
    transformer = short_14b("wan2.1")["transformer"]
    with stand_in() as meter:
        transformer.to(DEVICE)
        text = torch.empty(branches, 512, 4096, dtype=torch.bfloat16, device=DEVICE)
        picture = torch.empty(1, 257, 1280, dtype=torch.bfloat16, device=DEVICE)
        model_input = torch.empty(1, 36, 21, 60, 104, dtype=torch.bfloat16, device=DEVICE)
        denoiser = PlainDenoiser(transformer, list(text.split(1)), picture)
        held = meter.restart()
        denoiser.together(model_input, 0.5, range(branches))
    expected = Activations.of(SMALL, 81, branches=branches).step
    assert 0.7 * expected < meter.peak - held <= expected
