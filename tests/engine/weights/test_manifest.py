"""The shipped manifest, entry by entry, and what a manifest may not say."""

import re

import pytest

from engine.config import load_preset, preset_names
from engine.errors import ConfigError
from engine.variants import METHODS, trained_for
from engine.weights.checks import PICKLE_SUFFIXES
from engine.weights.manifest import load_manifest, manifest
from engine.weights.needs import needs_of

ENTRIES = manifest().entries
LICENCES = ("Apache-2.0", "MIT", "Qwen Research", "not stated")
ONE = """\
entries:
  - {id: a, title: A, use: tests, repo: o/n, layout: diffusers, licence: MIT, licence_source: "https://x",
     files: [a.json]}
"""


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_an_entry_says_where_it_is_from_what_it_may_be_used_for_and_what_it_is(entry):
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.repo)
    assert entry.licence.startswith(LICENCES) and entry.licence_source.startswith("https://huggingface.co/")
    assert entry.title and entry.use
    assert entry.revision == "main" or entry.is_commit or entry.revision.startswith("refs/pr/")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_a_lora_knows_its_base_and_is_one_of_its_experts(entry):
    if not entry.is_lora:
        return
    assert entry.base is not None
    for row in entry.files:
        known = trained_for(row.path.rpartition("/")[2])
        assert known is None or known[0].base == entry.base, row.path
    assert len(entry.files) == (2 if entry.base == "wan2.2" else 1)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_pickles_are_pinned_and_patterns_name_safe_kinds_only(entry):
    for row in entry.files:
        if row.path.endswith(PICKLE_SUFFIXES):
            assert row.sha256 and not row.is_pattern, row.path
        if row.is_pattern:
            assert row.path.endswith((".json", ".model", ".safetensors")), row.path
            assert row.size is row.sha256 is None


def test_ids_are_unique_and_no_two_entries_share_a_file():
    assert len({entry.id for entry in ENTRIES}) == len(ENTRIES) >= 20
    places = [entry.key(row.path) for entry in ENTRIES for row in entry.files]
    assert len(set(places)) == len(places)


def test_the_same_file_in_two_repositories_has_the_same_pin():
    pins: dict[str, set] = {}
    for entry in ENTRIES:
        for row in entry.files:
            if row.sha256:
                pins.setdefault(row.path.rpartition("/")[2], set()).add((row.sha256, row.size))
    assert len(pins) >= 8 and all(len(found) == 1 for found in pins.values())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_needs_only_files_that_the_manifest_knows(name):
    assert needs_of(load_preset(name)).unknown == ()


def test_every_published_method_has_weights():
    named = {known[0].method for e in ENTRIES for row in e.files if (known := trained_for(row.path.rpartition("/")[2]))}
    published = {row.method for row in METHODS.values() if row.lora_files}
    assert published <= named, published - named


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("files: [a.json]", "files: [../a.json]"), "may not climb"),
        (("files: [a.json]", "files: [/etc/passwd]"), "path"),
        (("files: [a.json]", "files: [a.json, a.json]"), "names a file twice"),
        (("files: [a.json]", "files: []"), "files"),
        (("files: [a.json]", "files: [{path: a.json, sha256: abc}]"), "sha256"),
        (("layout: diffusers", "layout: lora-comfy"), "must name its base"),
        (("layout: diffusers", "layout: zip"), "layout"),
        (("repo: o/n", "repo: o"), "repo"),
        (("title: A", "title: A, titel: B"), "Unknown key"),
        (("entries:\n", "entries:\n  - &a {id: a, title: A, use: t, repo: o/n, layout: onnx, licence: MIT, "
          'licence_source: "https://x", files: [b.onnx]}\n'), "the id a is given twice"),
    ],
)  # fmt: skip
def test_a_manifest_with_a_mistake_is_refused_and_says_which(tmp_path, change, words):
    path = tmp_path / "weights.yaml"
    path.write_text(ONE.replace(*change))
    with pytest.raises(ConfigError, match=words):
        load_manifest(path)
    path.write_text(ONE)
    assert load_manifest(path).entry("a").revision == "main"


def test_an_unknown_id_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean “svi-shot”"):
        manifest().entry("svi-shoot")


def test_a_pattern_stays_in_its_folder():
    row = manifest().entry("wan2.1-i2v-14b-480p").files[-1]
    assert row.path == "transformer/*.safetensors"
    assert row.fits("transformer/diffusion_pytorch_model-00001-of-00014.safetensors")
    for path in ("transformer/old/x.safetensors", "transformer_2/x.safetensors", "x.safetensors", "transformer/x.bin"):
        assert not row.fits(path)
    assert not row.fits("transformer/..\\..\\x.safetensors")
