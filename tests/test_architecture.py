"""Who may import whom, read off the syntax trees (architecture: errors config domain … are the light core)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIGHT = {"errors", "faults", "config", "domain", "events", "timeline", "variants", "environment", "storyboard", "tiers"}
MODEL_STACK = {"torch", "diffusers", "transformers", "peft", "accelerate", "torchvision", "safetensors"}
MAY_IMPORT_TORCH = (
    "engine/diffusion/",
    "engine/models/",
    "engine/pocket/",
    "engine/controls/",
    "engine/training/",
    "engine/evaluation/",
    "engine/backends/local.py",
    "engine/backends/parallel.py",
    "engine/backends/follow.py",
    "engine/backends/ranks.py",
    "engine/story/qwen.py",
    "engine/environment.py",  # inside a function, to mend the installation
    "engine/doctor.py",  # inside a function, to ask for the device
)
# engine package -> engine packages it may import, besides the light core and itself
ALLOWED = {
    "media": {"project"},
    "project": {"media"},
    "story": {"media", "pocket", "weights"},  # what needs no torch; headers of safetensors files
    "backends": {"diffusion", "models", "controls", "media", "weights"},
    "diffusion": {"models", "media"},
    "models": {"diffusion", "pocket", "weights"},  # pocket inside a function
    "pocket": {"diffusion", "media", "models"},
    "controls": {"media"},
    "training": {"diffusion", "models", "media", "pocket", "project", "backends"},  # sample films go through the seam
    "evaluation": {"diffusion", "models", "media", "pocket", "project", "training", "backends", "story"},
    "weights": {"project"},
    "tiers": {"project", "weights"},  # inside functions
    "film": {"backends", "media", "pocket", "project"},
    "remake": {"film", "media", "project"},
    "drafting": {"media", "models", "project", "story"},  # models inside a function, to look at the machine
    "batch": {"backends", "drafting", "film", "media", "project", "story"},
    "doctor": {"backends", "story"},
    "cli": {
        "backends",
        "batch",
        "drafting",
        "film",
        "media",
        "models",
        "project",
        "remake",
        "story",
        "training",
        "evaluation",
        "doctor",
        "weights",
    },
    "__main__": {"cli"},
}
# studio modules from the ground up: each imports only what stands before it
STUDIO = (
    *("words", "moves", "feed", "limits", "tokens", "arguments", "library", "worker", "history", "pictures"),
    *(
        "dial",
        "meter",
        "machine",
        "remakes",
        "view",
        "queue",
        "drafting",
        "lab",
        "storylines",
        "actions",
        "routes",
        "ui",
    ),
    *("deploy", "__init__"),
)
FLOOR = 190


def modules() -> list[Path]:
    return [p for top in ("engine", "studio") for p in sorted((ROOT / top).rglob("*.py"))] + [ROOT / "app.py"]


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names imported by the file; names of `from a import b` count as a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction of a dependency"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_downwards(path):
    name = name_of(path)
    parts = path.relative_to(ROOT).with_suffix("").parts
    for imported in imports(path):
        top, *rest = imported.split(".")
        if parts[0] == "engine":
            assert top not in ("studio", "app", "gradio", "tests"), f"{name} imports {imported}"
            if top == "engine" and rest and parts[1:2] != (rest[0],) and rest[0] not in LIGHT | {"__version__"}:
                assert rest[0] in ALLOWED.get(parts[1], set()), f"{name} imports {imported}"
        if top == "gradio":
            assert name.startswith("studio/ui/") or name in ("studio/__init__.py",), f"{name} imports gradio"
        if top in MODEL_STACK and imported != "safetensors.numpy":  # which knows numpy only
            assert name.startswith(MAY_IMPORT_TORCH), f"{name} imports {imported}"


@pytest.mark.parametrize("path", sorted((ROOT / "studio").rglob("*.py")), ids=name_of)
def test_a_studio_module_imports_only_downwards(path):
    own = path.relative_to(ROOT / "studio").with_suffix("").parts[0]
    allowed = STUDIO[: STUDIO.index(own) + 1]
    for imported in imports(path):
        top, *rest = imported.split(".")
        if top == "studio" and rest[0] != "Studio":  # which the page is built for
            assert rest[0] in allowed, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_the_light_core_needs_only_pydantic_numpy_and_yaml(name):
    allowed = {"pydantic", "numpy", "yaml", "engine"}
    for imported in imports(ROOT / "engine" / f"{name}.py", top_level_only=True):
        top, *rest = imported.split(".")
        standard = top in sys.stdlib_module_names
        assert standard or top in allowed, f"engine/{name}.py imports {imported}"
        if top == "engine" and rest:
            assert rest[0] in LIGHT, f"engine/{name}.py imports {imported}"


@pytest.mark.parametrize("module", ["studio.worker", "engine.cli"])
def test_a_process_starts_without_what_takes_seconds_to_import(module):
    slow = MODEL_STACK - {"safetensors"} | {"scipy", "librosa", "moviepy", "sklearn", "numba", "gradio"}
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not slow & set(done.stdout.split())


def test_the_walk_sees_the_program():
    assert len(modules()) >= FLOOR
