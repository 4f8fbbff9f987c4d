import pytest

from engine.timeline import Timeline


@pytest.mark.parametrize(("m", "n", "total"), [(1, 10, 801), (5, 10, 765), (5, 1, 81), (1, 1, 81)])
def test_totals_are_upstreams(m, n, total):
    assert Timeline(81, m, 16).total(n) == total


@pytest.mark.parametrize("m", [1, 5])
def test_segments_tile_the_film_without_gap_or_overlap(m):
    timeline = Timeline(25, m, 12)
    edge = 0
    for index in range(7):
        start, end = timeline.segment(index)
        assert start == edge
        edge = end
    assert edge == timeline.total(7)


def test_a_window_begins_with_the_frames_of_the_previous_clip():
    timeline = Timeline(25, 5, 12)
    assert timeline.window(1)[0] == timeline.window(0)[1] - 5


@pytest.mark.parametrize(
    ("seconds", "m", "clips", "frames"),
    [(50, 1, 10, 801), (50, 5, 10, 765), (250, 1, 50, 4001), (250, 5, 50, 3805), (5.0625, 5, 1, 81), (0.1, 5, 1, 81)],
)
def test_seconds_are_as_many_clips_as_the_paper_counts(seconds, m, clips, frames):
    timeline = Timeline(81, m, 16)
    assert (timeline.clips_for(seconds), timeline.total(clips)) == (clips, frames)
