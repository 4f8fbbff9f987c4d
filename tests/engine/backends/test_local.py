import dataclasses
import html
import os
from itertools import pairwise

import ftfy
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine import faults, film
from engine.backends import open_backend
from engine.backends.base import Notice
from engine.backends.local import LocalBackend, is_out_of_memory, set_threads, to_frames
from engine.config import VariantPreset
from engine.errors import GenerationError, OutOfMemory, WeightsMismatch
from engine.events import TakeCommitted
from engine.models.lora import MODULES_PER_BLOCK
from engine.models.untrained import WanSize, build
from engine.pocket import model


@pytest.fixture
def backend(tiny_preset, tiny_components):
    """A fresh backend on the shared model, whose weights and hooks must stay as they are."""
    set_threads(1)
    return LocalBackend(tiny_components, tiny_preset, fingerprint="tiny")


@pytest.fixture
def own_backend(tiny_preset):
    """A backend whose model the test may damage."""
    return LocalBackend.open(tiny_preset, threads=1)


def frames_of(backend, request) -> np.ndarray:
    *_, result = backend.generate(request)
    return result.frames


@torch.no_grad()
def slow_reference(request, preset) -> np.ndarray:
    """One clip written straight down with diffusers' own modules: no cache, no folding, no sharing."""
    modules = build(WanSize())
    width, height = request.resolution.width, request.resolution.height

    def embed(text):
        cleaned = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())
        tokens = modules.tokenizer(
            [cleaned], padding="max_length", max_length=512, truncation=True, return_tensors="pt"
        )
        hidden = modules.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        hidden[:, int(tokens.attention_mask.sum()) :] = 0
        return hidden

    def pixels(picture):
        return torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1) * (2 / 255) - 1

    video = torch.zeros(1, 3, request.num_frames, height, width)
    for index in range(request.num_frames):
        if index < len(request.condition_frames):
            video[0, :, index] = pixels(request.condition_frames[index])
        elif request.variant == "shot":
            video[0, :, index] = pixels(request.anchor)
    mean = torch.tensor(modules.vae.config.latents_mean).view(1, 16, 1, 1, 1)
    std = torch.tensor(modules.vae.config.latents_std).view(1, 16, 1, 1, 1)
    latents = (modules.vae.encode(video).latent_dist.mode() - mean) / std
    mask = torch.zeros(1, 4, *latents.shape[2:])
    mask[:, :, 0] = 1
    y = torch.cat([mask, latents], dim=1)

    square = torch.nn.functional.interpolate(video[:, :, 0], size=(32, 32), mode="bicubic", align_corners=False)
    clip_mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    clip_std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    clip = modules.image_encoder(((square + 1) / 2 - clip_mean) / clip_std, output_hidden_states=True).hidden_states[-2]

    steps = request.num_inference_steps
    sigmas = [preset.shift * s / (1 + (preset.shift - 1) * s) for s in (1 - i / steps for i in range(steps))] + [0.0]
    x = torch.randn(latents.shape, generator=torch.Generator().manual_seed(request.seed))
    texts = [embed(request.prompt), embed(request.negative_prompt)]
    for sigma, next_sigma in pairwise(sigmas):
        timestep = torch.tensor([1000 * sigma])
        with_text, without = (
            modules.transformer(torch.cat([x, y], dim=1), timestep, text, clip).sample for text in texts
        )
        x = x + (without + request.guidance_scale * (with_text - without)) * (next_sigma - sigma)
    decoded = modules.vae.decode(x * std + mean).sample[0]
    return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize(
    ("variant", "num_condition_frames"), [("shot", 1), ("film", 1), ("film", 5)], ids=["shot", "film 1", "film 2"]
)
def test_a_whole_clip_equals_the_slow_reference(backend, tiny_preset, clip_request, variant, num_condition_frames):
    request = clip_request(variant=variant, num_condition_frames=num_condition_frames)
    difference = np.abs(frames_of(backend, request).astype(int) - slow_reference(request, tiny_preset))
    assert difference.max() <= 1
    assert difference.mean() <= 0.05


@torch.no_grad()
def slow_pocket(request, preset) -> np.ndarray:
    """One clip of a model that predicts clean latents, sampled and drawn straight down."""
    parts = model.load_components(preset.path(preset.model))
    latents = parts.codec.condition(request, "anchor" if request.variant == "shot" else "zeros")
    mask = torch.zeros(1, 4, *latents.shape[2:])
    mask[:, :, 0] = 1
    text = parts.encode_text([request.prompt])
    steps = request.num_inference_steps
    sigmas = [preset.shift * s / (1 + (preset.shift - 1) * s) for s in (1 - i / steps for i in range(steps))] + [0.0]
    x = parts.codec.tied(torch.randn(latents.shape, generator=torch.Generator().manual_seed(request.seed)))
    for sigma, next_sigma in pairwise(sigmas):
        model_input = torch.cat([x, mask, latents], dim=1)
        clean = parts.transformer(model_input, torch.tensor([1000 * sigma]), text).sample
        x = clean if next_sigma == 0 else next_sigma / sigma * x + (1 - next_sigma / sigma) * clean
    return parts.codec.draw(x, request).frames


@pytest.mark.parametrize(("variant", "num_condition_frames"), [("shot", 1), ("film", 1), ("film", 5)])
def test_a_pocket_clip_equals_its_slow_reference(untrained_pocket, clip_request, variant, num_condition_frames):
    request = clip_request(variant=variant, num_condition_frames=num_condition_frames, guidance_scale=1.0)
    frames = frames_of(LocalBackend.open(untrained_pocket, threads=1), request)
    difference = np.abs(frames.astype(int) - slow_pocket(request, untrained_pocket))
    assert difference.max() <= 1
    assert difference.mean() <= 0.05


def test_the_reference_notices_a_wrong_detail(backend, tiny_preset, clip_request):
    """The tiny model is not blind: what the paper's variants differ in changes its pictures."""
    request = clip_request(num_condition_frames=5)
    frames = frames_of(backend, request).astype(int)
    for changed in (
        dataclasses.replace(request, variant="shot"),
        dataclasses.replace(request, condition_frames=request.condition_frames[:4]),
        dataclasses.replace(request, condition_frames=request.condition_frames[::-1]),
        dataclasses.replace(request, prompt="night falls"),
        dataclasses.replace(request, guidance_scale=4.0),
        dataclasses.replace(request, num_inference_steps=4),
    ):
        assert np.abs(slow_reference(changed, tiny_preset) - frames).max() > 1


def test_bfloat16_stays_close_and_leaves_the_vae_in_float32(backend, tiny_preset, clip_request):
    rounded = LocalBackend.open(tiny_preset.model_copy(update={"dtype": "bfloat16"}), threads=1)
    assert rounded.components.transformer.dtype == torch.bfloat16
    assert rounded.components.codec.vae.dtype == torch.float32
    request = clip_request(guidance_scale=1.0)
    difference = np.abs(frames_of(rounded, request).astype(int) - frames_of(backend, request))
    assert 0 < difference.mean() < 4


def test_two_clips_with_one_prompt_ask_the_text_encoder_once(backend, clip_request):
    for seed in (1, 2):
        frames_of(backend, clip_request(seed=seed, guidance_scale=1.0))
    assert backend.counters.text_encoder_calls == 1
    assert backend.counters.frames_encoded == 2 * 9
    assert backend.counters.image_encoder_calls == 2
    assert backend.counters.clips_decoded == 2
    assert backend.counters.transformer_passes == 2 * 3
    assert backend.counters.lora_fusions == 0


def test_no_weight_is_moved_or_copied_between_clips(backend, clip_request):
    components = backend.components
    models = (components.transformer, components.codec.vae, components.encode_text.encoder)
    places = [parameter.data_ptr() for model in models for parameter in model.parameters()]
    for seed in (1, 2):
        frames_of(backend, clip_request(seed=seed))
    assert [parameter.data_ptr() for model in models for parameter in model.parameters()] == places


def test_guidance_costs_a_second_pass_and_the_negative_prompt_once(backend, clip_request):
    for prompt in ("a", "b"):
        frames_of(backend, clip_request(prompt=prompt, guidance_scale=5.0))
    assert backend.counters.text_encoder_calls == 3
    assert backend.counters.transformer_passes == 2 * 3 * 2


def test_a_closed_generator_does_no_more_work(backend, clip_request):
    steps = backend.generate(clip_request(num_inference_steps=8, guidance_scale=1.0))
    next(steps)
    steps.close()
    assert backend.counters.transformer_passes == 1
    assert backend.counters.clips_decoded == 0
    assert not torch.is_inference_mode_enabled()


def test_a_suspended_clip_leaves_the_callers_autograd_alone(backend, clip_request):
    steps = backend.generate(clip_request())
    next(steps)
    assert not torch.is_inference_mode_enabled()
    weight = torch.ones(2, requires_grad=True)
    weight.sum().backward()
    steps.close()


def test_timings_name_the_phases(backend, clip_request):
    *_, result = backend.generate(clip_request())
    assert {"text", "condition", "denoise", "decode", "uint8"} <= result.timings.keys()
    assert all(seconds >= 0 for seconds in result.timings.values())
    assert result.timings["denoise"] > 0


def test_latents_that_are_no_numbers_are_an_error_not_a_black_clip(own_backend, clip_request):
    with torch.no_grad():
        own_backend.components.transformer.proj_out.bias[0] = torch.nan
    with pytest.raises(GenerationError, match="Clip 1 broke down"):
        frames_of(own_backend, clip_request())


@pytest.mark.parametrize("point", ["clip.encoded", "clip.denoised", "clip.decoded"])
def test_running_out_of_memory_is_named_and_the_next_clip_works(backend, clip_request, point):
    expected = frames_of(backend, clip_request())
    with faults.injected(f"{point}:oom"), pytest.raises(OutOfMemory, match="Clip 1 needs more memory") as raised:
        frames_of(backend, clip_request())
    assert raised.value.__cause__ is None and raised.value.__context__ is None  # nothing keeps the tensors alive
    assert np.array_equal(frames_of(backend, clip_request()), expected)


def test_an_allocation_that_torch_refuses_is_out_of_memory(own_backend, clip_request):
    def allocate_too_much(*_):
        torch.empty(10**15, dtype=torch.uint8)

    own_backend.components.transformer.patch_embedding.register_forward_hook(allocate_too_much)
    with pytest.raises(OutOfMemory):
        frames_of(own_backend, clip_request())


def test_a_bug_is_not_taken_for_lack_of_memory(own_backend, clip_request):
    def fail(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    own_backend.components.transformer.patch_embedding.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="mat1"):
        frames_of(own_backend, clip_request())


def test_a_model_that_does_not_fit_into_memory_is_named(tiny_preset):
    with faults.injected("model.loaded:oom"), pytest.raises(OutOfMemory, match="The model “tiny” needs more memory"):
        LocalBackend.open(tiny_preset, threads=1)


def lora_file(path, transformer, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for index in range(len(transformer.blocks)):
        for layer in MODULES_PER_BLOCK:
            linear = transformer.get_submodule(f"blocks.{index}.{layer}")
            name = f"transformer.blocks.{index}.{layer}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(2, linear.in_features, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(linear.out_features, 2, generator=generator)
    save_file(tensors, path)
    return str(path)


@pytest.fixture
def backend_with_loras(tiny_preset, own_backend, tmp_path):
    """Shot and Film each with their own LoRA."""
    transformer = own_backend.components.transformer
    variants = {
        name: VariantPreset(lora=lora_file(tmp_path / f"{name}.safetensors", transformer, seed))
        for seed, name in enumerate(("shot", "film"))
    }
    return LocalBackend(own_backend.components, tiny_preset.model_copy(update={"variants": variants}))


def test_switching_variants_back_and_forth_gives_the_same_frames(backend_with_loras, clip_request):
    shot, film = clip_request(variant="shot"), clip_request(variant="film")
    first = frames_of(backend_with_loras, shot)
    frames_of(backend_with_loras, film)
    assert np.array_equal(frames_of(backend_with_loras, shot), first)
    assert backend_with_loras.counters.lora_fusions == 3


def test_a_lora_is_fused_once_for_many_clips(backend_with_loras, clip_request):
    for seed in (1, 2, 3):
        frames_of(backend_with_loras, clip_request(seed=seed))
    assert backend_with_loras.counters.lora_fusions == 1


def test_an_error_while_fusing_does_not_leave_a_mixture_behind(backend_with_loras, clip_request, monkeypatch):
    shot, film = clip_request(variant="shot"), clip_request(variant="film")
    first = frames_of(backend_with_loras, shot)
    with monkeypatch.context() as patch:
        copy_ = torch.Tensor.copy_
        calls = iter(range(100))
        patch.setattr(torch.Tensor, "copy_", lambda *a, **k: copy_(*a, **k) if next(calls) < 5 else out_of_memory())
        with pytest.raises(OutOfMemory):
            frames_of(backend_with_loras, film)
    assert np.array_equal(frames_of(backend_with_loras, shot), first)


def out_of_memory():
    raise MemoryError


def test_a_lora_file_that_was_replaced_is_read_again(backend_with_loras, clip_request, tmp_path):
    first = frames_of(backend_with_loras, clip_request())
    lora_file(tmp_path / "film.safetensors", backend_with_loras.components.transformer, seed=5)
    os.utime(tmp_path / "film.safetensors", ns=(1, 1))
    assert not np.array_equal(frames_of(backend_with_loras, clip_request()), first)


def test_strength_0_is_the_base_model(backend, backend_with_loras, clip_request):
    base = frames_of(backend, clip_request())
    changed = frames_of(backend_with_loras, clip_request())
    assert not np.array_equal(changed, base)
    assert np.array_equal(frames_of(backend_with_loras, clip_request(lora_strength=0.0)), base)


def test_a_lora_of_another_model_is_refused_before_any_step(tiny_preset, backend, clip_request, tmp_path):
    bigger = build(WanSize(num_layers=3)).transformer
    variants = {"film": VariantPreset(lora=lora_file(tmp_path / "big.safetensors", bigger, 0))}
    other = LocalBackend(backend.components, tiny_preset.model_copy(update={"variants": variants}))
    with pytest.raises(WeightsMismatch, match="First unknown key"):
        frames_of(other, clip_request())
    assert other.counters.transformer_passes == 0


def test_rounding_is_to_the_nearest_level_or_down_as_upstream():
    levels = torch.tensor([-1.2, -1.0, -0.4981, 0.0, 0.99, 1.0, 3.0])  # −0.4981 is 63.99, 0.0 is 127.5
    pixels = levels.view(1, 1, 1, 1, -1).expand(1, 3, 1, 1, -1)
    assert to_frames(pixels, "round")[0, 0, :, 0].tolist() == [0, 0, 64, 128, 254, 255, 255]
    assert to_frames(pixels, "floor")[0, 0, :, 0].tolist() == [0, 0, 63, 127, 253, 255, 255]


def test_threads_are_set_only_when_told_to_or_free_to(monkeypatch):
    before = torch.get_num_threads()
    try:
        set_threads(2)
        assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        set_threads(None)
        assert torch.get_num_threads() == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr("psutil.cpu_count", lambda logical: 8)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
        set_threads(None)
        assert torch.get_num_threads() == 7
    finally:
        torch.set_num_threads(before)


def test_a_closed_backend_leaves_no_hook_on_a_model_that_lives_on(tiny_components, tiny_preset, clip_request):
    first, second = (LocalBackend(tiny_components, tiny_preset) for _ in range(2))
    first.interrupt()
    first.close()
    assert len(frames_of(second, clip_request())) == 9


def test_a_closed_backend_can_be_closed_again(tiny_preset):
    backend = LocalBackend.open(tiny_preset, threads=1)
    backend.close()
    backend.close()


def test_a_film_of_three_clips_renders_from_a_preset_on_disk(tiny_preset, picture, tmp_path):
    """The command line's path: preset file, project folder, film loop, local folders of weights."""
    store = film.create(tmp_path / "film", picture, tiny_preset, prompts=["night falls", "fog rolls in", "rain"])
    backend = open_backend(tiny_preset, threads=1)
    events = list(film.render(store, backend, tiny_preset))
    committed = [event for event in events if isinstance(event, TakeCommitted)]
    assert [event.frames for event in committed] == [9, 4, 4]
    assert film.plan(store, tiny_preset).next is None
    assert film.export(store, tiny_preset, tmp_path / "film.mp4").frames == 17
    assert backend.counters.text_encoder_calls == 4  # three prompts and the negative one
    assert backend.counters.frames_encoded == 3 * 9


@pytest.mark.parametrize(
    ("err", "expected"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_every_way_of_saying_that_memory_ran_out_is_known(err, expected):
    assert is_out_of_memory(err) is expected


def test_a_decode_that_failed_leaves_nothing_of_the_clip_in_the_vae(own_backend, clip_request):
    vae, calls = own_backend.components.codec.vae, iter(range(9))

    def fail_later(*_):
        if next(calls) == 1:
            raise MemoryError

    handle = vae.decoder.register_forward_hook(fail_later)
    with pytest.raises(OutOfMemory):
        frames_of(own_backend, clip_request())
    assert all(kept is None for kept in vae._feat_map)
    handle.remove()


def test_a_tier_that_changes_the_pictures_is_named_with_what_it_makes(tiny_preset, clip_request):
    backend = LocalBackend.open(tiny_preset.model_copy(update={"tier": "tiled"}), threads=1)
    notices = [item.text for item in backend.generate(clip_request()) if isinstance(item, Notice)]
    assert backend.info.name == "tiny · tier tiled"
    assert len(notices) == 1 and "tiles" in notices[0]
    assert not [item for item in backend.generate(clip_request()) if isinstance(item, Notice)]  # said once
