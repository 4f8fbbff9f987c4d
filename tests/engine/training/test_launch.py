"""The launcher files: what accelerate makes of them, and two processes that they really start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from engine.config import PRESETS, preset_names
from engine.training.footprint import state_items
from engine.training.plan import LAUNCHERS

ROOT = PRESETS.parent.parent
FILES = {path.stem.removeprefix("accelerate-"): path for path in sorted(PRESETS.glob("accelerate-*.yaml"))}

REDUCE = """
import sys
import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)  # as the trainer says where there is no GPU
value = torch.tensor([accelerator.process_index + 1.0, 10.0])
total = accelerator.reduce(value, reduction="sum")
everyone = accelerator.gather(value[:1])
with open(f"{sys.argv[1]}/{accelerator.process_index}", "w") as file:
    file.write(f"{accelerator.num_processes} {accelerator.state.backend} {total.tolist()} {everyone.tolist()}")
accelerator.end_training()
"""
SHARDED = """
import json
import sys
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from engine.models.untrained import WanSize, build
from peft import LoraConfig
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from engine.models.lora import MODULES_PER_BLOCK

accelerator = Accelerator(cpu=True)
model = build(WanSize()).transformer
model.to(torch.bfloat16)
model.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=list(MODULES_PER_BLOCK)))
for parameter in model.parameters():
    if parameter.requires_grad:
        parameter.data = parameter.data.float()
plugin = FullyShardedDataParallelPlugin()  # read from the environment that the launcher file makes
plugin.set_mixed_precision("bf16")
stand_in = SimpleNamespace(  # accelerate shards on accelerators only; this is all that its function asks of itself
    state=SimpleNamespace(fsdp_plugin=plugin),
    mixed_precision="bf16",
    is_main_process=accelerator.is_main_process,
    torch_device_mesh=None,
    device=torch.device("cpu"),
)
sharded = fsdp2_prepare_model(stand_in, model)
generator = torch.Generator().manual_seed(0)
inputs = {
    "hidden_states": torch.randn(1, 36, 2, 4, 4, generator=generator),
    "encoder_hidden_states": torch.randn(1, 512, 32, generator=generator),
    "encoder_hidden_states_image": torch.randn(1, 17, 4, generator=generator),
}
inputs = {name: value.bfloat16() for name, value in inputs.items()}
optimizer = torch.optim.AdamW([p for p in sharded.parameters() if p.requires_grad], lr=1e-2)
losses = []
for _ in range(5):
    loss = sharded(timestep=torch.tensor([500.0]), return_dict=False, **inputs)[0].float().square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
held = {True: 0, False: 0}
for parameter in sharded.parameters():
    assert isinstance(parameter, DTensor)
    held[parameter.requires_grad] += parameter.to_local().numel() * parameter.element_size()
moments = sum(
    value.to_local().numel() * 4 for state in optimizer.state.values() for value in state.values() if value.ndim
)
blocks = [name for name, module in sharded.named_modules() if isinstance(module, FSDPModule) and "blocks" in name]
figures = {"losses": losses, "trained": held[True], "frozen": held[False], "moments": moments, "blocks": blocks}
with open(f"{sys.argv[1]}/{accelerator.process_index}", "w") as file:
    json.dump(figures, file)
accelerator.end_training()
"""


def environment_of(path: Path) -> dict[str, str]:
    """What `accelerate launch --config_file path` tells the processes it starts."""
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "train.py"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return prepare_deepspeed_cmd_env(arguments)[1]
    if arguments.use_fsdp or arguments.multi_gpu:
        return prepare_multi_gpu_env(arguments)
    return prepare_simple_launcher_cmd_env(arguments)[1]


def applied(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    for name, value in environment_of(path).items():
        if name.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(name, value)


def launch(script: str, folder: Path, *, timeout_s: float, **environment: str) -> dict[int, str]:
    """What each of the two processes of accelerate-gloo.yaml wrote when running `script`."""
    (folder / "script.py").write_text(script)
    (folder / "out").mkdir()
    module = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
    ]  # `accelerate` imports torchvision, which may be broken
    arguments = ["--config_file", str(FILES["gloo"]), str(folder / "script.py"), str(folder / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        [*module, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {int(path.name): path.read_text() for path in (folder / "out").iterdir()}


def test_the_launcher_files_are_no_presets():
    assert set(FILES) == {"single", "multi-gpu", "zero2", "fsdp", "gloo"}
    assert not [name for name in preset_names() if name.startswith("accelerate")]
    assert {path.name for path in FILES.values()} >= set(LAUNCHERS.values())


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_accelerate_accepts_the_file_and_every_value_is_explained(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.num_processes == {"single": 1, "gloo": 2}.get(path.stem.removeprefix("accelerate-"), 8)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    for key in ("num_processes", "mixed_precision", *config.deepspeed_config, *config.fsdp_config):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        assert "  # " in line, f"{key} has no reason"
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_the_launcher_starts_what_the_file_says(path):
    environment = environment_of(path)
    expected = "no" if path.stem in ("accelerate-single", "accelerate-gloo") else "bf16"
    assert environment["ACCELERATE_MIXED_PRECISION"] == expected
    assert (environment.get("ACCELERATE_USE_DEEPSPEED") == "true") == (path.stem == "accelerate-zero2")
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") == (path.stem == "accelerate-fsdp")


def test_zero2_is_upstreams_stage_with_its_gradient_clip_and_no_offload(monkeypatch):
    applied(monkeypatch, FILES["zero2"])
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision(os.environ["ACCELERATE_MIXED_PRECISION"])
    config = plugin.deepspeed_config
    assert config["zero_optimization"]["stage"] == 2
    assert config["gradient_clipping"] == 1.0
    assert config["gradient_accumulation_steps"] == 1
    assert config["bf16"]["enabled"] and not config["fp16"]["enabled"]
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "none"
    assert config["zero_optimization"]["offload_param"]["device"] == "none"
    assert not plugin.zero3_init_flag


def test_deepspeed_itself_takes_the_zero2_settings(monkeypatch):
    runtime = pytest.importorskip("deepspeed.runtime.config")
    applied(monkeypatch, FILES["zero2"])
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision("bf16")
    settings = plugin.deepspeed_config | {"train_batch_size": 1, "train_micro_batch_size_per_gpu": 1}
    config = runtime.DeepSpeedConfig(json.loads(json.dumps(settings | {"steps_per_print": 1000})))
    assert config.zero_optimization_stage == 2
    assert config.gradient_clipping == 1.0
    assert config.zero_config.reduce_bucket_size * 2 == next(
        item.num_bytes for item in state_items(_lora_14b(), "zero2", 8, "bfloat16") if "bucket" in item.name
    )


def test_deepspeed_estimates_the_same_memory_for_the_trained_values():
    stage = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    size = _lora_14b()
    for ranks in (1, 8, 64):
        _, expected = stage.estimate_zero2_model_states_mem_needs(
            size.lora_parameters, num_gpus_per_node=ranks, cpu_offload=False
        )
        items = state_items(size, "zero2", ranks, "bfloat16")
        planned = sum(item.num_bytes for item in items if "base" not in item.name and "bucket" not in item.name)
        assert abs(planned - expected) <= 4


def test_fsdp_shards_in_full_and_wraps_the_blocks_of_diffusers(monkeypatch):
    from engine.models.untrained import WanSize, build

    applied(monkeypatch, FILES["fsdp"])
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert not plugin.activation_checkpointing
    assert not plugin.cpu_ram_efficient_loading
    transformer = build(WanSize()).transformer
    plugin.set_auto_wrap_policy(transformer)
    wrapped = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert wrapped == {type(transformer.blocks[0])}


def test_two_processes_add_up_a_tensor_over_gloo(tmp_path):
    written = launch(REDUCE, tmp_path, timeout_s=300)
    assert written == {rank: "2 gloo [3.0, 20.0] [1.0, 2.0]" for rank in range(2)}


@pytest.mark.slow
def test_fsdp_trains_a_lora_on_halves_of_a_bfloat16_model(tmp_path):
    """Both ranks hold half of what `state_items` counts, up to padding; the frozen base and the LoRA share a block."""
    from engine.models.lora import without_weights
    from engine.models.untrained import WanSize, build
    from engine.training.footprint import measure

    settings = {name: value for name, value in environment_of(FILES["fsdp"]).items() if name.startswith("FSDP_")}
    written = [json.loads(text) for text in launch(SHARDED, tmp_path, timeout_s=300, **settings).values()]
    config = build(WanSize()).transformer.config
    size = measure(config, 4)
    for figures in written:
        assert figures["losses"] == written[0]["losses"]
        assert figures["losses"][-1] < figures["losses"][0]
        assert figures["blocks"] == [f"blocks.{index}" for index in range(size.blocks)]
    for key, whole in {"trained": 4 * size.lora_parameters, "moments": 8 * size.lora_parameters}.items():
        assert sum(figures[key] for figures in written) == whole
    parameters = sum(parameter.numel() for parameter in without_weights(config).parameters())
    assert sum(figures["frozen"] for figures in written) == 2 * parameters
    assert max(figures["frozen"] for figures in written) < 1.3 * parameters


def test_the_file_of_two_processes_is_what_its_comment_says(tmp_path):
    """MULTI_CPU would leave one process, silently: accelerate wants mpirun for it."""
    settings = yaml.safe_load(FILES["gloo"].read_text()) | {"distributed_type": "MULTI_CPU"}
    (tmp_path / "multi-cpu.yaml").write_text(yaml.safe_dump(settings))
    arguments = launch_command_parser().parse_args(["--config_file", str(tmp_path / "multi-cpu.yaml"), "train.py"])
    assert not _validate_launch_command(arguments)[0].multi_gpu
    arguments = launch_command_parser().parse_args(["--config_file", str(FILES["gloo"]), "train.py"])
    assert _validate_launch_command(arguments)[0].multi_gpu


def _lora_14b():
    from engine.models.published import WAN_I2V_14B
    from engine.training.footprint import measure

    return measure(WAN_I2V_14B, 128)
