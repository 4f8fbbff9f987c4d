import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.environment import free_memory
from engine.errors import TrainingError
from engine.models.published import WAN_I2V_14B
from engine.training.error_bank import BankSettings, ErrorBank, check_budget
from engine.training.footprint import Item, LatentShape
from engine.training.plan import (
    BANK_SHARE,
    LAUNCHERS,
    Machine,
    Plan,
    TrainingRun,
    bank_bytes,
    fitting_bank,
    measure_tflops,
    training_plan,
)

GB = 10**9
POCKET = Path(__file__).parents[3] / "assets" / "pocket"
LATENTS = LatentShape.of(832, 480, 81)
ENCODERS = (Item("text encoder", 11_400_000_000), Item("VAE activations", 6_000_000_000))
ONE_GPU = Machine(num_gpus=1, gpu_memory_bytes=80 * GB, host_ram_bytes=256 * GB, disk_free_bytes=2000 * GB)
EIGHT_GPUS = Machine(num_gpus=8, gpu_memory_bytes=80 * GB, host_ram_bytes=2000 * GB, disk_free_bytes=8000 * GB)
RUN = TrainingRun(WAN_I2V_14B, LATENTS, rank=128, num_steps=7500, num_windows=6000, num_conditions=2, encoders=ENCODERS)


def group(plan: Plan, title: str) -> dict[str, int]:
    (found,) = (group for group in plan.groups if group.title == title)
    return {item.name: item.num_bytes for item in found.items} | {"together": found.total}


# Banks


def test_the_papers_banks_take_210_gb_a_rank():
    """svi.md §3.3: 4.19 MB an entry, 105 GB a bank, both 210."""
    paper = BankSettings()
    assert bank_bytes(LATENTS, replace(paper, num_grids=1, capacity=1)) == 2 * 4_193_280
    assert bank_bytes(LATENTS, paper) == 500 * 50 * 2 * 16 * 21 * 60 * 104 * 2 == 209_664_000_000
    assert bank_bytes(LATENTS, replace(paper, storage="float8")) == bank_bytes(LATENTS, paper) // 2
    assert bank_bytes(LATENTS, replace(paper, pooling=2)) == bank_bytes(LATENTS, paper) // 4
    assert bank_bytes(LATENTS, replace(paper, capacity=100)) == bank_bytes(LATENTS, paper) // 5


@pytest.mark.parametrize(
    ("ram", "disk", "expected"),
    [
        (500, 0, BankSettings()),  # half of it holds both
        (420, 0, BankSettings()),
        (419, 0, BankSettings(capacity=499)),
        (84, 0, BankSettings(capacity=100)),
        (83, 0, BankSettings(capacity=197, storage="float8")),
        (42, 0, BankSettings(capacity=100, storage="float8")),
        (41, 500, BankSettings(folder=Path("banks"))),
        (41, 419, BankSettings(capacity=391, storage="float8", pooling=2)),  # the disk holds no whole bank
        (2, 419, BankSettings(capacity=19, storage="float8", pooling=2)),
    ],
)
def test_the_best_bank_that_fits_is_chosen(ram, disk, expected):
    machine = Machine(0, 0, ram * GB, disk * GB)
    fitting = fitting_bank(LATENTS, machine)
    assert fitting.settings == expected
    assert fitting.num_bytes == bank_bytes(LATENTS, expected)
    assert f"{expected.capacity} errors at each of 50 noise levels, {expected.storage}" in fitting.sentence
    assert ("would take 209.7 GB" in fitting.sentence) == (expected != BankSettings())


def test_a_bank_that_is_too_small_to_be_worth_having_is_not_chosen():
    fitting = fitting_bank(LATENTS, Machine(0, 0, 1 * GB, 1 * GB))
    assert fitting.settings is None
    assert fitting.sentence.startswith("No error bank fits: the smallest worth having takes 0.5 GB a rank, 0.5 GB may")


@pytest.mark.parametrize("ram_gb", [4, 30, 64, 128, 256, 512, 1024, 4096])
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_the_trainer_accepts_every_bank_that_is_said_to_fit(ram_gb, ranks):
    machine = Machine(0, 0, ram_gb * GB, 600 * GB)
    settings = fitting_bank(LATENTS, machine, num_ranks=ranks).settings
    if settings is None:
        assert ram_gb == 4
        return
    banks = tuple(ErrorBank(torch.linspace(1, 0, 50), LATENTS.as_tuple, settings) for _ in range(2))
    free = machine.disk_free_bytes if settings.folder else machine.host_ram_bytes
    check_budget(banks, int(BANK_SHARE * free / ranks))
    with pytest.raises(TrainingError):
        check_budget(banks, bank_bytes(LATENTS, settings) - 1)


def test_a_wish_for_less_than_the_paper_is_kept():
    wanted = BankSettings(capacity=20, num_grids=10, storage="float8")
    assert fitting_bank(LATENTS, ONE_GPU, wanted=wanted).settings == wanted


# Plans


def test_one_80_gb_gpu_holds_the_14b_lora_with_checkpointing():
    plan = training_plan(RUN, ONE_GPU)
    assert plan.fits, plan.problems
    assert (plan.size.lora_modules, plan.size.trainable, plan.num_tokens) == (400, 613_416_960, 32_760)
    training = group(plan, "Each GPU, training")
    assert training["base weights, bfloat16"] == pytest.approx(32.8 * GB, rel=0.01)
    assert training["trained values, float32"] == 4 * 613_416_960
    assert training["AdamW moments, float32"] == 8 * 613_416_960
    assert training["together"] == sum(size for name, size in training.items() if name != "together")
    assert 65 * GB < training["together"] < 80 * GB
    caching = group(plan, "GPU, while the latent cache is made")
    assert caching["together"] == training["base weights, bfloat16"] + 17_400_000_000


def test_without_checkpointing_it_does_not_and_the_plan_says_what_would_help():
    plan = training_plan(replace(RUN, checkpointing="none"), ONE_GPU)
    (problem,) = plan.problems
    assert problem.startswith("Each GPU, training: ")
    assert "Most of it: activations at the peak of a step" in problem
    assert problem.endswith("It fits with gradient checkpointing.")
    used = group(plan, "Each GPU, training")["together"]
    assert f"{used / GB:,.1f} GB needed, 80.0 GB free, {used / GB - 80:,.1f} GB missing" in problem


@pytest.mark.parametrize(
    ("machine", "run", "change"),
    [
        (ONE_GPU, replace(RUN, checkpointing="none"), {"checkpointing": "blocks"}),
        (replace(EIGHT_GPUS, gpu_memory_bytes=66 * GB), RUN, {"strategy": "zero2"}),
        (replace(EIGHT_GPUS, gpu_memory_bytes=48 * GB), RUN, {"strategy": "fsdp"}),
        (
            replace(EIGHT_GPUS, gpu_memory_bytes=40 * GB),
            replace(RUN, checkpointing="none"),
            {"strategy": "fsdp", "checkpointing": "blocks"},
        ),
        (replace(ONE_GPU, gpu_memory_bytes=48 * GB), RUN, {"strategy": "fsdp", "num_ranks": 4}),
    ],
)
def test_the_advice_for_a_full_gpu_is_the_smallest_change_that_works(machine, run, change):
    advised = next(problem for problem in training_plan(run, machine).problems if problem.startswith("Each GPU"))
    assert ("with gradient checkpointing" in advised) == ("checkpointing" in change)
    for strategy, file in LAUNCHERS.items():
        assert (file in advised) == (change.get("strategy") == strategy)
    if "num_ranks" in change:
        assert f"It fits on {change['num_ranks']} GPUs" in advised
    changed = training_plan(replace(run, **change), machine)
    assert not any(problem.startswith("Each GPU") for problem in changed.problems)


def test_a_gpu_that_nothing_helps_is_said_to_be_too_small():
    plan = training_plan(RUN, replace(ONE_GPU, gpu_memory_bytes=16 * GB))
    assert plan.problems[0].endswith("Train at a smaller size, with a smaller batch, or on larger GPUs.")
    assert "Make the latent cache on a larger GPU" in plan.problems[1]


def test_strategies_differ_in_what_they_spread():
    totals = {
        strategy: group(training_plan(replace(RUN, strategy=strategy), EIGHT_GPUS), "Each GPU, training")["together"]
        for strategy in ("plain", "zero2", "fsdp")
    }
    assert totals["fsdp"] < totals["zero2"] < totals["plain"]
    assert totals["zero2"] - totals["fsdp"] > 25 * GB  # seven eighths of the base weights, less two gathered blocks


def test_every_rank_has_banks_of_its_own():
    plan = training_plan(replace(RUN, bank=BankSettings(), strategy="zero2"), EIGHT_GPUS)
    host = group(plan, "Host memory, training")
    assert host["error banks of 8 ranks, full"] == 8 * 209_664_000_000
    (problem,) = plan.problems
    assert problem.startswith("Host memory, training: ")
    assert problem.endswith("This bank fits: 298 errors at each of 50 noise levels, bfloat16 in memory.")
    assert training_plan(replace(RUN, bank="fit", strategy="zero2"), EIGHT_GPUS).fits


def test_a_checkpoint_holds_no_more_errors_than_the_run_has_made():
    """7,500 steps, and 50 more from each of the seven other ranks while they share; 8.4 MB for both banks."""
    plan = training_plan(replace(RUN, strategy="zero2", bank=BankSettings(capacity=290)), EIGHT_GPUS)
    errors = 7500 + 7 * 50
    assert (
        group(plan, "Host memory, training")["copy of them while a checkpoint is written"] == 8 * errors * 2 * 4_193_280
    )
    short = training_plan(replace(RUN, strategy="zero2", num_steps=10, bank=BankSettings(capacity=290)), EIGHT_GPUS)
    assert group(short, "Disk")["2 checkpoints: error banks of 8 ranks"] == 2 * 8 * (10 + 7 * 10) * 2 * 4_193_280


def test_banks_in_files_take_disk_instead_of_memory():
    bank = BankSettings(folder=Path("banks"))
    plan = training_plan(replace(RUN, bank=bank), ONE_GPU)
    assert "error banks, full" not in group(plan, "Host memory, training")
    assert group(plan, "Disk")["error banks in files"] == 209_664_000_000


def test_no_recycling_needs_no_bank():
    plan = training_plan(replace(RUN, bank=None), ONE_GPU)
    assert plan.bank is None
    assert not any("bank" in item.name for found in plan.groups for item in found.items)
    assert "bank" not in plan.table()


def test_a_machine_without_room_for_any_bank_is_told_so():
    plan = training_plan(RUN, replace(ONE_GPU, host_ram_bytes=GB // 2, disk_free_bytes=200 * GB))
    assert plan.problems[0].startswith("No error bank fits: ")


def test_the_disk_holds_cache_and_checkpoints():
    disk = group(training_plan(replace(RUN, bank=None), ONE_GPU), "Disk")
    window = 2 * (3 * 16 + 2 * 4) * 21 * 60 * 104 + 2 * (512 * 4096 + 257 * 1280)
    assert disk["latent cache, 6,000 windows"] == pytest.approx(6000 * window, rel=1e-3)  # and headers
    assert disk["2 checkpoints: trained values and optimizer"] == 2 * 12 * 613_416_960
    full = training_plan(replace(RUN, bank=None), replace(ONE_GPU, disk_free_bytes=100 * GB))
    assert full.problems[0].startswith("Disk: ") and full.problems[0].endswith("or train with a smaller bank.")


def test_processes_that_all_read_the_model_need_room_for_all_copies():
    plan = training_plan(replace(RUN, bank=None), replace(EIGHT_GPUS, host_ram_bytes=200 * GB))
    (problem,) = plan.problems
    assert problem.startswith("Host memory, while the model is loaded: 262.8 GB needed, 200.0 GB free")
    assert problem.endswith("Start at most 6 processes here.")
    none = training_plan(replace(RUN, bank=None), replace(ONE_GPU, host_ram_bytes=20 * GB)).problems[0]
    assert none.endswith("The model cannot be read on this machine.")


def test_a_running_average_is_a_second_model():
    with_it, without = (
        group(training_plan(replace(RUN, running_average=average), ONE_GPU), "Each GPU, training")["together"]
        for average in (True, False)
    )
    assert with_it - without == pytest.approx(32.8 * GB + 4 * 613_416_960, rel=0.01)


# Time


def test_time_is_stated_only_when_it_was_measured():
    plan = training_plan(RUN, ONE_GPU)
    assert plan.seconds_per_step is None
    assert "Time: unmeasured (6,539 TFLOP a step and rank)." in plan.table()
    measured = training_plan(RUN, ONE_GPU, tflops=400.0)
    assert measured.seconds_per_step == pytest.approx(6539 / 400, rel=1e-3)
    assert "at least 16 s a step and 34 h for 7,500 steps" in measured.table()
    assert "at the 400 TFLOP/s measured" in measured.table()


def test_checkpointing_costs_a_forward_pass():
    kept = training_plan(replace(RUN, checkpointing="none"), ONE_GPU).flops_per_step
    again = training_plan(RUN, ONE_GPU).flops_per_step
    assert again - kept == pytest.approx(1686e12, rel=0.03)  # and its LoRA


def test_the_rate_of_this_processor_is_measured_in_tflops():
    rate = measure_tflops(torch.device("cpu"), repeats=3)
    assert 1e-4 < rate < 100


# The pocket, and this machine


def test_the_pocket_fits_on_a_computer_without_a_gpu():
    config = json.loads((POCKET / "transformer" / "config.json").read_text())
    machine = Machine(0, 0, 8 * GB, 20 * GB)
    latents = LatentShape.of(96, 64, 25, channels=config["out_channels"])
    run = TrainingRun(
        config, latents, 32, 500, dtype="float32", checkpointing="none", batch_size=12, text_tokens=24, picture_tokens=0
    )
    plan = training_plan(run, machine, tflops=0.05)
    assert plan.fits, plan.problems
    assert plan.size.lora_modules == 10 * config["num_layers"]
    assert plan.num_tokens == 12 * 7 * 8 * 12
    assert [found.title for found in plan.groups] == ["Memory", "Disk"]
    two = training_plan(replace(run, num_ranks=2, bank=BankSettings(capacity=50)), machine)
    memory, both = group(plan, "Memory"), group(two, "Memory of 2 ranks")
    assert both["activations at the peak of a step"] == 2 * memory["activations at the peak of a step"]


def test_the_table_says_every_figure_of_the_plan():
    plan = training_plan(RUN, ONE_GPU)
    table = plan.table()
    assert table.startswith(
        "Trains 613,416,960 parameters: a LoRA of rank 128 on 400 layers (800 tensors) of a model of "
    )
    for found in plan.groups:
        assert found.title in table
        assert all(item.name in table for item in found.items)
    assert table.endswith("It fits.")
    assert "Problem: Each GPU, training" in training_plan(replace(RUN, checkpointing="none"), ONE_GPU).table()


def test_a_plan_travels_between_processes():
    plan = training_plan(RUN, ONE_GPU)
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_this_machine_is_described_by_what_is_free(tmp_path):
    machine = Machine.here(tmp_path / "not" / "there" / "yet")
    assert machine.num_gpus == torch.cuda.device_count()
    assert machine.host_ram_bytes > 0
    assert machine.disk_free_bytes > 0


@pytest.mark.parametrize(("limit", "expected"), [("5000000", 3_500_000), ("max", None)])
def test_a_containers_limit_counts_and_its_file_cache_does_not(tmp_path, limit, expected):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 1500000\ninactive_file 500000\n")
    free = free_memory(tmp_path)
    assert free == expected if expected else free > 10_000_000
    assert free_memory(tmp_path / "none") > 10_000_000
