"""The model in this process, one clip at a time. Pocket and 14B run through the same code.

A clip goes through text → condition → denoise → decode → uint8. Nothing of an earlier clip is kept but the embeddings
of its texts, so the same request gives the same frames whatever was made before.
"""

import gc
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor

from engine import backends, faults
from engine.backends.base import BackendInfo, ClipResult, Interrupted, Notice, StepDone
from engine.config import Preset
from engine.diffusion.conditioning import Conditioning, Counters, TextCache, prepare
from engine.diffusion.flow import sigma_schedule
from engine.diffusion.guidance import guide, passes
from engine.diffusion.preview import has_preview, preview_frames
from engine.diffusion.sampler import Step, draw_noise, sample
from engine.domain import ClipRequest
from engine.environment import available_cores
from engine.errors import GenerationError, OutOfMemory
from engine.models import components as models
from engine.models.acceleration import Shortcuts
from engine.models.attention import PlainDenoiser, ReusingDenoiser
from engine.models.components import Components, PictureCodec
from engine.models.expert import Expert, fitting_base
from engine.models.placement import send_home
from engine.variants import Variant

log = logging.getLogger(__name__)
Denoiser = PlainDenoiser | ReusingDenoiser
LACK_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")  # cuBLAS, cuDNN: …_ALLOC_FAILED
MAX_TRIES = 3  # of a clip that runs out of memory, each on a lower tier


class LocalBackend:
    """Generates with `components`, by the settings of `preset`. `counters` tells what was done since it was made."""

    def __init__(self, components: Components, preset: Preset, *, fingerprint: str = "") -> None:
        self.components, self.preset = components, preset
        self.counters = Counters()
        name = f"{preset.name} · {components.note}" if components.note else preset.name
        self._name = name
        self.info = BackendInfo(name, str(components.device), fingerprint)
        self._texts = TextCache(components.encode_text, self.counters)
        transformers = {"high": components.transformer, "low": components.low_noise_transformer}
        self._experts = [
            Expert(
                name,
                transformer,
                base=components.base_weights.get(name),
                read=components.read_lora,
                device=components.device,
                fits=fitting_base(preset, name),
                held=components.held_loras.get(name, ()),
            )
            for name, transformer in transformers.items()
            if transformer is not None
        ]
        self._shortcuts = Shortcuts(preset, [expert.transformer for expert in self._experts], components.device)
        self._interrupted = threading.Event()
        # Twice a block, so that a stop does not wait for a step of several seconds.
        check = torch.compiler.disable(self._check_interrupt) if preset.compile else self._check_interrupt
        self._hooks = [
            module.register_forward_pre_hook(check)
            for expert in self._experts
            for block in expert.transformer.blocks
            for module in (block.norm1, block.ffn)
        ]

    @classmethod
    def open(cls, preset: Preset, *, threads: int | None = None) -> "LocalBackend":
        """Load the model of `preset`. threads: CPU threads to compute with; None leaves one core to the page."""
        components = load_components(preset, threads)
        return cls(components, preset, fingerprint=backends.fingerprint(preset, next(iter(preset.variants))))

    def generate(self, request: ClipRequest) -> Iterator[StepDone | Notice | ClipResult]:
        """See `Backend.generate`. A clip that runs out of memory is tried again on lower tiers, where there are any."""
        self._interrupted.clear()
        hint = "Finished clips are safe. Close other programs or choose a smaller size, then resume."
        placement = self.components.placement
        if placement is not None and (moved := placement.prepare(request.resolution, request.num_frames)):
            yield Notice(moved)
        while self._shortcuts.notices:
            yield Notice(self._shortcuts.notices.pop(0))
        for _ in range(MAX_TRIES):
            yield from self._say_tier()
            is_done = False
            try:
                yield from self._generate(request)
                is_done = True
                return
            except Exception as err:
                mended = self._shortcuts.fall_back(err)
                if mended is None and not is_out_of_memory(err):
                    raise
            finally:
                if not is_done:  # blocks on loan to the GPU would otherwise stay there until they compute again
                    for expert in self.__dict__.get("_experts", ()):
                        send_home(expert.transformer)
            release_memory()  # outside the except block: its traceback holds the tensors of the failed try
            if mended is None:
                mended = placement.step_down() if placement is not None else None
            if mended is None:
                break
            log.warning("clip %d is tried again: %s", request.index + 1, mended)
            yield Notice(mended)
        raise out_of_memory(f"Clip {request.index + 1}", hint)

    def _say_tier(self) -> Iterator[Notice]:
        """Name a tier that changes the pictures with everything it makes, and say so once."""
        placement = self.components.placement
        inexact = "" if placement is None or placement.exact else f" · tier {placement.tier}"
        name = self._name + inexact
        if name != self.info.name:
            self.info = replace(self.info, name=name)
            if inexact:
                yield Notice(f"The model works on the tier “{placement.tier}”: {placement.meaning}.")

    @torch.inference_mode()  # on a generator it is left and entered again at every yield
    def _generate(self, request: ClipRequest) -> Iterator[StepDone | Notice | ClipResult]:
        seconds: Counter[str] = Counter()
        scales = (request.guidance_scale,)  # the one term of Shot and Film: text
        variant = self.preset.variant(request.variant)
        with timed(seconds, "lora"):
            for expert in self._experts:
                loras = self.preset.loras(
                    request.variant, expert.name, strength=request.lora_strength, draft=request.draft
                )
                self.counters.lora_fusions += expert.use(loras)
        conditioning = self._prepare(request, variant, seconds)
        faults.hit("clip.encoded")
        with self._shortcuts.for_clip(request.num_inference_steps):
            for step in clocked(self._denoise(request, conditioning, scales, variant), seconds, "denoise"):
                latents = step.latents
                yield self._step_done(request, step, seconds)
        if not torch.isfinite(latents).all():
            raise GenerationError(
                f"Clip {request.index + 1} broke down into numbers that are no picture.",
                "Finished clips are safe. Try another seed or a lower LoRA strength.",
            )
        faults.hit("clip.denoised")
        self._check_interrupt()
        frames, states, notice = self._frames(request, latents, seconds)
        faults.hit("clip.decoded")
        if notice:
            yield Notice(notice)
        tail = None
        if variant.num_motion_latents:
            tail = latents[0, :, -variant.num_motion_latents :].float().cpu().numpy()
        yield ClipResult(frames, dict(seconds), tail, states)

    def _frames(
        self, request: ClipRequest, latents: Tensor, seconds: Counter[str]
    ) -> tuple[np.ndarray, dict[str, np.ndarray] | None, str]:
        """The clip (F, H, W, 3), the states of its last frames where clips are composed, and what is to be said of
        it."""
        codec = self.components.codec
        self.counters.clips_decoded += 1
        if isinstance(codec, PictureCodec):
            with timed(seconds, "decode"):
                drawn = codec.draw(latents, request, self._check_interrupt)
            return drawn.frames, drawn.states, drawn.notice
        with timed(seconds, "decode"):
            pixels = codec.decode(latents)
        with timed(seconds, "uint8"):
            return to_frames(pixels, self.preset.uint8), None, ""

    def _prepare(self, request: ClipRequest, variant: Variant, seconds: Counter[str]) -> Conditioning:
        length = self.preset.max_sequence_length
        needs_negative = 1 in passes((request.guidance_scale,))
        with timed(seconds, "text"):
            for text in (request.prompt, request.negative_prompt)[: 1 + needs_negative]:
                self._texts(text, length)
        with timed(seconds, "condition"):
            return prepare(
                request,
                self.components,
                variant=variant,
                texts=self._texts,
                max_sequence_length=length,
                needs_negative=needs_negative,
                counters=self.counters,
            )

    def _denoise(
        self, request: ClipRequest, conditioning: Conditioning, scales: tuple[float, ...], variant: Variant
    ) -> Iterator[Step]:
        components = self.components
        prompts = [conditioning.prompt_embeds]
        if conditioning.negative_prompt_embeds is not None:
            prompts.append(conditioning.negative_prompt_embeds)
        kind = self._denoiser_kind()
        denoisers: dict[str, Denoiser] = {}

        def predict(latents: Tensor, sigma: float) -> Tensor:
            faults.hit("clip.step.denoise")
            self._shortcuts.at(sigma)
            expert = self._expert_at(sigma, variant)
            if expert.name not in denoisers:
                denoisers.clear()  # the noise only falls: the other expert's work is done
                if components.placement is not None:
                    components.placement.bring(expert.transformer)
                denoisers[expert.name] = kind(expert.transformer, prompts, conditioning.image_embeds)
            model_input = torch.cat([latents.to(components.dtype), conditioning.condition_latents], dim=1)
            return guide(self._evaluate(denoisers[expert.name], model_input, sigma, passes(scales)), scales)

        channels = components.codec.latent_channels
        shape = (1, channels, *conditioning.condition_latents.shape[2:])
        noise = draw_noise(shape, request.seed, components.device)
        if isinstance(components.codec, PictureCodec):
            noise = components.codec.tied(noise)
        sigmas = sigma_schedule(request.num_inference_steps, request.shift)
        return sample(predict, noise, sigmas, prediction=components.prediction)

    def _denoiser_kind(self) -> type[Denoiser]:
        """On a CPU the one that does less work, unless hooks or shortcuts need the transformer's own forward."""
        placement = self.components.placement
        whole = placement is None or placement.tier == "resident"
        reuses = self.components.device.type == "cpu" and whole and not self._shortcuts.need_own_forward
        return ReusingDenoiser if reuses else PlainDenoiser

    def _evaluate(self, denoiser: Denoiser, model_input: Tensor, sigma: float, branches: list[int]) -> Iterable[Tensor]:
        """The prediction of each of `branches` of guidance, float32; one pass at a time, or all in one (`cfg`)."""
        if self.preset.cfg == "batched" and len(branches) > 1 and isinstance(denoiser, PlainDenoiser):
            self.counters.transformer_passes += 1
            yield from (predicted.float() for predicted in denoiser.together(model_input, sigma, branches))
            return
        for branch in branches:
            self.counters.transformer_passes += 1
            yield denoiser(model_input, sigma, branch).float()

    def _expert_at(self, sigma: float, variant: Variant) -> Expert:
        """The expert for noise level `sigma`: the low-noise one below the variant's boundary, where there are two."""
        low = variant.boundary is not None and sigma < variant.boundary
        return self._experts[-1 if low else 0]

    def _step_done(self, request: ClipRequest, step: Step, seconds: Counter[str]) -> StepDone:
        preview = None
        if has_preview(step.index, request.num_inference_steps):
            with timed(seconds, "preview"):
                preview = preview_frames(step.clean, self.components, request).numpy()
        return StepDone(step.index, request.num_inference_steps, preview)

    def interrupt(self) -> None:
        """See `Backend.interrupt`."""
        self._interrupted.set()

    def _check_interrupt(self, *_: object) -> None:
        if self._interrupted.is_set():
            raise Interrupted

    def release(self) -> None:
        """Let go of the components, which stay as they are. The backend cannot be used afterwards."""
        while self._hooks:
            self._hooks.pop().remove()
        self._shortcuts.close()

    def close(self) -> None:
        """Free the model. The backend cannot be used afterwards."""
        self.release()
        for name in ("components", "_texts", "_experts"):
            self.__dict__.pop(name, None)
        release_memory()


def load_components(preset: Preset, threads: int | None) -> Components:
    """The model of `preset`, ready to compute with `threads` CPU threads. Raises `OutOfMemory`, `ModelError`."""
    set_threads(threads)
    began = time.monotonic()
    for lowered in range(MAX_TRIES):
        components = load_or_nothing(preset, lowered)
        if components is not None:
            log.info("model %s loaded on %s in %.1f s", preset.name, components.device, time.monotonic() - began)
            return components
        release_memory()
        log.warning("memory ran out while %s was loaded", preset.name)
    raise out_of_memory(f"The model “{preset.name}”", "Close other programs, or choose a smaller preset.")


def load_or_nothing(preset: Preset, lowered: int) -> Components | None:
    """The model of `preset`, `lowered` tiers below the one that fits; None when memory runs out."""
    try:
        components = models.load(preset, lowered=lowered)
        faults.hit("model.loaded")
    except (MemoryError, RuntimeError) as err:
        if not is_out_of_memory(err):
            raise
        return None
    return components


def to_frames(pixels: Tensor, rounding: Literal["round", "floor"]) -> np.ndarray:
    """Pixels (1, 3, F, H, W) in [−1, 1] as uint8 (F, H, W, 3), converted on their device.

    "floor" is what upstream does; it darkens by about half a level at every hand-off.
    """
    levels = ((pixels[0].float() + 1) * 127.5).clamp_(0, 255)
    if rounding == "round":
        levels.round_()
    return levels.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()


def set_threads(threads: int | None) -> None:
    """Compute with `threads` CPU threads. None: physical cores, less one for the page from four on, unless the
    environment sets OMP_NUM_THREADS."""
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        cores = min(psutil.cpu_count(logical=False) or 1, available_cores())
        threads = cores - 1 if cores >= 4 else cores
    if threads is not None:
        torch.set_num_threads(threads)


def out_of_memory(what: str, hint: str) -> OutOfMemory:
    """The error to raise, after the memory was freed. Call it outside the except block: its traceback holds tensors."""
    release_memory()
    return OutOfMemory(f"{what} needs more memory than is free.", hint)


def is_out_of_memory(err: Exception) -> bool:
    """True for every way that torch and CUDA's libraries say it: a full card, full pinned memory, no workspace."""
    if isinstance(err, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(err, RuntimeError) and any(sign in str(err) for sign in LACK_OF_MEMORY)


def release_memory() -> None:
    """Give back what is held for later: of the GPU's memory, and pinned host memory, which streaming takes a lot of."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.accelerator.empty_host_cache()


@contextmanager
def timed(seconds: Counter[str], phase: str) -> Iterator[None]:
    """Add the CPU seconds of this process inside the block to `seconds[phase]`."""
    began = time.process_time()
    try:
        yield
    finally:
        seconds[phase] += time.process_time() - began


def clocked(steps: Iterator[Step], seconds: Counter[str], phase: str) -> Iterator[Step]:
    """`steps`, the CPU seconds of each added to `seconds[phase]`."""
    while True:
        with timed(seconds, phase):
            step = next(steps, None)
        if step is None:
            return
        yield step
