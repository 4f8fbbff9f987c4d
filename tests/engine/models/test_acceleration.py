"""Shortcuts: what they save, that clips stay independent, and that the model is left as it was found."""

import numpy as np
import pytest
import torch
from diffusers.hooks.group_offloading import LazyPrefetchGroupOffloadingHook
from diffusers.hooks.hooks import HookRegistry
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.transformers.transformer_wan import WanAttention

from engine.backends.base import Notice
from engine.backends.local import LocalBackend
from engine.errors import ConfigError
from engine.models import acceleration
from engine.models.acceleration import MAGNITUDES, Shortcuts, cache_config, installed, kernel_for
from engine.models.attention import PlainDenoiser
from engine.models.placement import stream_blocks
from engine.models.untrained import WanSize, build

CPU = torch.device("cpu")
CACHES = ["first block", "pyramid", "magcache", "taylor"]


def clip(backend, request):
    *_, result = backend.generate(request)
    return result.frames


def with_keys(preset, **keys):
    return preset.model_copy(update={"lossy": True} | keys)


@pytest.fixture
def components(tiny_components):
    """The shared model, which must be left as it was found."""
    yield tiny_components
    transformer = tiny_components.transformer
    assert not transformer.is_cache_enabled
    assert not any(part._diffusers_hook.hooks for part in transformer.modules() if hasattr(part, "_diffusers_hook"))
    assert {m.processor._attention_backend for m in transformer.modules() if isinstance(m, WanAttention)} == {None}
    assert _AttentionBackendRegistry.get_active_backend()[0].value == "native"


# ---- guidance in one pass


def test_both_branches_in_one_pass_equal_those_in_turn(components):
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randn(1, 512, 32, generator=generator) for _ in range(2)]
    picture, model_input = torch.randn(1, 17, 4, generator=generator), torch.randn(1, 36, 3, 4, 4, generator=generator)
    denoiser = PlainDenoiser(components.transformer, prompts, picture)
    with torch.inference_mode():
        together = denoiser.together(model_input, 0.5, [0, 1])
        for branch, predicted in enumerate(together):
            alone = denoiser(model_input, 0.5, branch)
            assert predicted.shape == alone.shape
            assert torch.allclose(predicted, alone, atol=1e-5)  # float32 sums in another order
    assert not torch.allclose(*together, atol=1e-3)


def test_a_batched_clip_takes_half_the_passes_and_looks_the_same(components, tiny_preset, clip_request):
    in_turn, batched = (
        LocalBackend(components, tiny_preset),
        LocalBackend(components, with_keys(tiny_preset, cfg="batched")),
    )
    difference = clip(in_turn, clip_request()).astype(int) - clip(batched, clip_request())
    assert np.abs(difference).max() <= 1
    assert in_turn.counters.transformer_passes == 2 * batched.counters.transformer_passes == 6
    clip(batched, clip_request(guidance_scale=1.0))  # a single branch has nothing to be batched with
    assert batched.counters.transformer_passes == 6
    batched.close()


# ---- caches


@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_skips_work_and_forgets_it_between_clips(components, tiny_preset, clip_request, cache):
    computed = []
    hook = components.transformer.blocks[1].attn1.to_q.register_forward_hook(lambda *_: computed.append(1))
    request = clip_request(num_inference_steps=12)
    plain = clip(LocalBackend(components, with_keys(tiny_preset, attention="native")), clip_request())
    computed.clear()
    backend = LocalBackend(components, with_keys(tiny_preset, cache=cache))
    first, other, again = (clip(backend, r) for r in (request, clip_request(seed=3), request))
    hook.remove()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert plain.shape == first.shape
    in_12, in_3 = 2 * 12, 2 * 3
    assert len(computed) < 2 * in_12 + in_3


def test_a_clip_that_is_given_up_takes_its_cache_along(components, tiny_preset, clip_request):
    backend = LocalBackend(components, with_keys(tiny_preset, cache="first block"))
    steps = backend.generate(clip_request(num_inference_steps=8))
    next(steps)
    assert components.transformer.is_cache_enabled
    steps.close()
    assert not components.transformer.is_cache_enabled


def test_the_published_magnitudes_are_those_of_40_steps():
    assert len(MAGNITUDES) == 40 and MAGNITUDES[0] == 1.0 and min(MAGNITUDES) == 0.90955
    config = cache_config("magcache", 20, lambda: 0)
    assert len(config.mag_ratios) == 20
    with pytest.raises(ConfigError):
        cache_config("teacache", 20, lambda: 0)


# ---- attention


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_another_kernel_is_set_on_the_model_and_not_on_the_process(components, tiny_preset):
    transformer, generator = components.transformer, torch.Generator().manual_seed(0)
    prompt, picture = torch.randn(1, 512, 32, generator=generator), torch.randn(1, 17, 4, generator=generator)
    model_input = torch.randn(1, 36, 1, 4, 4, generator=generator)

    def predict():
        with torch.inference_mode():
            return PlainDenoiser(transformer, [prompt], picture)(model_input, 0.5, 0)

    expected = predict()
    shortcuts = Shortcuts(with_keys(tiny_preset, attention="flex"), [transformer], CPU)
    assert shortcuts.need_own_forward
    attentions = [module for module in transformer.modules() if isinstance(module, WanAttention)]
    assert {attention.processor._attention_backend.value for attention in attentions} == {"flex"}
    assert _AttentionBackendRegistry.get_active_backend()[0].value == "native"
    found = predict()
    assert torch.allclose(found, expected, atol=1e-4) and not torch.equal(found, expected)
    shortcuts.close()


@pytest.mark.parametrize("kernel", ["flash", "flash_3", "sage", "xformers"])
def test_a_kernel_that_is_not_here_is_refused_with_those_that_are(tiny_preset, kernel, monkeypatch):
    preset = with_keys(tiny_preset, attention=kernel)
    with pytest.raises(ConfigError, match=f"`attention: {kernel}` needs a GPU.*native, flex"):
        kernel_for(preset, CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(ConfigError, match=rf"`attention: {kernel}` needs the package.*native"):
        kernel_for(preset, torch.device("cuda"))


def test_flex_is_refused_on_a_gpu_unless_it_is_compiled(tiny_preset):
    preset = with_keys(tiny_preset, attention="flex")
    with pytest.raises(ConfigError, match="compile: true"):
        kernel_for(preset, torch.device("cuda"))
    assert kernel_for(preset.model_copy(update={"compile": True}), torch.device("cuda")) == "flex"


def test_auto_takes_the_best_exact_kernel_of_the_card(tiny_preset, monkeypatch):
    assert kernel_for(tiny_preset, CPU) == "native"
    present = {"native", "flash", "flash_3", "sage"}
    monkeypatch.setattr(acceleration, "is_installed", lambda name: name in present)
    bfloat16, cuda = tiny_preset.model_copy(update={"dtype": "auto"}), torch.device("cuda")
    for capability, kernel in (((9, 0), "_flash_3"), ((8, 9), "flash"), ((12, 0), "flash")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert kernel_for(bfloat16, cuda) == kernel
        assert kernel_for(tiny_preset, cuda) == ("_flash_3" if capability == (9, 0) else "native")
    assert installed(on_gpu=True) == ["native", "flash", "sage", "flash_3"]


# ---- compiling


def test_what_cannot_be_compiled_runs_uncompiled_and_says_so(components, tiny_preset, clip_request, monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    backend = LocalBackend(components, with_keys(tiny_preset, compile=True))
    first = list(backend.generate(clip_request()))
    assert [item.text for item in first if isinstance(item, Notice)] == [
        "Nothing can be compiled here (RuntimeError): the model runs uncompiled."
    ]
    second = list(backend.generate(clip_request()))
    assert not [item for item in second if isinstance(item, Notice)]  # said once
    assert np.array_equal(first[-1].frames, second[-1].frames)


def test_compiling_that_fails_in_a_clip_is_given_up(tiny_preset, clip_request, monkeypatch):
    from torch._dynamo.exc import BackendCompilerFailed

    backend = LocalBackend.open(tiny_preset, threads=1)
    expected = clip(backend, clip_request())
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    backend = LocalBackend(backend.components, with_keys(tiny_preset, compile=True))
    block = backend.components.transformer.blocks[0]

    def fail(*_, **__):
        raise BackendCompilerFailed(lambda: None, RuntimeError("nvcc"), None)

    block._compiled_call_impl = fail
    items = list(backend.generate(clip_request()))
    assert [
        "runs uncompiled, and the clip starts again" in item.text for item in items if isinstance(item, Notice)
    ] == [True]
    assert np.array_equal(items[-1].frames, expected)


@pytest.mark.slow
def test_compiled_blocks_make_the_same_clip(tiny_preset, clip_request):
    expected = clip(LocalBackend.open(tiny_preset, threads=1), clip_request(num_inference_steps=2))
    backend = LocalBackend.open(with_keys(tiny_preset, compile=True), threads=1)
    items = list(backend.generate(clip_request(num_inference_steps=2)))
    assert not [item for item in items if isinstance(item, Notice)]
    assert np.abs(items[-1].frames.astype(int) - expected).max() <= 1
    backend.interrupt()
    assert np.array_equal(clip(backend, clip_request(num_inference_steps=2)), items[-1].frames)


def test_shortcuts_that_nobody_asked_for_change_nothing(tiny_preset):
    transformer = build(WanSize()).transformer
    shortcuts = Shortcuts(tiny_preset, [transformer], CPU)
    assert not shortcuts.need_own_forward and not shortcuts.notices
    assert shortcuts.fall_back(RuntimeError("anything")) is None


@torch.inference_mode()
def cached_passes(transformer, preset, *, steps=8):
    """The predictions of one clip's passes with the preset's cache."""
    shortcuts = Shortcuts(preset, [transformer], torch.device("cpu"))
    config, generator = transformer.config, torch.Generator().manual_seed(0)
    text = torch.randn(1, 512, config.text_dim, generator=generator)
    latents = torch.randn(1, config.in_channels, 3, 4, 4, generator=generator)
    denoiser = PlainDenoiser(transformer, [text], None)
    with shortcuts.for_clip(steps):
        passes = [denoiser(latents, 1 - step / steps, 0) for step in range(steps)]
    shortcuts.close()
    return torch.stack(passes)


def test_blocks_that_learn_their_order_in_the_first_pass_do_not_undo_a_cache(tiny_preset):
    """diffusers lays the tracking hooks on with streams, which only a GPU has; here they are laid on by hand."""
    preset = tiny_preset.model_copy(update={"cache": "first block", "lossy": True})
    plain, streamed = (build(WanSize(num_layers=4), takes_picture=False).transformer for _ in range(2))
    stream_blocks(streamed, torch.device("cpu"))
    registry = HookRegistry.check_if_exists_or_initialize(streamed)
    registry.register_hook(LazyPrefetchGroupOffloadingHook(), "lazy_prefetch_group_offloading")
    expected = cached_passes(plain, preset)
    exact = cached_passes(plain, preset.model_copy(update={"cache": "none"}))
    assert not torch.equal(expected, exact)  # the cache does something here
    assert torch.equal(cached_passes(streamed, preset), expected)
