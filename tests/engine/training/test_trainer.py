import math
import random
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
import yaml

from engine.config import PRESETS, load_preset
from engine.errors import ConfigError, DiskFull, TrainingError
from engine.models import components as families
from engine.models.lora import read_lora
from engine.training import checkpoint as checkpoints
from engine.training import models, trainer
from engine.training.checkpoint import load_checkpoint
from engine.training.recipe import read_recipe
from tests.engine.training.footage import write_video

BATCH = {"grid": [2, 2], "num_frames": 9, "num_pictures": 1, "prompts_per_picture": 2}
SHARED = {
    "warmup_steps": 10,
    "evaluate_every": 1000,
    "evaluate_size": [32, 32],
    "evaluate_clips": 1,
    "world": {"num_scenes": 4, "photo_share": 0.0},
    "phases": [{"steps": 40, "learning_rate": [1.0e-3, 1.0e-4], "buckets": [BATCH]}],
}
NEW = SHARED | {
    "variant": "film",
    "ema": 0.9,
    "pure_noise": 0.5,
    "new_model": {
        "transformer": {"num_heads": 1, "num_layers": 1, "ffn_dim": 32, "text_dim": 16, "text_tokens": 8},
    },
}
LORA = SHARED | {
    "variant": "shot",
    "ema": 0.9,
    "pure_noise": 0.5,
    "recycling": {"clean": 0.2, "image": 0.9, "noise": 0.5, "warmup_steps": 3, "bank": {"capacity": 2}},
}


@pytest.fixture(scope="session")
def preset(untrained_pocket):
    """The preset of the model that a LoRA is trained on, as a recipe names it."""
    return str(untrained_pocket.folder / "pocket.yaml")


@pytest.fixture
def recipe(tmp_path, preset):
    """Writes a recipe whose output is `name`, and returns its path. lora: what to change of one of rank 2."""

    def write(name, base=LORA, lora=None, **changes):
        path = tmp_path / f"{name}.yaml"
        model = {} if base is NEW else {"lora": {"preset": preset, "rank": 2} | (lora or {})}
        path.write_text(yaml.safe_dump(base | model | {"output": str(tmp_path / name)} | changes))
        return path

    return write


def state_of(folder):
    return load_checkpoint(folder / "checkpoint.pt")


def equal(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


@contextmanager
def started(path):
    """A fresh state of the recipe, outside the loop."""
    config = read_recipe(path)
    config.output.mkdir(parents=True, exist_ok=True)
    with trainer._accelerator(config) as accelerator, trainer._journal(config.output, True) as journal:
        records = trainer.start(config, accelerator, journal)
        yield result_of(records), config, accelerator


def result_of(records):
    """What a generator returns."""
    while True:
        try:
            next(records)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("base", [NEW, LORA], ids=["new model", "recycled LoRA"])
def test_an_interrupted_run_goes_on_as_if_it_was_not(recipe, tmp_path, base):
    """Weights, average, optimizer, banks, random states and losses; the stop is at a random step."""
    stop = random.randrange(1, 9)
    whole = list(trainer.train(recipe("whole", base, log_every=1), until=10))
    halves = list(trainer.train(recipe("halves", base, log_every=1), until=stop))
    halves += list(trainer.train(recipe("halves", base, log_every=1), until=10))
    losses = [[r["loss"] for r in records if r["kind"] == "step"] for records in (whole, halves)]
    assert len(losses[0]) == 10
    assert losses[0] == losses[1]
    first, second = state_of(tmp_path / "whole"), state_of(tmp_path / "halves")
    assert first["step"] == 10
    assert equal(first, second), f"stopped after step {stop}"


@pytest.fixture
def one_thread(monkeypatch):
    """Sums come in another order with another number of threads: here and in child processes there is one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)


def test_a_process_killed_while_it_trains_resumes_to_the_same_lora(recipe, tmp_path, one_thread):
    """SIGKILL, without a last checkpoint: what was saved before is gone on from, and the end is the same."""
    list(trainer.train(recipe("whole", checkpoint_every_s=0.001), until=6))
    path = recipe("killed", checkpoint_every_s=0.001, log_every=1)
    command = [sys.executable, "-m", "engine", "train", str(path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for _ in range(3):
        assert '"kind": "step"' in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = state_of(tmp_path / "killed")["step"]
    assert 1 <= done < 40
    list(trainer.train(path, until=6))
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "killed"))


def test_ctrl_c_in_the_middle_of_a_step_finishes_it_and_resumes_exactly(recipe, tmp_path):
    list(trainer.train(recipe("whole"), until=5))
    path, seen = recipe("stopped"), []
    original = trainer._loss

    def pressed(*arguments):
        seen.append(None)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    trainer._loss = pressed
    try:
        with pytest.raises(KeyboardInterrupt):
            list(trainer.train(path))
    finally:
        trainer._loss = original
    assert state_of(tmp_path / "stopped")["step"] == 3
    list(trainer.train(path, until=5))
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "stopped"))


def test_an_error_in_the_middle_of_a_step_leaves_the_last_whole_checkpoint(recipe, tmp_path):
    path = recipe("broken")
    list(trainer.train(path, until=2))
    good = state_of(tmp_path / "broken")
    original = trainer._predict

    def fail(*_):
        raise RuntimeError("out of memory")

    trainer._predict = fail
    try:
        with pytest.raises(RuntimeError):
            list(trainer.train(path))
    finally:
        trainer._predict = original
    assert equal(good, state_of(tmp_path / "broken"))


def test_closing_the_generator_leaves_a_checkpoint(recipe, tmp_path):
    records = trainer.train(recipe("closed", log_every=2))
    next(records)
    records.close()
    assert state_of(tmp_path / "closed")["step"] == 2


def test_training_on_one_batch_lowers_its_loss_and_moves_every_part(recipe):
    phases = [{"steps": 30, "learning_rate": [1.0e-2, 1.0e-2], "buckets": [BATCH]}]
    with started(recipe("learns", NEW, phases=phases, warmup_steps=0)) as (state, config, accelerator):
        modules = state.trained
        before = [parameter.clone() for module in modules.values() for parameter in module.parameters()]
        losses = []
        for _ in range(30):
            state.material.random.seed(1), state.noise.manual_seed(1)
            losses.append(trainer.train_step(state, config, accelerator)["loss"])
        assert losses[-1] < 0.3 * losses[0]
        after = [parameter for module in modules.values() for parameter in module.parameters()]
        assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_lora_trains_alone_and_is_one_the_engine_reads(recipe, tmp_path, preset):
    records = list(trainer.train(recipe("shot", evaluate_every=4), until=4))
    kinds = [record["kind"] for record in records]
    assert kinds.count("gates") == 1 and kinds[-1] == "checkpoint"
    saved = state_of(tmp_path / "shot")
    assert all("lora_" in key for key in saved["modules"]["transformer"])
    transformer = families.load(load_preset(preset)).transformer
    assert len(read_lora(tmp_path / "shot" / "best.safetensors", transformer).modules) == 20


def test_alpha_is_worked_into_the_file(recipe, tmp_path, preset):
    """Readers of diffusers layout take alpha to be the rank: the same run with alpha = 4·rank has 4 times the effect
    for the same factors."""
    for name, alpha in (("plain", 2), ("strong", 8)):
        config = read_recipe(recipe(name, lora={"alpha": alpha}))
        loaded = models.load(config, torch.device("cpu"))
        torch.manual_seed(0)
        for key, parameter in loaded.components.transformer.named_parameters():
            if "lora_" in key:
                parameter.data = 0.1 * torch.randn(parameter.shape)
        models.save_lora(loaded.components.transformer, tmp_path / f"{name}.safetensors", config)
    transformer = families.load(load_preset(preset)).transformer
    plain, strong = (read_lora(tmp_path / f"{name}.safetensors", transformer) for name in ("plain", "strong"))
    module = "blocks.0.attn1.to_q"
    torch.testing.assert_close(strong.modules[module].delta(), 4 * plain.modules[module].delta(), rtol=5e-3, atol=1e-4)


def test_training_can_go_on_from_a_finished_lora(recipe, tmp_path, preset):
    list(trainer.train(recipe("first", evaluate_every=3), until=3))
    start = tmp_path / "first" / "best.safetensors"
    config = read_recipe(recipe("second", lora={"alpha": 1, "start": str(start)}))
    loaded = models.load(config, torch.device("cpu"))
    models.save_lora(loaded.components.transformer, tmp_path / "again.safetensors", config)
    transformer = families.load(load_preset(preset)).transformer
    first, again = read_lora(start, transformer), read_lora(tmp_path / "again.safetensors", transformer)
    for name, module in first.modules.items():
        torch.testing.assert_close(module.delta(), again.modules[name].delta(), rtol=2e-3, atol=1e-6)


def test_without_errors_nothing_is_injected_and_with_them_the_banks_fill(recipe):
    for recycling, expected in ((None, None), (LORA["recycling"], 8)):
        with started(recipe("banks", recycling=recycling)) as (state, config, accelerator):
            for _ in range(4):
                figures = trainer.train_step(state, config, accelerator)
            if expected is None:
                assert state.recycler is None and "bank_fill" not in figures
            else:
                (pair,) = state.recycler.banks.values()
                assert 0 < len(pair.latent_errors) == len(pair.noise_errors) <= expected


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(recipe, tmp_path):
    calm, wild = ({"steps": 3, "learning_rate": [rate, rate], "buckets": [BATCH]} for rate in (1e-3, 1e38))
    path = recipe("burnt", phases=[calm, wild])
    list(trainer.train(path, until=3))
    good = state_of(tmp_path / "burnt")
    with pytest.raises(TrainingError, match=r"not a number at step 5"):
        list(trainer.train(path))
    assert equal(good, state_of(tmp_path / "burnt"))


def test_a_full_disk_keeps_the_last_good_checkpoint(recipe, tmp_path):
    path = recipe("full")
    list(trainer.train(path, until=2))
    good = state_of(tmp_path / "full")
    original = checkpoints._write

    def refuse(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    checkpoints._write = refuse
    try:
        with pytest.raises(DiskFull, match=r"No room.*checkpoint.*last good checkpoint is kept"):
            list(trainer.train(path, until=4))
    finally:
        checkpoints._write = original
    assert equal(good, state_of(tmp_path / "full"))
    assert not list((tmp_path / "full").glob("*.tmp"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"variant": "film"}, "variant shot; the recipe says film"),
        ({"lora": {"rank": 3}}, "rank 2; the recipe says 3"),
        ({"recycling": None}, "recycling True; the recipe says False"),
    ],
    ids=["variant", "rank", "recycling"],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(recipe, changes, named):
    list(trainer.train(recipe("mine"), until=1))
    with pytest.raises(TrainingError, match=named):
        list(trainer.train(recipe("mine", **changes), until=2))


def test_a_checkpoint_of_another_model_size_is_refused(recipe):
    list(trainer.train(recipe("mine", NEW), until=1))
    larger = NEW["new_model"] | {"transformer": NEW["new_model"]["transformer"] | {"ffn_dim": 48}}
    with pytest.raises(TrainingError, match="model"):
        list(trainer.train(recipe("mine", NEW, new_model=larger), until=2))


def test_a_bank_over_its_budget_is_refused_before_the_first_step(recipe):
    tight = LORA["recycling"] | {"bank": {"capacity": 500, "budget_gb": 0.001}}
    with pytest.raises(TrainingError, match=r"GB when full and 0\.0 GB are allowed"):
        list(trainer.train(recipe("tight", recycling=tight), until=1))


def test_gradients_accumulate_over_batches(recipe):
    with started(recipe("sum", gradient_accumulation=2)) as (state, config, accelerator):
        figures = trainer.train_step(state, config, accelerator)
        assert figures["clips"] == 4
        assert state.step == 1


def test_a_change_on_the_command_line_reaches_the_recipe(recipe):
    path = recipe("changed")
    config = read_recipe(path, ["recycling.image=0.0", "seed=7", "lora.rank=4", "publish_to=null"])
    assert (config.recycling.image, config.seed, config.lora.rank) == (0.0, 7, 4)
    assert read_recipe(path, ["recycling=null"]).recycling is None
    with pytest.raises(ConfigError, match="key=value"):
        read_recipe(path, ["recycling"])
    with pytest.raises(ConfigError, match=r"recycling\.picture"):
        read_recipe(path, ["recycling.picture=1"])
    with pytest.raises(ConfigError, match=r"recycling\.bank\.capasity.*Did you mean “capacity”"):
        read_recipe(path, ["recycling.bank.capasity=1"])


@pytest.mark.parametrize(
    ("base", "changes", "sentence"),
    [
        (LORA, {"learning_speed": 1}, "learning_speed"),
        (LORA, {"new_model": {}}, "either new_model or lora"),
        (LORA, {"world": None}, "either world or videos"),
        (NEW, {"recycling": {}}, "without errors"),
        (LORA, {"phases": [{"steps": 1, "learning_rate": [1e-4, 1e-4]}]}, "needs buckets"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(recipe, base, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_recipe(recipe("wrong", base, **changes))


def test_a_missing_recipe_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no file absent\.yaml"):
        read_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize("path", sorted(PRESETS.glob("train-*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path):
    config = read_recipe(path)
    assert config.learning_rate(config.num_steps - 1) <= config.learning_rate(config.num_steps // 2)


def test_half_of_the_noise_levels_are_pure_noise(recipe):
    config = read_recipe(recipe("sigma"))
    sigma = trainer.draw_sigma(4000, config, torch.Generator().manual_seed(0))
    assert (sigma == 1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert sigma.min() > 0


def test_the_journal_has_lines_and_a_board(recipe, tmp_path):
    list(trainer.train(recipe("told", log_every=1), until=2))
    lines = [yaml.safe_load(line) for line in (tmp_path / "told" / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["step", "step", "checkpoint"]
    assert all(math.isfinite(line["loss"]) for line in lines[:2])
    assert list((tmp_path / "told" / "board").iterdir())


def test_a_sample_film_is_made_with_the_lora_under_training(recipe, tmp_path):
    path = recipe("sampled", evaluate_every=2, samples={"every": 2, "clips": 2, "num_inference_steps": 1})
    records = list(trainer.train(path, until=2))
    (sample,) = [record for record in records if record["kind"] == "sample"]
    from PIL import Image

    with Image.open(sample["file"]) as sheet:
        assert sheet.size == (3 * 32, 32)


def test_a_folder_of_videos_is_encoded_once_and_trained_on(recipe, tmp_path):
    """The path of a user's own LoRA, through files, cache, sample film and resumption."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(2):
        write_video(folder / f"{index}.mp4", 30, fps=12, size=(48, 32))
    (folder / "captions.csv").write_text("filename,caption\n0.mp4,Night falls\n1.mp4,Fog rolls in\n")
    videos = {"folder": str(folder), "size": [32, 48], "num_frames": 25, "fps": 12, "batch_size": 2}
    path = recipe(
        "mine",
        world=None,
        variant="film",
        videos=videos,
        phases=[{"steps": 2, "learning_rate": [1e-3, 1e-3]}],
        evaluate_every=2,
        samples={"every": 2, "clips": 1, "num_inference_steps": 1},
    )
    first = list(trainer.train(path, until=1))
    latents = [record for record in first if record["kind"] == "latents"]
    assert (latents[-1]["done"], latents[-1]["of"], latents[0]["noted"]) == (2, 2, [])
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "mine" / "latents").glob("*.safetensors")}
    second = list(trainer.train(path))
    assert [r["kind"] for r in second if r["kind"] != "step"] == ["latents", "sample", "best", "checkpoint"]
    assert files == {file: file.stat().st_mtime_ns for file in files}
    assert (tmp_path / "mine" / "lora.safetensors").is_file()
