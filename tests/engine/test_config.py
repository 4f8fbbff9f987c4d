import pytest

from engine.config import PRESETS, Config, load_preset, preset_names
from engine.errors import ConfigError


def test_every_shipped_preset_loads():
    assert "pocket" in preset_names()
    for name in preset_names():
        assert load_preset(name).title


def test_an_unknown_preset_is_named_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"“pockte”.*Did you mean “pocket”"):
        load_preset("pockte")


def write(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: T\nfamily: pocket\nmodel: m\nnum_framse: 9\n", "“num_framse”.*Did you mean “num_frames”"),
        ("title: T\nfamily: pocket\nmodel: m\nnum_frames: 80\n", "4n.1.*81.*80"),
        ("title: T\nfamily: pocket\nmodel: m\nresolutions: [[100, 64]]\n", "100×64"),
        ("title: T\nfamily: pocket\nmodel: m\nvariants: {flim: {}}\n", "film"),
        ("title: [", "line"),
        ("- a\n", "key: value"),
        ("title: T\n", "family"),
    ],
)
def test_a_wrong_preset_file_says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_preset(write(tmp_path, text))


def test_a_preset_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_preset("nowhere.yaml")


def test_the_environment_overrides_defaults_and_flags_override_both(monkeypatch):
    monkeypatch.setenv("SVI_PORT", "8123")
    assert Config.load().port == 8123
    assert Config.load(port=9000).port == 9000
    monkeypatch.setenv("SVI_PORT", "notaport")
    with pytest.raises(ConfigError, match="port"):
        Config.load()


def test_paths_are_relative_to_the_preset():
    assert load_preset("pocket").path("../pocket") == PRESETS.parent / "pocket"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache: first block\n", "lossy: true"),
        ("attention: sage\n", "lossy: true"),
        ("cache: magcache\nlossy: true\n", "Wan 2.1"),
        ("cache: taylor\nlossy: true\ngpus: 2\n", "one GPU"),
        ("tier: streaming\n", "tier"),
    ],
)
def test_a_shortcut_that_makes_other_pictures_is_refused_without_a_word(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_preset(write(tmp_path, "title: T\nfamily: pocket\nmodel: m\n" + text))


def test_only_what_changes_pixels_counts_as_a_shortcut(tmp_path):
    base = "title: T\nfamily: pocket\nmodel: m\n"
    assert load_preset(write(tmp_path, base + "tier: streamed\nlossy: true\n")).shortcuts() == {}
    preset = load_preset(write(tmp_path, base + "cache: taylor\nlossy: true\ncfg: batched\ntier: tiled\n"))
    assert preset.shortcuts() == {"cache": "taylor", "cfg": "batched", "tier": "tiled"}
