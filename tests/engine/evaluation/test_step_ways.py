from contextlib import contextmanager
from functools import partial

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.evaluation.step_ways import (
    CPU_KERNELS,
    EAGER,
    REUSED,
    STREAMED,
    Ceiling,
    Clock,
    Step,
    StepRow,
    Timing,
    Way,
    Work,
    fastest,
    measure_ceiling,
    measure_streaming,
    measure_way,
    measure_ways,
    running,
    step_work,
    ways_of,
    with_shares,
)
from engine.models import components
from engine.models.published import WAN22_I2V_A14B, WAN_I2V_14B
from engine.models.untrained import WanSize, build
from engine.training.footprint import LatentShape

LATENTS = LatentShape.of(32, 32, 9)
CPU = torch.device("cpu")
CEILING = Ceiling(100.0, 50.0, True)
WORK = Work(2 * 10**14, 10**14)


@pytest.fixture
def loaded(tiny_preset):
    """Components of this test's own: some tests leave the transformer changed."""
    return components.load(tiny_preset)


def test_a_14b_step_is_3372_tflop_and_half_of_it_attention():
    """performance.md: 3.37 PFLOP a CFG step, 53 % of it attention."""
    work = step_work(WAN_I2V_14B, LatentShape.of(832, 480, 81))
    assert work.total == pytest.approx(3372e12, rel=1e-3)
    assert work.attention / work.total == pytest.approx(0.53, abs=0.005)
    without_picture = step_work(WAN22_I2V_A14B, LatentShape.of(832, 480, 81))
    assert 0.98 < without_picture.total / work.total < 1


@torch.inference_mode()
def test_the_formula_is_what_torch_counts():
    """Two models that differ by one block: what is outside of the blocks cancels."""
    counted, planned = [], []
    for blocks in (2, 3):
        transformer = build(WanSize(num_layers=blocks)).transformer
        inputs = {
            "hidden_states": torch.zeros(1, 36, *LATENTS.as_tuple[1:]),
            "encoder_hidden_states": torch.zeros(1, 512, 32),
            "encoder_hidden_states_image": torch.zeros(1, 17, 4),
            "timestep": torch.zeros(1),
        }
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            for _ in range(2):
                transformer(**inputs, return_dict=False)
        counted.append(counter.get_total_flops())
        planned.append(step_work(transformer.config, LATENTS, context=512 + 17).total)
    assert counted[1] - counted[0] == planned[1] - planned[0]
    assert planned[1] == planned[0] * 3 // 2


def test_shares_are_of_the_measured_rates():
    """2·10¹⁴ at 100 TFLOP/s and 10¹⁴ at 50: four seconds at best; all at 100: three."""
    row = with_shares(StepRow("eager", 8.0), WORK, CEILING)
    assert (row.share, row.of_bound) == (pytest.approx(3 / 8), pytest.approx(4 / 8))


@pytest.mark.parametrize(
    ("row", "ceiling"),
    [(StepRow("eager", 8.0, spread=0.16), CEILING), (StepRow("eager", 8.0), Ceiling(100.0, 50.0, False))],
)
def test_no_share_is_made_of_repeats_that_differ(row, ceiling):
    judged = with_shares(row, WORK, ceiling)
    assert judged.share is None and judged.of_bound is None
    assert judged.seconds == 8.0


def test_a_timing_is_the_median_and_its_spread():
    timing = Timing.of([2.0, 2.4, 2.2])
    assert timing.seconds == 2.2
    assert timing.spread == pytest.approx(0.2)
    assert not timing.steady
    assert Timing.of([2.0, 2.3]).steady


@torch.inference_mode()
def test_every_way_on_a_cpu_gives_the_same_step(loaded):
    clock, step = Clock(CPU), Step(loaded, LATENTS)
    work, ceiling = step_work(loaded.transformer.config, LATENTS), measure_ceiling(loaded, LATENTS, clock)
    assert ceiling.products > 0 and ceiling.attention > 0
    rows = measure_ways(ways_of(loaded.transformer, CPU), step, clock, work, ceiling)
    rows.append(measure_streaming(loaded, step, clock, work, ceiling))
    assert [row.way for row in rows] == [EAGER, *CPU_KERNELS, REUSED, STREAMED]
    assert all(row.seconds > 0 and row.difference < 1e-5 and row.exact for row in rows)
    assert rows[0].difference == 0


@torch.inference_mode()
def test_a_way_that_is_not_here_says_why(loaded):
    clock, step = Clock(CPU), Step(loaded, LATENTS)
    way = Way("sage", partial(running, loaded.transformer, "sage"))
    row = measure_way(way, step, clock, WORK, CEILING, step())
    assert row.seconds is None and row.share is None
    assert row.error.startswith("RuntimeError: Sage Attention backend 'sage' is not usable because of missing package")


@torch.inference_mode()
def test_a_kernel_that_computes_something_else_is_no_exact_one(loaded):
    @contextmanager
    def halved():
        hook = loaded.transformer.proj_out.register_forward_hook(lambda module, inputs, output: output / 2)
        yield
        hook.remove()

    clock, step = Clock(CPU), Step(loaded, LATENTS)
    row = measure_way(Way("halved", halved), step, clock, WORK, CEILING, step())
    assert row.difference == pytest.approx(0.5, abs=0.05)
    assert not row.exact
    rows = [
        StepRow(EAGER, 3.0, difference=0.0),
        StepRow("halved", 1.0, difference=0.5),
        StepRow("flash", 2.0, difference=1e-3),
    ]
    assert fastest([*rows, StepRow(STREAMED, 0.5, difference=0.0), StepRow("sage", error="missing")]).way == "flash"
    assert fastest([]) is None


def test_running_puts_back_what_was_chosen_before(loaded):
    processor = loaded.transformer.blocks[1].attn2.processor
    processor._attention_backend = "native"
    active = _AttentionBackendRegistry.get_active_backend()
    with running(loaded.transformer, "_native_math", compile_blocks=True):
        assert _AttentionBackendRegistry.get_active_backend() != active
        assert processor._attention_backend is None
        assert loaded.transformer.blocks[0]._compiled_call_impl is not None  # nothing is compiled before it runs
    assert processor._attention_backend == "native"
    assert loaded.transformer.blocks[0]._compiled_call_impl is None
    assert _AttentionBackendRegistry.get_active_backend() == active
