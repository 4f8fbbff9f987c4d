"""What the page says of model and machine: figures and their basis, missing weights, no GPU, random weights."""

import json
import time

import pytest

from engine.config import Config, load_preset
from engine.tiers import GB, Machine
from studio import machine, open_studio
from studio.feed import Paces
from studio.routes import PREFIX
from studio.worker import machine_of
from tests.conftest import PRESET
from tests.studio.backends import noise
from tests.studio.conftest import client_of, upload

H200 = Machine("NVIDIA H200", "cuda", 120 * GB, 148 * GB, 150 * GB, (9, 0))
SMALL_CARD = Machine("Some GPU", "cuda", 80 * GB, 11 * GB, 12 * GB, (8, 6))
LAPTOP = Machine("this CPU", "cpu", 16 * GB, notes=("There is an NVIDIA GPU, and this build of torch cannot use it.",))
WAN = """\
title: Small Wan
family: wan
model: model
num_frames: 9
fps: 8
resolutions: [[64, 48]]
num_inference_steps: 2
"""


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """A models folder that is not there."""
    monkeypatch.setenv("SVI_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def paces(tmp_path):
    return Paces(tmp_path / "timings.json")


@pytest.fixture
def pro():
    return load_preset("svi-2-pro")


def rows(panel, size="sd") -> dict[str, str]:
    return dict(panel["sizes"][size]["rows"])


def test_before_the_worker_has_looked_nothing_is_said_of_the_machine(pro, paces):
    panel = machine.panel(pro, None, paces)
    assert not panel["known"] and panel["without_gpu"] is None
    assert rows(panel) == {"Model": pro.title, "Runs on": "looking at this machine…"}


def test_on_a_gpu_each_size_has_its_tier_its_memory_and_its_time(pro, paces):
    panel = machine.panel(pro, H200, paces)
    small, large = rows(panel), rows(panel, "hd")
    assert small["Runs on"] == "NVIDIA H200, 150 GB, compute capability 9.0"
    assert small["Memory tier"] == "resident: the whole model stays on the GPU"
    assert "GB; 148 GB were free" in small["GPU memory"] and "GB; 120 GB were free" in small["Host memory"]
    assert small["GPU memory"] != large["GPU memory"]
    assert small["A clip of 50 steps"].endswith("min, computed from the card’s speed")
    assert small["A draft of 6 steps"] == "not measured yet", "a draft's LoRAs are not computed"
    assert "streamed" in rows(machine.panel(pro, SMALL_CARD, paces))["Memory tier"]
    assert rows(machine.panel(pro, SMALL_CARD, paces))["A clip of 50 steps"] == "not measured yet", "an unknown card"


def test_what_was_measured_here_goes_before_what_was_computed(pro, paces, store):
    project = store.load().model_copy(update={"preset": pro.name, "resolution": pro.offered_resolutions()[0]})
    full = project.model_copy(update={"num_inference_steps": 50})
    paces.add(full, step_s=6.0, finish_s=0.0)
    paces.add(project, step_s=2.0, finish_s=3.0, draft_steps=6)
    shown = rows(machine.panel(pro, H200, paces))
    assert shown["A clip of 50 steps"] == "5–6 min, measured here"
    assert shown["A draft of 6 steps"] == "about 20 s, measured here"


def test_missing_weights_are_named_with_their_size_and_the_command(pro, paces):
    lacking = machine.panel(pro, H200, paces)["missing"]
    assert lacking["text"].startswith(
        "Not here yet: Wan 2.2 image-to-video A14B, two experts; SVI 2.0 Pro for Wan 2.2;"
    )
    assert "GB)." in lacking["text"] and lacking["only_drafts"] == ""
    assert lacking["command"] == "python -m engine weights download --preset svi-2-pro"
    assert "not here yet" in machine.panel(pro, H200, paces)["welcome"]
    assert machine.panel(load_preset("pocket"), None, paces)["missing"] is None


def test_weights_that_only_drafts_need_do_not_stop_anybody(tmp_path, paces):
    lora = "models:lightx2v/Wan2.1-Distill-Loras/wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors"
    (tmp_path / "own.yaml").write_text(PRESET + f"draft: {{loras: [{{lora: '{lora}'}}]}}\n")
    panel = machine.panel(load_preset(str(tmp_path / "own.yaml")), None, paces, preset_file="own.yaml")
    assert "only drafts need it" in panel["missing"]["only_drafts"] and panel["welcome"] == ""
    assert panel["missing"]["command"].endswith("--preset own.yaml")


def test_a_damaged_lock_file_is_said_and_not_raised(pro, paces, models):
    models.mkdir()
    (models / "weights.lock.json").write_text("{")
    lacking = machine.panel(pro, H200, paces)["missing"]
    assert "cannot be read" in lacking["text"] and lacking["command"] == ""
    assert machine.panel(pro, LAPTOP, paces)["without_gpu"]["basis"] == "Computed, not measured."


def test_without_a_gpu_the_tiers_are_listed_smallest_first_and_none_is_of_no_use(pro, paces):
    told = machine.panel(pro, LAPTOP, paces)["without_gpu"]
    gpu = [float(row[0].split()[0]) for row in told["tiers"]]
    host = [float(row[1].split()[0]) for row in told["tiers"]]
    assert gpu == sorted(gpu) and 7 < gpu[0] < 12 < gpu[-1]
    assert host[-1] == min(host), "the more is on the GPU, the less the host holds"
    assert f"from {gpu[0]} GB of GPU memory" in told["text"] and "GB of disk" in told["basis"]
    assert [way["command"] for way in told["ways"]] == [
        "python app.py",
        "python app.py --preset svi-2-pro --random-weights",
    ]
    assert LAPTOP.notes[0] in machine.panel(pro, LAPTOP, paces)["sizes"]["sd"]["problems"]


def test_a_small_model_is_not_told_that_it_needs_a_gpu(tmp_path, paces):
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2}
    (tmp_path / "model" / "transformer").mkdir(parents=True)
    (tmp_path / "model" / "transformer" / "config.json").write_text(json.dumps(sizes))
    (tmp_path / "wan.yaml").write_text(WAN)
    panel = machine.panel(load_preset(str(tmp_path / "wan.yaml")), LAPTOP, paces)
    assert panel["without_gpu"] is None and "Host memory" not in rows(panel)


def test_the_page_is_told_what_the_worker_saw(open_studio, preset):
    studio = open_studio("fast")
    client, deadline = client_of(studio), time.monotonic() + 20
    while not (answer := client.get(f"{PREFIX}/machine").json())["known"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert dict(answer["sizes"]["sd"]["rows"])["Runs on"] == "a CPU for tests"


@pytest.mark.slow
def test_the_engine_looks_at_this_machine():
    seen = machine_of("")()
    assert seen.kind in ("cpu", "cuda", "rocm", "mps") and seen.free_ram > GB / 2


def test_an_operators_own_file_is_named_to_nobody_else(quiet, models):
    preset = load_preset("svi-1")
    quiet.actions.library.default = preset.model_copy(update={"name": "mine"})
    quiet.actions.config = Config(preset="/home/me/mine.yaml")
    assert quiet.actions.machine()["missing"]["command"].endswith("--preset /home/me/mine.yaml")
    quiet.actions.config = Config(preset="/home/me/mine.yaml", public=True)
    assert "/home/me" not in json.dumps(quiet.actions.machine())


def test_weights_that_have_come_unblock_a_film_without_an_edit(quiet, new_film):
    film = new_film(quiet, clips=1)
    weights = quiet.data.parent / "weights"
    weights.rename(weights.with_name("elsewhere"))
    film.do("set_prompt", clip_id=film.state()["clips"][0]["id"], prompt="so that the plan is made anew")
    assert not film.state()["primary"]["enabled"] and "weights folder" in film.state()["primary"]["reason"]
    assert "weights folder" in film.act("generate").json()["message"]
    weights.with_name("elsewhere").rename(weights)
    assert film.state()["primary"]["enabled"]


@pytest.fixture
def random(tmp_path, models):
    """A studio whose preset runs without its weights."""
    (tmp_path / "wan.yaml").write_text(WAN)
    config = Config(data_dir=tmp_path / "data", preset=str(tmp_path / "wan.yaml"), reserve_bytes=0, random_weights=True)
    studio = open_studio(config, backend="tests.studio.backends:noise", examples=tmp_path)
    yield studio
    studio.close()


def test_random_weights_need_no_files_and_promise_nothing(random, paces):
    panel = machine.panel(random.preset, LAPTOP, paces)
    assert panel["missing"] is None and panel["without_gpu"] is None
    assert rows(panel)["Weights"] == "random, as large as this machine holds" and "Memory tier" not in rows(panel)


def test_films_of_random_weights_say_so_in_the_name_of_the_file(random, picture):
    from engine import film

    project = random.actions.create("owner-of-the-tests", upload(random, picture)).project_id
    random.actions.act(project, {"action": "insert", "prompt": "a hill"})
    store = random.actions.library.store(project)
    list(film.render(store, noise(random.preset), random.preset, reserve_bytes=0))
    random.actions.library.changed(project)
    name = film.export_name(random.actions.library.snapshot(project).plan)
    assert name.endswith("-random-weights.mp4") and film.clips_of(name) == 1


def test_the_speed_of_random_weights_is_not_taken_for_the_models(random):
    project = random.actions.library.default.name
    random.queue.paces.loaded(project, 1.0)
    random.queue.paces.save()
    assert (random.data / "timings-random.json").is_file() and not (random.data / "timings.json").exists()
