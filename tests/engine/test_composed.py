"""Films whose clips are composed: drawn from the picture through all moves since, not from the clip before."""

import numpy as np
import pytest

from engine import film
from engine.backends import open_backend
from engine.config import load_preset
from engine.errors import ConfigError, InputError
from engine.events import TakeCommitted
from engine.media import image
from engine.pocket import motion, reading
from engine.project import takes
from tests.engine.models.tiny import POCKET, write_untrained_pocket

PROMPTS = ("The camera pans left", "Night falls while the camera zooms in", "The sun rises")


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A composed preset of 9-frame clips at 64×48 whose weights are random: every clip moves."""
    text = POCKET.replace("[[32, 32]]", "[[64, 48]]") + "handover: composed\n"
    return write_untrained_pocket(tmp_path_factory.mktemp("composed"), preset=text)


@pytest.fixture(scope="module")
def backend(composed):
    return open_backend(composed, threads=1)


@pytest.fixture
def project(tmp_path, picture, composed):
    return film.create(tmp_path / "film", picture, composed, prompts=PROMPTS, seed=3)


def rendered(store, backend, preset) -> list[str]:
    return [e.digest for e in film.render(store, backend, preset) if isinstance(e, TakeCommitted)]


def states_of(store, digest) -> motion.Motion:
    return motion.from_arrays(takes.tail_states(store.take_folder(digest), 5))


def test_a_take_keeps_the_states_of_its_last_five_frames(project, backend, composed):
    digests = rendered(project, backend, composed)
    assert all(project.takes()[digest].tail_states == 5 for digest in digests)
    first, last = (states_of(project, digest) for digest in (digests[0], digests[-1]))
    assert len(first) == 5
    assert np.abs(last.camera - first.camera).max() > 0


def test_the_stored_states_draw_the_stored_frames_again(project, backend, composed):
    from engine.pocket.framing import Framing
    from engine.pocket.render import Canvas

    digest = rendered(project, backend, composed)[-1]
    loaded = project.load()
    picture = image.load(project.anchor_file(loaded))
    framing = Framing.of(picture.shape[1], picture.shape[0], loaded.resolution)
    again = Canvas.of(picture, framing).draw(states_of(project, digest))
    difference = np.abs(again.astype(int) - takes.tail(project.take_folder(digest), 5))
    assert difference.max() <= 1  # states are stored in single precision


def test_a_film_that_was_closed_goes_on_to_the_bit(tmp_path, picture, composed, backend):
    whole = film.create(tmp_path / "whole", picture, composed, prompts=PROMPTS, seed=3)
    parts = film.create(tmp_path / "parts", picture, composed, prompts=PROMPTS, seed=3)
    made = rendered(whole, backend, composed)
    for event in film.render(parts, backend, composed):
        if isinstance(event, TakeCommitted):
            break
    another = open_backend(composed, threads=1)
    assert [made[0], *rendered(parts, another, composed)] == made
    for digest in made:
        ours, theirs = (store.take_folder(digest) / "segment.mp4" for store in (whole, parts))
        assert ours.read_bytes() == theirs.read_bytes()


def test_the_first_frame_is_cut_from_the_picture_with_room_around(project, composed):
    request = film.next_request(project, composed, film.plan(project, composed))
    assert request.picture.shape[:2] == (72, 96)
    assert request.anchor.shape == (48, 64, 3)
    assert np.array_equal(request.condition_frames[0], request.anchor)
    assert request.is_composed and request.tail_states is None


def test_how_clips_are_handed_over_is_part_of_the_digest(project, composed):
    planned = film.plan(project, composed)
    by_frames = film.plan(project, composed.model_copy(update={"handover": "frames"}))
    assert planned.clips[0].digest != by_frames.clips[0].digest


def test_a_rule_of_reading_that_changes_makes_the_clips_anew_that_it_changes(project, composed, monkeypatch):
    before = [clip.digest for clip in film.plan(project, composed).clips]
    wish_of = reading.wish_of
    monkeypatch.setattr(reading, "wish_of", lambda prompt: wish_of(prompt.replace("Night falls", "Dawn comes")))
    after = [clip.digest for clip in film.plan(project, composed).clips]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False]


def test_damaged_states_cost_their_take_and_nothing_else(project, backend, composed):
    digests = rendered(project, backend, composed)
    states = project.take_folder(digests[1]) / "tail" / takes.STATES
    states.write_bytes(states.read_bytes()[:-7] + b"damaged")
    project.edit(lambda p: p.model_copy(update={"clips": (*p.clips[:2], p.clips[2].model_copy(update={"seed": 77}))}))
    again = rendered(project, backend, composed)
    assert again[0] == digests[1] and len(again) == 2


def test_a_kept_take_of_another_method_is_refused_in_words(project, backend, composed):
    by_frames = composed.model_copy(update={"handover": "frames"})
    rendered(project, backend, by_frames)
    planned = film.plan(project, by_frames)
    with pytest.raises(InputError, match="Clip 1 was made by another method"):
        film.refuse_without_states(planned.clips[0])


def test_only_a_model_that_draws_from_the_picture_can_be_composed(tmp_path, tiny_preset):
    file = tmp_path / "wan.yaml"
    text = (tiny_preset.folder / "tiny.yaml").read_text() + "handover: composed\n"
    file.write_text(text)
    with pytest.raises(ConfigError, match="draws from the picture"):
        load_preset(str(file))
