"""The words of the drift meter."""

from dataclasses import replace

import pytest

from engine import film
from engine.config import VariantPreset
from engine.domain import DriftReading, Take
from studio import meter
from tests.fakes import ScriptedBackend

STEADY = DriftReading(colour_shift=50.0, sharpness=0.9, structure=0.97, grain=0.01, motion=0.005, change=48.0)
STILL = replace(STEADY, motion=0.0, change=0.4)
GRAINY = replace(STEADY, grain=0.08)
WORSE = replace(STEADY, grain=0.2)
LOST = replace(STEADY, structure=0.3)
SOFT = replace(STEADY, sharpness=0.6)


@pytest.fixture
def project(store):
    return store.load()


@pytest.fixture
def wan(preset):
    """The preset as if its family were not the embedded model's."""
    return preset.model_copy(update={"family": "wan", "variants": {"film": VariantPreset(), "shot": VariantPreset()}})


def planned(store, preset, *readings):
    """The film's clips, the first ones with takes that have these readings (None: made before there was a meter)."""
    if not store.takes():
        list(film.render(store, ScriptedBackend(), preset, reserve_bytes=0))
    clips = list(film.plan(store, preset).clips)
    for index in range(len(clips)):
        take: Take | None = clips[index].take if index < len(readings) else None
        shown = take.model_copy(update={"drift": readings[index]}) if take else None
        clips[index] = replace(clips[index], take=shown)
    return clips


@pytest.mark.parametrize(
    ("reading", "label"),
    [
        (STEADY, "Holds"),
        (STILL, "Still"),
        (GRAINY, "Grain rises"),
        (WORSE, "Grainy"),
        (LOST, "Background lost"),
        (SOFT, "Getting soft"),
        (replace(STILL, grain=0.08), "Grain rises"),
    ],
)
def test_a_label_says_in_two_words_what_is_wrong(project, preset, reading, label):
    assert meter.card(project, preset, reading)["label"] == label


def test_a_far_colour_shift_is_a_fact_without_a_hint(project, wan):
    card = meter.card(project, wan, replace(STEADY, colour_shift=90.0))
    assert (card["level"], card["hint"], card["colour_shift"]) == ("steady", "", 90.0)


def test_a_take_that_was_never_measured_has_no_meter(project, preset):
    assert meter.card(project, preset, None) is None


def test_hints_name_what_can_be_done_with_this_project(project, wan, tmp_path):
    assert meter.card(project, wan, SOFT)["hint"] == (
        "The picture is getting soft. Try another seed or Shot, which looks at your picture in every clip."
    )
    lora = VariantPreset(lora="film.safetensors")
    weak = project.model_copy(update={"lora_strength": 0.6})
    with_lora = wan.model_copy(update={"variants": wan.variants | {"film": lora}})
    assert "another seed, a higher LoRA strength or Shot" in meter.card(weak, with_lora, SOFT)["hint"]
    assert "LoRA" not in meter.card(project, with_lora, SOFT)["hint"]  # it is at full strength
    shot = project.model_copy(update={"variant": "shot"})
    assert meter.card(shot, wan, SOFT)["hint"].endswith("Try another seed.")


def test_a_lost_background_may_be_what_was_asked_for(project, wan):
    assert "Unless you asked for a new view, try" in meter.card(project, wan, LOST)["hint"]


def test_the_film_says_where_drift_begins(project, store, preset):
    found = meter.film(project, preset, planned(store, preset, STEADY, GRAINY, WORSE), view_only=False)
    assert found["text"].startswith("2 of 3 clips drift; the first is clip 2: grain or a fine grid is building up.")
    assert found["clip_id"] == project.clips[1].id


def test_a_viewer_is_told_the_fact_without_the_advice(project, store, preset):
    found = meter.film(project, preset, planned(store, preset, GRAINY), view_only=True)
    assert found["text"] == "1 of 1 clip drifts; the first is clip 1: grain or a fine grid is building up."


@pytest.mark.parametrize(
    ("readings", "text"),
    [
        ((), "Measured as each clip is finished."),
        ((None, None), "These clips were made before drift was measured."),
        ((STEADY,), "1 clip holds the picture."),
        ((STEADY, None, STILL), "2 clips hold the picture."),
    ],
)
def test_a_film_without_drift_says_so(project, store, preset, readings, text):
    assert meter.film(project, preset, planned(store, preset, *readings), view_only=False) == {
        "text": text,
        "clip_id": None,
    }
