"""The README is compared with the code."""

import re
from pathlib import Path

import pytest

from engine import cli
from engine.config import Preset
from engine.training.recipe import read_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.split(f"## {title}", 1)[1].split("\n## ", 1)[0]


def test_the_readme_opens_with_two_complete_commands():
    body = README.split("---\n", 2)[-1]
    commands = [line.strip() for line in body.splitlines() if line.startswith("    python3 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("python app.py") and commands[1].endswith("python -m pytest")


def test_every_module_stands_in_the_tree_and_every_name_in_the_tree_exists():
    tree = section("What stands where")
    files = [p for top in ("engine", "studio") for p in (ROOT / top).rglob("*") if p.suffix in (".py", ".js", ".css")]
    assert len(files) > 50
    missing = [p.relative_to(ROOT).as_posix() for p in files if p.name != "__init__.py" and p.name not in tree]
    assert not missing, f"not in the README's tree: {missing}"
    names = set(re.findall(r"[\w]+\.(?:py|js|css)\b", tree)) - {"app.py"}
    unknown = names - {p.name for p in files}
    assert not unknown, f"in the README's tree but not in the code: {unknown}"


def test_every_command_is_shown():
    shown = set(re.findall(r"python -m engine ([\w-]+)", README))
    commands = set(cli.parser()._subparsers._group_actions[0].choices)
    assert shown == commands


def test_the_preset_in_the_readme_is_valid(tmp_path):
    text = re.search(r"```yaml\n(.*?)```", section("Presets"), re.S).group(1)
    (tmp_path / "p.yaml").write_text(text)
    from engine.config import load_preset

    assert load_preset(str(tmp_path / "p.yaml")).family == "wan"


@pytest.mark.parametrize("recipe", sorted((ROOT / "assets" / "presets").glob("train-*.yaml")), ids=lambda p: p.stem)
def test_every_training_recipe_is_valid(recipe):
    assert read_recipe(recipe)


def test_files_and_pictures_that_the_readme_names_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_key_or_private_path_is_in_the_repository():
    """S24, by the shapes that keys have."""
    pattern = re.compile(r"(hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9]{32,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY)")
    suffixes = {".py", ".js", ".css", ".md", ".yaml", ".toml", ".json", ".txt", ""}
    skipped = {".git", ".venv", "projects", "runs", "__pycache__"}
    seen = 0
    for path in ROOT.rglob("*"):
        if path.is_file() and path.suffix in suffixes and not skipped & set(path.relative_to(ROOT).parts):
            seen += 1
            found = pattern.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert not found or path == Path(__file__), f"{path.name} holds something like a key"
    assert seen > 80


def test_preset_keys_have_meaning_in_code():
    """Every key a preset may have is read somewhere: no dead setting."""
    code = "".join(p.read_text(encoding="utf-8") for top in ("engine", "studio") for p in (ROOT / top).rglob("*.py"))
    for name in set(Preset.model_fields) - {"folder"}:
        assert re.search(rf"\.{name}\b", code), name
