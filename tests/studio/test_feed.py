import numpy as np

from engine.domain import Resolution, new_id
from engine.events import ClipNotice, ClipStarted, ClipStep, TakeCommitted
from engine.project.store import Store
from studio.feed import Feed, Pace, Paces

ONE, TWO = new_id(), new_id()


def test_every_event_and_edit_raises_the_revision_of_its_project_only():
    feed = Feed()
    revs = [feed.bump(ONE), feed.publish(ONE, ClipStarted("c", 0, "d", "p", 1, 1)), feed.announce(ONE, "hello")]
    assert revs == sorted(set(revs))
    assert feed.rev(TWO) < revs[0]


def test_revisions_go_on_growing_after_a_restart():
    before = Feed(start=4)
    for _ in range(1000):
        before.bump(ONE)
    assert Feed(start=5).rev(ONE) > before.rev(ONE)


def test_what_concerns_every_project_raises_every_revision():
    feed = Feed()
    before = feed.bump(ONE), feed.rev(TWO)
    feed.bump_all()
    assert feed.rev(ONE) > before[0] and feed.rev(TWO) > before[1]


def test_events_since_a_revision_come_oldest_first_and_without_pixels():
    feed = Feed()
    first = feed.publish(ONE, ClipStarted("c", 0, "d", "p", 1, 1))
    feed.publish(ONE, ClipStep("c", 0, 1, 2, 0.5, np.zeros((1, 4, 4, 3), np.uint8)), b"webp")
    feed.publish(ONE, TakeCommitted("c", 0, "d", 9, 1.0))
    kinds = [type(event).__name__ for _, event in feed.since(ONE, first)]
    assert kinds == ["ClipStep", "TakeCommitted"]
    assert feed.since(ONE, first)[0][1].preview is None


def test_a_preview_is_served_until_the_next_one():
    feed = Feed()
    feed.publish(ONE, ClipStarted("c", 0, "d", "p", 1, 1))
    feed.publish(ONE, ClipStep("c", 0, 1, 4, 0.5), b"first")
    number = feed.live(ONE).preview
    assert feed.preview(ONE, number) == b"first"
    feed.publish(ONE, ClipStep("c", 0, 2, 4, 0.5))
    assert feed.live(ONE).preview == number, "a step without a preview keeps the last one"
    feed.publish(ONE, ClipStep("c", 0, 3, 4, 0.5), b"second")
    assert feed.preview(ONE, number) is None
    assert feed.preview(TWO, feed.live(ONE).preview) is None


def test_the_generation_changes_only_when_served_segments_change():
    feed = Feed()
    first = feed.generation(ONE, ("a",))
    assert feed.generation(ONE, ("a", "b")) == first, "appending is not a change"
    replaced = feed.generation(ONE, ("a", "c"))
    assert replaced != first
    assert feed.generation(ONE, ("a",)) != replaced, "a segment that goes is a change"


def test_paces_are_medians_of_the_last_five_and_survive_a_restart(tmp_path, store: Store):
    project = store.load()
    paces = Paces(tmp_path / "timings.json")
    for seconds in (9.0, 1.0, 2.0, 3.0, 100.0, 2.0):
        paces.add(project, step_s=seconds)
    paces.add(project, finish_s=4.0)
    paces.loaded("tiny", 12.5)
    paces.save()
    again = Paces(tmp_path / "timings.json")
    assert again.of(project) == Pace(2.0, 4.0)
    assert again.of(project).clip_s(10) == 24.0
    assert again.load_s("tiny") == 12.5 and again.load_s("other") is None
    assert again.at(project.preset, Resolution(16, 16), 2) == Pace()


def test_damaged_timings_are_measured_anew(tmp_path, store):
    (tmp_path / "timings.json").write_text('{"a": [1, 2')
    assert Paces(tmp_path / "timings.json").of(store.load()) == Pace()


def test_a_notice_stays_with_its_clip_until_it_is_done_and_with_the_film_after():
    feed = Feed()
    feed.publish(ONE, ClipStarted("c", 0, "d", "p", 1, 1))
    feed.publish(ONE, ClipNotice("c", 0, "Going on with less."))
    feed.publish(ONE, ClipStep("c", 0, 1, 4, 0.5))
    assert feed.live(ONE).notice == "Going on with less."
    assert feed.announced(ONE) == "Clip 1: Going on with less."
    feed.publish(ONE, TakeCommitted("c", 0, "d", 9, 1.0))
    assert [notice.text for notice in feed.notices(ONE)] == ["Going on with less."] and not feed.notices(TWO)
    feed.forget(ONE)
    assert feed.notices(ONE) == ()
