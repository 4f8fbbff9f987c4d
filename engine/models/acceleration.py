"""Shortcuts of a preset on loaded transformers: another attention kernel, compiled blocks, caches between steps.

Everything is set on the model itself, never as diffusers' process-wide default, and is taken back on `close`. Caches
are diffusers' hooks: they work in the model's own forward (`PlainDenoiser`), are laid on for one clip and taken off
after it, so that no clip sees another's. Caches and attention in 8 bits make other pictures: `Preset` wants `lossy` for
them. Nothing here was timed on a GPU.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from diffusers import (
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    WanTransformer3DModel,
)
from diffusers.hooks import MagCacheConfig
from diffusers.models.attention_dispatch import AttentionBackendName, _check_attention_backend_requirements
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn

from engine.config import Preset
from engine.errors import ConfigError
from engine.models.attention import NUM_TRAIN_TIMESTEPS
from engine.models.placement import TRACING_HOOKS, registries_of

log = logging.getLogger(__name__)
CacheConfig = FirstBlockCacheConfig | PyramidAttentionBroadcastConfig | MagCacheConfig | TaylorSeerCacheConfig
KERNELS = {name: name for name in ("native", "flash", "sage", "flex", "xformers")} | {"flash_3": "_flash_3"}
PACKAGES = {"flash": "flash_attn", "flash_3": "flash_attn_interface", "sage": "sageattention", "xformers": "xformers"}
COMPILERS = ("torch._dynamo", "torch._inductor", "triton")
# Growth of a step's change over that of the step before, Wan 2.1 I2V 14B 480p, 40 steps, prompted branch; threshold,
# longest pause and first steps are those of the same project's command for this model (Zehong-Ma/MagCache, Apache-2.0,
# MagCache4Wan2.1 at df81cb1). They were taken with that project's sampler, not with SVI's shift.
MAGNITUDES = (
    *(1.0, 0.98783, 0.97559, 0.98311, 0.98202, 0.9888, 0.98762, 0.98957, 0.99052, 0.99383, 0.98857, 0.99065, 0.98845),
    *(0.99057, 0.98957, 0.98601, 0.98823, 0.98756, 0.98808, 0.98721, 0.98571, 0.98543, 0.98157, 0.98411, 0.97952),
    *(0.98149, 0.9774, 0.97825, 0.97355, 0.97085, 0.97056, 0.96588, 0.96113, 0.9567, 0.94961, 0.93973, 0.93217),
    *(0.91878, 0.90955, 0.92617),
)


@torch.inference_mode()
def trace_prefetch(transformer: WanTransformer3DModel, device: torch.device) -> None:
    """Let streamed blocks learn their order before a cache is laid on them, by a pass over one latent patch.

    With streams diffusers learns it in the first pass and then takes its tracking hooks off; hooks that were laid on
    meanwhile, as those of a cache, would be undone with them and the clip computed without it.
    """
    if not any(name in registry.hooks for registry in registries_of(transformer) for name in TRACING_HOOKS):
        return
    config, numbers = transformer.config, {"device": device, "dtype": transformer.dtype}
    picture = None if config.image_dim is None else torch.zeros(1, 257, config.image_dim, **numbers)
    transformer(
        hidden_states=torch.zeros(1, config.in_channels, 1, *config.patch_size[1:], **numbers),
        timestep=torch.zeros(1, device=device),
        encoder_hidden_states=torch.zeros(1, 512, config.text_dim, **numbers),
        encoder_hidden_states_image=picture,
        return_dict=False,
    )


class Shortcuts:
    """What `preset` asks for, set on `transformers`. notices: sentences for the person, each to be said once."""

    def __init__(self, preset: Preset, transformers: Sequence[WanTransformer3DModel], device: torch.device) -> None:
        self.preset, self.transformers = preset, tuple(transformers)
        self.notices: list[str] = []
        self._sigma, self._device = 1.0, device
        self._compiled = False
        self._kernel = kernel_for(preset, device)
        if self._kernel != "native":  # which is the process's default
            for transformer in self.transformers:
                set_attention(transformer, self._kernel)
        if preset.compile:
            self._compile(device)

    @property
    def need_own_forward(self) -> bool:
        """True when only the transformer's own forward takes them."""
        return self._compiled or self.preset.cache != "none" or self._kernel != "native" or self.preset.cfg == "batched"

    @contextmanager
    def for_clip(self, num_inference_steps: int) -> Iterator[None]:
        """Lay the cache on for one clip of so many steps."""
        if self.preset.cache == "none":
            yield
            return
        for transformer in self.transformers:
            trace_prefetch(transformer, self._device)
            transformer.enable_cache(cache_config(self.preset.cache, num_inference_steps, self._timestep))
        try:
            yield
        finally:
            for transformer in self.transformers:
                transformer.disable_cache()

    def at(self, sigma: float) -> None:
        """Say which noise level comes next; the pyramid works at some of them only."""
        self._sigma = sigma

    def fall_back(self, err: Exception) -> str | None:
        """Give up compiling when `err` comes from it, and say so; None for any other error."""
        if not self._compiled or not type(err).__module__.startswith(COMPILERS):
            return None
        log.warning("compiling failed: %s", err)
        self._decompile()
        return f"Compiling the model failed ({type(err).__name__}): it runs uncompiled, and the clip starts again."

    def close(self) -> None:
        """Leave the transformers as they were found, and let go of them."""
        self._decompile()
        for transformer in self.transformers:
            set_attention(transformer, None)
        self.transformers = ()

    def _timestep(self) -> int:
        return round(NUM_TRAIN_TIMESTEPS * self._sigma)

    def _compile(self, device: torch.device) -> None:
        """Compile the blocks, which are alike, once for all; the first pass does it. First see if anything compiles."""
        try:
            torch.compile(lambda numbers: 2 * numbers + 1)(torch.ones(8, device=device))
        except Exception as err:
            log.warning("nothing can be compiled here: %s", err)
            self.notices.append(f"Nothing can be compiled here ({type(err).__name__}): the model runs uncompiled.")
            return
        for transformer in self.transformers:
            transformer.compile_repeated_blocks()
        self._compiled = True

    def _decompile(self) -> None:
        if self._compiled:
            for block in (block for transformer in self.transformers for block in transformer.blocks):
                block._compiled_call_impl = None
        self._compiled = False


def cache_config(name: str, num_inference_steps: int, timestep: Callable[[], int]) -> CacheConfig:
    """diffusers' configuration of the cache `name` for a clip. timestep: the one that is computed at this moment."""
    match name:
        case "first block":
            return FirstBlockCacheConfig()
        case "pyramid":  # every other self-attention in the middle of the way, as in diffusers' documentation
            return PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=2,
                spatial_attention_timestep_skip_range=(100, 800),
                current_timestep_callback=timestep,
            )
        case "magcache":
            return MagCacheConfig(
                threshold=0.24,
                max_skip_steps=6,
                retention_ratio=0.2,
                num_inference_steps=num_inference_steps,
                mag_ratios=list(MAGNITUDES),
            )
        case (
            "taylor"
        ):  # lite: with every attention and feed-forward it would keep 80 GB at 14B, and its default nothing
            return TaylorSeerCacheConfig(use_lite_mode=True)
    raise ConfigError(f"There is no cache “{name}”.")


# ---- attention


def set_attention(transformer: nn.Module, kernel: str | None) -> None:
    """Let every attention of `transformer` use diffusers' backend `kernel`; None leaves it to the process's default."""
    backend = AttentionBackendName(kernel) if kernel else None
    for module in transformer.modules():
        if isinstance(module, WanAttention):
            module.processor._attention_backend = backend


def kernel_for(preset: Preset, device: torch.device) -> str:
    """diffusers' name of the kernel that `preset` asks for; "auto" takes the best exact one that is installed.

    Raises `ConfigError` for one that is not installed or needs another device.
    """
    asked = preset.attention
    on_gpu = device.type == "cuda"
    if asked == "auto":
        hopper = on_gpu and torch.cuda.get_device_capability(device)[0] == 9
        preferred = (("flash_3",) if hopper else ()) + (("flash",) if on_gpu and preset.dtype != "float32" else ())
        asked = next((name for name in preferred if is_installed(name)), "native")
    if asked in PACKAGES and not on_gpu:
        raise ConfigError(f"`attention: {asked}` needs a GPU.", f"Here there are: {', '.join(installed(on_gpu))}.")
    if asked == "flex" and on_gpu and not preset.compile:
        raise ConfigError(
            "`attention: flex` keeps every score in memory unless it is compiled.", "Add `compile: true`."
        )
    if not is_installed(asked):
        raise ConfigError(
            f"`attention: {asked}` needs the package {PACKAGES[asked]}, which is not installed or too old.",
            f"Here there are: {', '.join(installed(on_gpu))}.",
        )
    return KERNELS[asked]


def is_installed(name: str) -> bool:
    """True when diffusers can use the kernel."""
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        return False
    try:
        _check_attention_backend_requirements(AttentionBackendName(KERNELS[name]))
    except RuntimeError:
        return False
    return True


def installed(on_gpu: bool) -> list[str]:
    """The values of `attention:` that work on this machine."""
    return [name for name in KERNELS if (on_gpu or name not in PACKAGES) and is_installed(name)]
