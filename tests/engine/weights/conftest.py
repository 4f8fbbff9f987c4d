"""A loopback Hub with one small repository, an empty models folder, and well-formed weights files."""

import json
import struct
from collections.abc import Callable

import numpy as np
import pytest

from engine.weights.manifest import Entry
from tests.engine.weights.loopback_hub import LoopbackHub, serving

REPO = "owner/tiny"


def safetensors(names: dict[str, tuple[int, ...]], *, seed: int = 0) -> bytes:
    """A float32 file with these tensors."""
    table, at = {}, 0
    for name, shape in names.items():
        size = 4 * int(np.prod(shape))
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + np.random.default_rng(seed).bytes(at)


@pytest.fixture(scope="session")
def tensors() -> Callable[..., bytes]:
    return safetensors


@pytest.fixture
def hub(monkeypatch):
    """A Hub that serves `owner/tiny`: a model of two shards with its index, a config, and a pickle."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    shards = {f"model-0000{i}-of-00002.safetensors": safetensors({f"w{i}": (300, 100)}, seed=i) for i in (1, 2)}
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(shards, 1)}}
    files = {
        "config.json": b'{"dim": 4}',
        **{f"transformer/{name}": data for name, data in shards.items()},
        "transformer/model.safetensors.index.json": json.dumps(index).encode(),
        "transformer/readme.md": b"not asked for",
        "vae.pth": np.random.default_rng(3).bytes(5_000),
        "lora.safetensors": safetensors({"blocks.0.self_attn.q.lora_A.default.weight": (16, 400)}),
    }
    with serving(LoopbackHub({REPO: files})) as served:
        yield served


@pytest.fixture
def models(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setenv("SVI_MODELS_DIR", str(folder))
    return folder


def make_entry(id_: str, files: list, **more: str) -> Entry:
    fields = {"title": id_, "use": "tests", "layout": "diffusers", "licence": "MIT", "licence_source": "https://x.org"}
    return Entry.model_validate(fields | {"id": id_, "repo": REPO, "files": files} | more)


@pytest.fixture
def model() -> Entry:
    return make_entry("model", ["config.json", "transformer/*.json", "transformer/*.safetensors"])


@pytest.fixture
def lora() -> Entry:
    return make_entry("lora", ["lora.safetensors"], layout="lora-upstream", base="wan2.1")
