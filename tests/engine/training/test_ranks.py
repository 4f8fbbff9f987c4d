"""Several processes: what ranks share while the banks warm up, and a whole run over gloo."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
import yaml

from engine.config import PRESETS
from engine.training.checkpoint import load_checkpoint
from engine.training.recipe import Recycling
from engine.training.recycler import Recycler
from engine.training.recycling import Errors, Flags

SHAPE = (3, 4, 2, 2)
STEPS = 4  # the last one is after the warm-up
SETTINGS = Recycling(warmup_steps=3, clean=0.0, bank={"capacity": 3, "num_grids": 4, "storage": "float32"})

WORKER = """
    import sys, torch
    from accelerate import Accelerator
    from tests.engine.training.test_ranks import STEPS, fed
    accelerator = Accelerator(cpu=True)
    for steps in (STEPS - 1, STEPS):
        banks = fed([accelerator.process_index], accelerator.gather, steps)
        torch.save(banks, f"{sys.argv[1]}/banks-{steps}-{accelerator.process_index}.pt")
    accelerator.end_training()
"""


def errors_of(rank, step):
    generator = torch.Generator().manual_seed(100 * rank + step)
    errors = [torch.randn(2, *SHAPE, generator=generator) for _ in range(2)]
    return Errors(*errors), torch.rand(2, generator=generator).view(-1, 1, 1, 1, 1)


def fed(ranks, gather, steps=STEPS):
    """State of banks that were fed what each of `ranks` found, one rank after another in every step."""
    recycler = Recycler(SETTINGS, shift=5.0, seed=0)
    for step in range(steps):
        found = [errors_of(rank, step) for rank in ranks]
        errors = Errors(torch.cat([e.latents for e, _ in found]), torch.cat([e.noise for e, _ in found]))
        sigma = torch.cat([s for _, s in found])
        clean = torch.zeros(len(sigma), dtype=torch.bool)
        recycler.keep(errors, sigma, Flags(clean, clean, clean, clean), step, gather)
    return recycler.state_dict()["banks"][0]


def same(left, right):
    return all(
        torch.equal(one["counts"], other["counts"])
        and all(torch.equal(one["rows"][key], other["rows"][key]) for key in one["rows"])
        for one, other in zip(left, right, strict=True)
    )


def read(folder, steps, rank):
    return torch.load(folder / f"banks-{steps}-{rank}.pt", weights_only=True)


def launch(*arguments, cwd):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", PRESETS / "accelerate-gloo.yaml"]
    environment = os.environ | {"PYTHONPATH": str(PRESETS.parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, "--main_process_port", str(port), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_one_process_needs_no_gathering():
    assert same(fed([0], lambda tensor: tensor), fed([0], lambda tensor: tensor))
    assert fed([0], lambda tensor: tensor)[0]["shape"] == list(SHAPE)  # not stripped of an axis


@pytest.mark.slow
def test_two_processes_share_their_errors_until_the_warm_up_ends(tmp_path):
    """Then both banks are those of one process that was fed the union; one step later each has its own."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    done = launch(script, tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    shared, own = ([read(tmp_path, steps, rank) for rank in (0, 1)] for steps in (STEPS - 1, STEPS))
    union = fed([0, 1], lambda tensor: tensor, STEPS - 1)
    assert same(shared[0], union) and same(shared[1], union)
    assert not same(own[0], own[1])


def train_together(folder, preset, num_steps=2):
    """Train a LoRA of two processes in `folder`/run, or go on with it; what they printed."""
    recipe = folder / "recipe.yaml"
    bucket = {"grid": [2, 2], "num_frames": 9, "num_pictures": 1, "prompts_per_picture": 2}
    recipe.write_text(
        yaml.safe_dump(
            {
                "output": str(folder / "run"),
                "variant": "film",
                "lora": {"preset": str(preset.folder / "pocket.yaml"), "rank": 2},
                "world": {"num_scenes": 2, "photo_share": 0.0},
                "recycling": {"bank": {"capacity": 2}},
                "log_every": 1,
                "evaluate_every": 100,
                "phases": [{"steps": num_steps, "learning_rate": [1e-3, 1e-3], "buckets": [bucket]}],
                "evaluate_clips": 1,
                "evaluate_size": [32, 32],
            }
        )
    )
    done = launch("-m", "engine", "train", recipe, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_train_one_lora_and_resume(tmp_path, untrained_pocket):
    assert train_together(tmp_path, untrained_pocket).count('"kind": "step"') == 2  # only the main process reports
    first, second = (load_checkpoint(tmp_path / "run" / name) for name in ("checkpoint.pt", "checkpoint-1.pt"))
    for key, value in first["modules"]["transformer"].items():
        assert torch.equal(value, second["modules"]["transformer"][key])  # one LoRA
    assert first["material"] != second["material"]  # from other data
    assert '"kind": "step"' not in train_together(tmp_path, untrained_pocket)
