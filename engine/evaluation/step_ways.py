"""A CFG step of Wan's transformer in every way that this machine can run it, beside the rates it could reach.

The rates are measured in the same run, at the model's own shapes: matrix products, and attention with the kernel that
PyTorch chooses. Shapes: latents (B, C, f, h, w); n video tokens, c context tokens of text and picture, d width, F
feed-forward width, L blocks.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter, process_time

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor
from torch.nn import functional

from engine.evaluation.speed import LARGEST_SPREAD
from engine.models.attention import PlainDenoiser, ReusingDenoiser
from engine.models.components import Components
from engine.models.placement import stream_blocks
from engine.training.footprint import LatentShape, forward_flops, measure

SIGMA = 0.7
TEXT_TOKENS, PICTURE_TOKENS = 512, 257
EAGER, REUSED, COMPILED, STREAMED = "eager", "reused context", "compiled", "streamed from host memory"
GPU_KERNELS = ("_native_cudnn", "_native_flash", "_native_efficient", "flash", "_flash_3", "xformers", "sage")
CPU_KERNELS = ("_native_math",)
EXACT = 0.02  # ‖difference‖ / ‖eager's output‖: bfloat16 kernels stay below, kernels of 8 bits do not
UNAVAILABLE = (RuntimeError, ValueError, ImportError, NotImplementedError, TypeError, AssertionError)


class Clock:
    """Seconds: of the wall once a GPU is done with all it was given, of this process's CPU time elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.repeats = 3 if self.on_gpu else 2

    def __call__(self) -> float:
        if not self.on_gpu:
            return process_time()
        torch.cuda.synchronize()
        return perf_counter()

    def time(self, work: Callable[[], object], *, warm: bool = False) -> "Timing":
        """How long `work` takes. It is done once before, unless it is `warm` already."""
        if not warm:
            work()
        times = []
        for _ in range(self.repeats):
            began = self()
            work()
            times.append(self() - began)
        return Timing.of(times)


@dataclass(frozen=True)
class Timing:
    """Seconds of some work: the median of its repeats, and by how much the slowest exceeds the fastest."""

    seconds: float
    spread: float

    @property
    def steady(self) -> bool:
        return self.spread <= LARGEST_SPREAD

    @classmethod
    def of(cls, times: Sequence[float]) -> "Timing":
        return cls(statistics.median(times), max(times) / max(min(times), 1e-9) - 1)


@dataclass(frozen=True)
class Work:
    """Floating-point operations; a multiply-add counts two."""

    products: int
    attention: int

    @property
    def total(self) -> int:
        return self.products + self.attention


@dataclass(frozen=True)
class Ceiling:
    """TFLOP/s with nothing but one of the two kinds of work that a pass consists of."""

    products: float
    attention: float
    steady: bool

    def shortest(self, work: Work) -> float:
        """Seconds that `work` takes at these rates."""
        return work.products / (1e12 * self.products) + work.attention / (1e12 * self.attention)


@dataclass(frozen=True)
class StepRow:
    """One way, measured. share: of the rate of matrix products; of_bound: of what products and attention allow
    together; both None when repeats differ. difference: of the output from eager's. error: why there are no seconds."""

    way: str
    seconds: float | None = None
    spread: float = 0.0
    share: float | None = None
    of_bound: float | None = None
    difference: float | None = None
    error: str = ""

    @property
    def steady(self) -> bool:
        return self.seconds is not None and self.spread <= LARGEST_SPREAD

    @property
    def exact(self) -> bool:
        return self.difference is not None and self.difference <= EXACT


@dataclass(frozen=True)
class Way:
    """A way to run a step. enter: puts it in force for a while."""

    name: str
    enter: Callable[[], AbstractContextManager[None]] = nullcontext
    reuses: bool = False


# ---- the work, and the rates of this machine


def context_tokens(config: Mapping[str, object]) -> int:
    """Tokens that cross-attention looks at: of the text, and of the picture where the model takes one."""
    return TEXT_TOKENS + (PICTURE_TOKENS if config["image_dim"] is not None else 0)


def step_work(config: Mapping[str, object], latents: LatentShape, *, context: int | None = None) -> Work:
    """What a CFG step computes, two passes: of each, L (12 n d² + 4 n d F + 4 c d²) in matrix products and
    L · 4 n (n + c) d in attention. Embeddings, norms and the output layer are left out (under 0.1 % at 14B).

    At 14B and 81 × 480 × 832: 3,372 TFLOP, 53 % of them attention. context: c, where it is not Wan's.
    """
    size = measure(config, None)
    tokens, context = size.num_tokens(latents), context_tokens(config) if context is None else context
    total = forward_flops(size, latents, text_tokens=context, picture_tokens=0)
    attention = size.blocks * 4 * tokens * (tokens + context) * size.width
    return Work(2 * (total - attention), 2 * attention)


def measure_ceiling(components: Components, latents: LatentShape, clock: Clock) -> Ceiling:
    """Rates at the model's own shapes: a block's products of video tokens, weighted as it does them, and its
    self-attention."""
    size = measure(components.transformer.config, None)
    like = {"device": components.device, "dtype": components.dtype}
    tokens, d, ffn = size.num_tokens(latents), size.width, size.ffn
    seconds, flops, timings = 0.0, 0, []
    for inner, outer, times in ((d, d, 6), (d, ffn, 1), (ffn, d, 1)):
        left, right = torch.randn(tokens, inner, **like), torch.randn(outer, inner, **like)
        timings.append(clock.time(partial(functional.linear, left, right)))
        seconds, flops = seconds + times * timings[-1].seconds, flops + times * 2 * tokens * inner * outer
    query, key, value = (torch.randn(1, size.heads, tokens, d // size.heads, **like) for _ in range(3))
    timings.append(clock.time(partial(functional.scaled_dot_product_attention, query, key, value)))
    attention = 4 * tokens**2 * d / timings[-1].seconds
    return Ceiling(flops / seconds / 1e12, attention / 1e12, all(timing.steady for timing in timings))


# ---- the step


class Step:
    """A CFG step on random inputs: both branches at one noise level. Returns the output of the first."""

    def __init__(self, components: Components, latents: LatentShape) -> None:
        config = components.transformer.config
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(components.device, components.dtype)

        self.transformer = components.transformer
        self.model_input = draw(1, config.in_channels, *latents.as_tuple[1:])
        self.prompts = [draw(1, TEXT_TOKENS, config.text_dim) for _ in range(2)]
        self.picture = draw(1, PICTURE_TOKENS, config.image_dim) if config.image_dim is not None else None

    def __call__(self, *, reuses: bool = False) -> Tensor:
        kind = ReusingDenoiser if reuses else PlainDenoiser
        denoiser = kind(self.transformer, self.prompts, self.picture)
        first, _ = (denoiser(self.model_input, SIGMA, branch) for branch in range(2))
        return first


def ways_of(transformer: WanTransformer3DModel, device: torch.device, *, compile_blocks: bool = False) -> list[Way]:
    """Eager, with PyTorch's own choice of an attention kernel, comes first: the others are compared with it."""
    on_gpu = device.type == "cuda"
    ways = [Way(EAGER, partial(running, transformer, "native"))]
    ways += [Way(name, partial(running, transformer, name)) for name in (GPU_KERNELS if on_gpu else CPU_KERNELS)]
    if not on_gpu:
        ways.append(Way(REUSED, reuses=True))  # what the engine does on a CPU
    if on_gpu or compile_blocks:
        ways.append(Way(COMPILED, partial(running, transformer, "native", compile_blocks=True)))
    return ways


@contextmanager
def running(transformer: WanTransformer3DModel, kernel: str, *, compile_blocks: bool = False) -> Iterator[None]:
    """All attention by what diffusers calls `kernel`, and the blocks compiled or not, whatever was set before."""
    blocks = list(transformer.blocks)
    processors = [attention.processor for block in blocks for attention in (block.attn1, block.attn2)]
    chosen = [processor._attention_backend for processor in processors]
    compiled = [block._compiled_call_impl for block in blocks]  # torch has no public way back from `compile`
    with attention_backend(kernel):
        try:
            for processor in processors:
                processor._attention_backend = None  # the process-wide one, which `attention_backend` puts back
            for block in blocks:
                block._compiled_call_impl = None
            if compile_blocks:
                transformer.compile_repeated_blocks()
            yield
        finally:
            for processor, before in zip(processors, chosen, strict=True):
                processor._attention_backend = before
            for block, before in zip(blocks, compiled, strict=True):
                block._compiled_call_impl = before


def measure_ways(ways: Sequence[Way], step: Step, clock: Clock, work: Work, ceiling: Ceiling) -> list[StepRow]:
    """A row for each way. Where blocks can be compiled, also with the fastest exact kernel."""
    with ways[0].enter():
        expected = step()
    rows = [measure_way(way, step, clock, work, ceiling, expected) for way in ways]
    best = fastest([row for row in rows if row.way in GPU_KERNELS])
    eager_s = rows[0].seconds
    if any(way.name == COMPILED for way in ways) and best and eager_s and best.seconds < eager_s:
        both = Way(f"{COMPILED}, {best.way}", partial(running, step.transformer, best.way, compile_blocks=True))
        rows.append(measure_way(both, step, clock, work, ceiling, expected))
    return rows


def measure_way(way: Way, step: Step, clock: Clock, work: Work, ceiling: Ceiling, expected: Tensor) -> StepRow:
    """A way that this machine does not have gives a row with the reason."""
    try:
        with way.enter():
            output = step(reuses=way.reuses)
            timing = clock.time(partial(step, reuses=way.reuses), warm=True)
    except UNAVAILABLE as err:
        reason = (str(err).strip().splitlines() or [""])[0]
        return StepRow(way.name, error=f"{type(err).__name__}: {reason[:120]}")
    difference = float((output.float() - expected.float()).norm() / expected.float().norm())
    row = StepRow(way.name, timing.seconds, round(timing.spread, 3), difference=difference)
    return with_shares(row, work, ceiling)


def with_shares(row: StepRow, work: Work, ceiling: Ceiling) -> StepRow:
    """`row` with its shares of the ceiling, unless repeats of either differ too much to make ratios of them."""
    if not (row.steady and ceiling.steady):
        return row
    share = work.total / row.seconds / (1e12 * ceiling.products)
    return replace(row, share=share, of_bound=ceiling.shortest(work) / row.seconds)


def measure_streaming(components: Components, step: Step, clock: Clock, work: Work, ceiling: Ceiling) -> StepRow:
    """A step with the blocks in host memory, copied ahead of their use. The transformer stays like that."""
    way = Way(STREAMED, partial(running, step.transformer, "native"))
    with way.enter():
        expected = step()
    stream_blocks(step.transformer, components.device)
    return measure_way(way, step, clock, work, ceiling, expected)


def fastest(rows: Sequence[StepRow]) -> StepRow | None:
    """The fastest way whose output is eager's but for rounding."""
    exact = [row for row in rows if row.seconds is not None and row.exact and row.way != STREAMED]
    return min(exact, key=lambda row: row.seconds, default=None)
