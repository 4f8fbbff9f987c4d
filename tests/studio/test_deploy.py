import pytest
import yaml

from engine.config import ROOT
from engine.errors import ConfigError
from studio import deploy


def test_the_space_of_this_repository_is_valid_and_pins_the_gradio_in_use():
    space = deploy.load()
    pinned = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("gradio=="))
    assert pinned == f"gradio=={space.card.sdk_version}"
    assert (ROOT / space.card.app_file).is_file()
    assert space.presets[space.hardware] == space.variables["SVI_PRESET"]


def test_rendering_keeps_the_text_and_is_stable():
    space = deploy.load()
    once = deploy.rendered("# Title\n\n---\n\nText.\n", space)
    assert once.endswith("# Title\n\n---\n\nText.\n")
    assert deploy.rendered(once, space) == once
    assert yaml.safe_load(once.split("---\n")[1])["sdk"] == "gradio"
    deploy.check(once, space)


def test_a_difference_is_found():
    space = deploy.load()
    readme = deploy.rendered("# Title\n", space).replace("Infinity", "Finity", 1)
    with pytest.raises(ConfigError, match="differ"):
        deploy.check(readme, space)


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="README.md is not written yet")
def test_the_readme_starts_with_the_card():
    deploy.check((ROOT / "README.md").read_text(encoding="utf-8"), deploy.load())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"card": {"sdk_versoin": "6.31.0"}}, "card.sdk_versoin"),
        ({"hardware": "a1000"}, "a100"),
        ({"presets": {"cpu-basic": "poket"}}, "pocket"),
        ({"hardwear": "x"}, "hardware"),
    ],
)
def test_a_misspelt_key_names_the_one_meant(tmp_path, change, word):
    data = yaml.safe_load((ROOT / "spaces.yaml").read_text(encoding="utf-8"))
    for key, value in change.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) and key in data else value
    path = tmp_path / "spaces.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=word):
        deploy.load(path)


def test_the_command_checks_and_renders(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n")
    assert deploy.main(["check", "--readme", str(readme)]) == 1
    assert "studio.deploy render" in capsys.readouterr().err
    assert deploy.main(["render", "--readme", str(readme)]) == 0
    assert deploy.main(["check", "--readme", str(readme)]) == 0
