import json
import pickle

import pytest
from pydantic import SecretStr

import app
from engine.config import ROOT, Config, load_preset
from engine.errors import ConfigError, StudioError, WeightsMissing
from engine.story.choose import WORKING_BYTES, choose, depends_on_machine, needed, offered, open_drafter, weights_bytes
from engine.story.model_drafter import ModelDrafter
from engine.story.template import TemplateDrafter
from engine.story.vocabulary import vocabulary_of
from engine.tiers import GB, GIB, Machine
from studio import open_studio

SEVEN, THREE = "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"
SIZES = {SEVEN: 16 * GB, THREE: 7 * GB}
URL = "http://127.0.0.1:8000/v1"


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """An empty models folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("SVI_MODELS_DIR", str(folder))
    return folder


@pytest.fixture
def pocket():
    return load_preset("pocket")


@pytest.fixture
def free(preset):
    """A preset whose model follows any text."""
    return preset


def put(folder, size=1 * GB, *, shards=2, without=(), config=None):
    """A model's files, empty but of their full sizes."""
    folder.mkdir(parents=True)
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "qwen2_5_vl"}))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {f"layer.{name}": name for name in names}})
    )
    for name in names:
        with (folder / name).open("wb") as stream:
            stream.truncate(size // shards)  # sparse: takes no room
    for name in without:
        (folder / name).unlink()
    return folder


def gpu(vram, ram=64 * GB):
    return Machine("a card", "cuda", free_ram=ram, free_vram=vram, total_vram=vram, compute_capability=(8, 9))


def cpu(ram):
    return Machine("this CPU", "cpu", free_ram=ram)


# ---- nothing is configured


def test_templates_write_where_there_is_no_model(free):
    choice = choose(Config(), free, cpu(8 * GB))
    assert choice.source == "template" and "templates need none" in choice.why


def test_a_machine_that_was_not_looked_at_gets_templates_which_say_so(free, models):
    put(models / THREE, SIZES[THREE])
    choice = choose(Config(), free, None)
    assert choice.source == "template" and "not been looked at yet" in choice.why


@pytest.mark.parametrize(
    ("machine", "title", "precision", "device"),
    [
        (gpu(80 * GB), "Qwen2.5-VL 7B", "bfloat16", "cuda"),
        (gpu(needed(16 * GB, "bfloat16")), "Qwen2.5-VL 7B", "bfloat16", "cuda"),
        (gpu(needed(16 * GB, "bfloat16") - 1, ram=1 * GB), "Qwen2.5-VL 3B", "bfloat16", "cuda"),
        (
            gpu(4 * GB, ram=16 * GB),
            "Qwen2.5-VL 3B",
            "float32" if 14 * GB + WORKING_BYTES <= 16 * GB else "bfloat16",
            "cpu",
        ),
        (cpu(200 * GB), "Qwen2.5-VL 7B", "float32", "cpu"),
        (cpu(needed(7 * GB, "float32")), "Qwen2.5-VL 3B", "float32", "cpu"),
        (cpu(needed(7 * GB, "bfloat16")), "Qwen2.5-VL 3B", "bfloat16", "cpu"),
    ],
)
def test_the_best_model_that_fits_writes(free, models, machine, title, precision, device):
    for repo, size in SIZES.items():
        put(models / repo, size)
    choice = choose(Config(), free, machine)
    assert (choice.source, choice.title) == ("qwen", title)
    assert (choice.qwen.precision, choice.qwen.device) == (precision, device)
    assert choice.qwen.folder.is_relative_to(models) and title in choice.why
    assert pickle.loads(pickle.dumps(choice)) == choice


def test_a_model_without_room_is_named_with_what_it_needs(free, models):
    put(models / THREE, SIZES[THREE])
    choice = choose(Config(), free, cpu(4 * GB))
    assert choice.source == "template"
    assert choice.why.startswith("Qwen2.5-VL 3B needs about 9.1 GB; 4.0 GB of memory are free.")


@pytest.mark.parametrize("absent", ["config.json", "model-00002-of-00002.safetensors"])
def test_a_model_that_is_not_all_there_does_not_count(free, models, absent):
    put(models / THREE, SIZES[THREE], without=[absent])
    assert choose(Config(), free, gpu(80 * GB)).source == "template"


@pytest.mark.parametrize(
    "text", ["", "[", "[]", '{"weight_map": 3}', '{"weight_map": {"a": null}}', '{"weight_map": {"a": "../x"}}']
)
def test_a_damaged_index_is_no_model(models, text):
    folder = put(models / THREE, SIZES[THREE])
    (folder / "model.safetensors.index.json").write_text(text)
    assert weights_bytes(folder) is None


def test_the_embedded_model_gets_templates_even_where_a_model_would_fit(pocket, models):
    put(models / SEVEN, SIZES[SEVEN])
    choice = choose(Config(), pocket, gpu(80 * GB))
    count = len(vocabulary_of(pocket).actions)
    assert choice.source == "template" and choice.why.startswith(f"The embedded model knows {count} moves; templates")
    assert [other.source for other in offered(Config(), pocket, gpu(80 * GB))] == ["template", "qwen"]


def test_the_model_that_would_fit_is_named_with_its_command(free):
    card, computer = choose(Config(), free, gpu(80 * GB)), choose(Config(), free, cpu(64 * GB))
    assert card.hint.endswith("python -m engine weights download qwen2.5-vl-7b")
    assert computer.hint.endswith("python -m engine weights download qwen2.5-vl-3b")
    assert choose(Config(), free, cpu(6 * GB)).hint == ""


def test_only_where_a_model_may_be_loaded_the_machine_matters(free, pocket, models):
    assert not depends_on_machine(Config(), free)
    put(models / THREE, SIZES[THREE])
    assert depends_on_machine(Config(), free)
    assert not depends_on_machine(Config(), pocket)
    assert not depends_on_machine(Config(drafter="template"), free)
    assert depends_on_machine(Config(drafter="qwen"), pocket)


# ---- something is configured


def test_what_is_configured_comes_before_what_fits(free, pocket, models):
    put(models / THREE, SIZES[THREE])
    endpoint = {"endpoint_url": URL, "endpoint_model": "m"}
    for preset in (free, pocket):
        assert choose(Config(drafter="template"), preset, gpu(80 * GB)).source == "template"
        assert choose(Config(drafter="qwen"), preset, gpu(80 * GB)).source == "qwen"
        assert choose(Config(drafter_model=THREE), preset, gpu(80 * GB)).source == "qwen"
        assert choose(Config(**endpoint), preset, gpu(80 * GB)).source == "endpoint"
        assert choose(Config(**endpoint, drafter_model=THREE), preset, gpu(80 * GB)).source == "endpoint"
        assert choose(Config(**endpoint, drafter="qwen"), preset, gpu(80 * GB)).source == "qwen"


def test_every_drafter_that_can_be_used_is_offered_once_the_chosen_one_first(free, models):
    put(models / THREE, SIZES[THREE])
    endpoint = {"endpoint_url": URL, "endpoint_model": "m"}
    for drafter in ("auto", "template", "qwen", "endpoint"):
        choices = offered(Config(drafter=drafter, **endpoint), free, gpu(80 * GB))
        assert sorted(choice.source for choice in choices) == ["endpoint", "qwen", "template"]
        assert choices[0].source == ("endpoint" if drafter == "auto" else drafter)
        assert all(choice.why.endswith(".") for choice in choices)
    assert [choice.source for choice in offered(Config(), free, None)] == ["template"]


def test_a_configured_model_without_room_stays_chosen_and_says_what_it_lacks(free, models):
    put(models / SEVEN, SIZES[SEVEN])
    choice = choose(Config(drafter="qwen"), free, cpu(8 * GB))
    assert choice.source == "qwen" and "needs about 18.1 GB; 8.0 GB of memory are free" in choice.hint


def test_a_configured_model_is_chosen_before_the_machine_was_looked_at(free, models):
    folder = put(models / THREE, SIZES[THREE])
    choice = choose(Config(drafter="qwen", drafter_precision="4-bit"), free, None)
    assert (choice.qwen.folder, choice.qwen.precision, choice.qwen.device) == (folder, "4-bit", "auto")


def test_a_model_can_be_any_folder(free, tmp_path):
    folder = put(tmp_path / "My-VL", 2 * GB, shards=1)
    choice = choose(Config(drafter_model=str(folder)), free, gpu(80 * GB))
    assert choice.qwen.folder == folder and choice.title == "My-VL"


def test_a_quantised_folder_needs_no_more_than_its_files(free, models):
    put(models / f"{SEVEN}-AWQ", 7 * GB, config={"model_type": "qwen2_5_vl", "quantization_config": {}})
    config = Config(drafter_model=f"{SEVEN}-AWQ", drafter_precision="float32")
    assert choose(config, free, gpu(7 * GB + 2 * GIB)).hint == ""
    assert "needs about 9.1 GB" in choose(config, free, gpu(7 * GB + 2 * GIB - 1)).hint


def test_a_model_that_is_absent_is_named_with_its_command(free):
    for settings in ({"drafter": "qwen"}, {"drafter_model": THREE}):
        with pytest.raises(WeightsMissing, match=r"python -m engine weights download qwen2\.5-vl-3b"):
            choose(Config(**settings), free, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"drafter": "endpoint"},
        {"endpoint_url": URL},
        {"endpoint_url": URL, "endpoint_model": "two words"},
        {"endpoint_url": "http://example.org/v1", "endpoint_model": "m"},
        {"endpoint_url": "http://example.org/v1", "endpoint_model": "m", "endpoint_hosts": "example.com"},
        {"endpoint_url": URL, "endpoint_model": "m", "endpoint_hosts": "*"},
        {"endpoint_url": URL, "endpoint_model": "m", "endpoint_key": SecretStr("zebra 4711")},
        {"drafter_model": "nobody/nothing"},
        {"drafter_model": "../../etc"},
        {"drafter_model": "Qwen/../../etc"},
        {"drafter_model": "/etc"},
        {"drafter_model": "\x00"},
        {"drafter_model": "~nosuchuser/x"},
        {"drafter": "qwen"},
    ],
)
@pytest.mark.parametrize("machine", [None, gpu(80 * GB)], ids=["not looked at", "a card"])
def test_what_cannot_be_used_is_said_at_the_start_in_two_sentences(pocket, settings, machine):
    with pytest.raises((ConfigError, WeightsMissing)) as err:
        choose(Config(**settings), pocket, machine)
    assert err.value.hint and "zebra" not in str(err.value)


def test_every_setting_of_the_drafters_stands_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [name for name in Config.model_fields if name.startswith(("drafter", "endpoint_"))]
    assert len(names) == 7
    for name in names:
        assert f"`SVI_{name.upper()}`" in readme


def test_flags_of_the_studio_set_who_writes_and_never_the_key():
    flags = ["--drafter", "endpoint", "--endpoint-url", URL, "--endpoint-model", "m"]
    config = app.configuration(app.arguments(flags))
    assert (config.drafter, config.endpoint_url, config.endpoint_model) == ("endpoint", URL, "m")
    with pytest.raises(SystemExit) as err:
        app.arguments(["--endpoint-key", "zebra"])
    assert err.value.code == 2


def test_the_studio_does_not_start_with_an_endpoint_that_is_not_allowed(tmp_path):
    config = Config(data_dir=tmp_path / "data", endpoint_url="https://example.org/v1", endpoint_model="m")
    with pytest.raises(ConfigError, match="not listed"):
        open_studio(config)


# ---- opening


def test_the_drafter_that_was_chosen_is_opened(free):
    config = Config(endpoint_url=URL, endpoint_model="m", drafter="endpoint")
    drafter = open_drafter(choose(config, free, None), config)
    assert isinstance(drafter, ModelDrafter) and (drafter.source, drafter.writer.title) == ("endpoint", "m")
    assert isinstance(open_drafter(choose(Config(), free, None), Config()), TemplateDrafter)


@pytest.mark.slow  # imports the model stack
def test_a_model_that_cannot_be_read_is_an_error_and_never_quietly_templates(free, models):
    put(models / THREE, 1000)
    choice = choose(Config(), free, gpu(80 * GB))
    with pytest.raises(StudioError):
        open_drafter(choice, Config())
