"""Every tier on a stand-in for a GPU and on the CPU: what it takes, that no devices mix, that pictures stay equal."""

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
from engine.models.gguf_files import load_gguf, write_gguf
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
        ("tiled", "wan2.1", Resolution(272, 64), True),
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


def test_of_two_experts_only_the_one_that_computes_is_on_the_device(tiny_preset, short_14b):
    preset = tiny_preset.model_copy(update={"tier": "experts in turn", "base": "wan2.2"})
    modules = short_14b("wan2.2")
    experts = parts_of(modules)[0]
    with stand_in():
        placement = WanPlacement(preset, DEVICE, torch.bfloat16, measure(*parts_of(modules)), machine=card)
        for expert in experts:
            placement.settle("expert", expert)
        for expert, other in (experts, experts[::-1]):
            placement.bring(expert)
            assert {p.device for p in expert.parameters()} == {DEVICE}
            assert {p.device for p in other.parameters()} == {CPU}


def test_what_is_on_loan_when_a_pass_breaks_off_returns_to_the_host(short_14b):
    transformer = short_14b("wan2.2")["transformer"]
    transformer.blocks[1].ffn.register_forward_pre_hook(run_out_of_memory)
    with stand_in() as meter:
        stream_blocks(transformer, DEVICE)
        text = torch.empty(1, 512, 4096, dtype=torch.bfloat16, device=DEVICE)
        model_input = torch.empty(1, 36, 3, 4, 4, dtype=torch.bfloat16, device=DEVICE)
        held = meter.restart()
        with pytest.raises(MemoryError):
            PlainDenoiser(transformer, [text], None)(model_input, 0.5, 0)
        end_offloading(transformer)
        assert {p.device for p in transformer.parameters()} == {CPU}
        gc.collect()
        assert meter.now == held < meter.peak


# ---- choosing and stepping down


def placed(preset, machine, *, sizes=tiers.WAN_21, **options):
    return WanPlacement(preset, CPU, torch.float32, sizes, machine=lambda: machine, **options)


@pytest.fixture
def full_size(tiny_preset):
    return tiny_preset.model_copy(update={"num_frames": 81, "resolutions": ((832, 480), (480, 832))})


def test_the_first_tier_is_that_of_the_largest_picture_offered(full_size):
    assert placed(full_size, card(48, 128)).tier == "text on host"
    large = full_size.model_copy(update={"resolutions": ((832, 480), (1280, 720))})
    assert placed(large, card(48, 128)).tier == "streamed"


def test_a_model_that_fits_nowhere_is_refused_before_it_is_read(full_size):
    with pytest.raises(OutOfMemory, match=r"Missing: .* GB of GPU memory"):
        placed(full_size, card(4, 128))


def test_a_tier_that_cannot_fit_is_skipped_on_the_way_down(full_size):
    machine = card(80, 128)
    placement = WanPlacement(full_size, CPU, torch.float32, tiers.WAN_21, machine=lambda: machine)
    assert placement.tier == "resident"
    machine = card(20, 128)  # another program has taken the rest
    assert "stream from host memory" in placement.step_down()
    assert placement.tier == "streamed"


def test_the_tier_that_sufficed_is_where_the_next_start_begins(full_size):
    placed(full_size, card(80, 128)).step_down()
    assert placed(full_size, card(80, 128)).tier == "text on host"
    assert placed(full_size, card(130, 128)).tier == "resident"  # much more is free than when it was learned
    asked = full_size.model_copy(update={"tier": "resident"})
    assert placed(asked, card(80, 128)).tier == "resident"


def test_a_tier_that_is_asked_for_teaches_nothing(full_size):
    placed(full_size.model_copy(update={"tier": "resident"}), card(80, 128)).step_down()
    assert placed(full_size, card(80, 128)).tier == "resident"


def test_too_little_host_memory_ends_in_8_bits_which_is_said(full_size):
    placement = placed(full_size, card(80, 40))
    assert placement.tier == "resident"
    assert placement.step_down() is not None and placement.tier == "text on host"
    assert "lose some precision" in placement.step_down()
    assert placement.tier == "float8"


def test_the_lowest_tier_is_the_end(full_size):
    placement = placed(full_size, card(8, 128))
    assert placement.tier == "tiled"
    assert placement.step_down() is None
    with pytest.raises(OutOfMemory, match="needs more memory"):
        placed(full_size, card(8, 128), lowered=1)


def test_larger_clips_move_the_model_before_they_are_begun(full_size):
    placement = placed(full_size, card(48, 128))
    assert placement.prepare(Resolution(832, 480), 81) is None
    assert "1280×720" in placement.prepare(Resolution(1280, 720), 81)
    assert placement.tier == "streamed"
    assert placement.prepare(Resolution(832, 480), 81) is None  # it does not climb up again
    assert placement.tier == "streamed"


def test_what_loading_took_of_host_memory_is_not_asked_for_again(full_size):
    machine = card(139, 40)
    placement = WanPlacement(full_size, CPU, torch.float32, tiers.WAN_21, machine=lambda: machine)
    machine = card(139, 8)  # the model is on the GPU, and other programs have host memory now
    assert placement.prepare(Resolution(480, 832), 81) is None
    assert placement.tier == "resident"
    machine = card(20, 8)
    assert placement.step_down() is None  # no lower tier would find room in host memory


def test_processes_for_several_gpus_share_host_memory(full_size):
    assert placed(full_size, card(24, 100)).tier == "streamed"
    with pytest.raises(OutOfMemory, match="host memory"):
        placed(full_size.model_copy(update={"gpus": 4}), card(24, 100))


def test_a_computer_without_a_gpu_has_nothing_to_give_up(tiny_preset):
    placement = WanPlacement(tiny_preset, CPU, torch.float32, tiers.sizes_of(tiny_preset))
    assert placement.tier == "resident"
    assert placement.step_down() is None
    assert machine_here().free_ram > 0


# ---- moving


@pytest.mark.parametrize("stream", [stream_blocks, stream_layers])
@torch.inference_mode()
def test_streamed_weights_give_the_same_numbers_and_take_a_lora(stream):
    """On the CPU the copies go nowhere, but hooks, hand-over and fusing are those of a GPU."""
    resident, streamed = (build(WanSize()).transformer for _ in range(2))
    stream(streamed, CPU)
    predict = predictions()
    outputs = []
    change = LoraModule(torch.ones(1, 24), torch.ones(24, 1), 1.0)
    for _ in range(2):
        for transformer in (resident, streamed):
            outputs.append(predict(transformer))
            LoraSlot(transformer).fuse([(Lora("all ones", {"blocks.1.attn1.to_v": change}, {}), 0.5)])
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[2], outputs[3])
    assert not torch.equal(outputs[0], outputs[2])


@torch.inference_mode()
def test_quantised_weights_stream_as_they_are(tmp_path):
    pytest.importorskip("gguf")
    size = WanSize(head_dim=128, ffn_dim=64)  # the heads of every published Wan, which the file does not tell
    write_gguf(build(size).transformer, tmp_path / "x.gguf", quantisation="Q8_0")
    transformer, predict = load_gguf(tmp_path / "x.gguf", dtype=torch.float32), predictions()
    expected = predict(transformer)
    for stream in (stream_blocks, stream_layers):
        end_offloading(transformer)
        stream(transformer, CPU)
        assert torch.equal(predict(transformer), expected)
    modules = build(WanSize())
    sizes = measure([transformer], modules.vae, modules.text_encoder, None)
    assert sizes.expert_in_8_bits is None and sizes.image == 0


def predictions():
    """A function from a tiny transformer to what it makes of inputs that are always the same."""
    generator = torch.Generator().manual_seed(0)
    prompt, picture, model_input = (
        torch.randn(shape, generator=generator) for shape in ((1, 512, 32), (1, 17, 4), (1, 36, 3, 4, 4))
    )
    return lambda transformer: PlainDenoiser(transformer, [prompt], picture)(model_input, 0.5, 0)


@torch.no_grad()
def test_an_offload_that_ends_within_a_pass_leaves_no_hook_and_no_group():
    transformer, predict = build(WanSize()).transformer, predictions()
    expected = predict(transformer)
    stream_blocks(transformer, CPU)
    group = weakref.ref(transformer.blocks[0]._diffusers_hook.get_hook("group_offloading").group)
    breaks = transformer.blocks[1].ffn.register_forward_pre_hook(run_out_of_memory)
    with pytest.raises(MemoryError):
        predict(transformer)
    breaks.remove()
    end_offloading(transformer)
    gc.collect()
    assert group() is None
    assert not any(part._diffusers_hook.hooks for part in transformer.modules() if hasattr(part, "_diffusers_hook"))
    assert torch.equal(predict(transformer), expected)
    end_offloading(transformer)  # nothing is left to end


def run_out_of_memory(*_):
    raise MemoryError


@torch.no_grad()
def test_8_bits_change_little_and_take_a_lora_from_the_exact_weights():
    exact, stored = (build(WanSize()).transformer for _ in range(2))
    base = {name: parameter.clone() for name, parameter in exact.named_parameters()}
    predict = predictions()
    keep_in_8_bits(stored, torch.float32)
    change = LoraModule(torch.ones(1, 24), torch.ones(24, 1), 1.0)
    for transformer in (exact, stored):
        LoraSlot(transformer, base.get).fuse([(Lora("all ones", {"blocks.1.attn1.to_v": change}, {}), 0.5)])
    expected, found = predict(exact), predict(stored)
    assert 0 < (found - expected).norm() / expected.norm() < 0.1  # a float8 number has three bits of mantissa
    stream_blocks(stored, CPU)
    assert torch.equal(predict(stored), found)
    assert is_in_8_bits(stored) and stored.blocks[1].attn1.to_v.weight.dtype == torch.float8_e4m3fn


def frames_of(backend, request):
    *_, result = backend.generate(request)
    return result.frames


def test_every_tier_makes_the_same_clip_but_the_lossy_ones(tiny_preset, clip_request):
    backend = LocalBackend.open(tiny_preset.model_copy(update={"tier": "resident"}), threads=1)
    placement, request = backend.components.placement, clip_request(num_inference_steps=2)
    expected, walked = frames_of(backend, request), [placement.tier]
    while placement.step_down():
        walked.append(placement.tier)
        assert np.array_equal(frames_of(backend, request), expected)  # 32 × 32 pixels are a single tile
    assert walked == ["resident", "text on host", "streamed", "leaves", "tiled"]
    assert backend.components.codec.vae.use_tiling


def test_a_model_in_8_bits_stays_in_8_bits_on_the_way_down(tiny_preset, clip_request):
    backend = LocalBackend.open(tiny_preset.model_copy(update={"tier": "float8"}), threads=1)
    placement, request = backend.components.placement, clip_request(num_inference_steps=2)
    first = frames_of(backend, request)
    assert placement.step_down() and placement.tier == "leaves"
    assert is_in_8_bits(backend.components.transformer)
    assert np.array_equal(frames_of(backend, request), first)


def test_stepping_down_leaves_nothing_of_the_tier_before(tiny_preset, clip_request):
    backend = LocalBackend.open(tiny_preset.model_copy(update={"tier": "streamed"}), threads=1)
    frames_of(backend, clip_request(num_inference_steps=1))
    transformer = backend.components.transformer
    group = weakref.ref(transformer.blocks[0]._diffusers_hook.get_hook("group_offloading").group)
    weights = [weakref.ref(parameter) for parameter in transformer.parameters()]
    backend.components.placement.step_down()
    gc.collect()
    assert group() is None and all(weight() is not None for weight in weights)
    del transformer
    backend.close()
    gc.collect()
    assert not any(weight() is not None for weight in weights)
