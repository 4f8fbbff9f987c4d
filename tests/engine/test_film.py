"""A film is a chain of takes, and generating is `make`."""

import numpy as np
import pytest

from engine import faults, film, storyboard
from engine.config import VariantPreset
from engine.errors import (
    DiskFull,
    GenerationError,
    InputError,
    OutOfMemory,
    ProjectCorrupt,
    ProjectError,
    ProjectLocked,
)
from engine.events import ClipStep, TakeCommitted
from engine.media import video
from tests.fakes import ScriptedBackend


def render(store, preset, backend=None, **options):
    return list(film.render(store, backend or ScriptedBackend(), preset, reserve_bytes=0, **options))


def statuses(store, preset):
    return [clip.status for clip in film.plan(store, preset).clips]


def test_rendering_makes_every_clip_once_and_planning_again_makes_nothing(store, preset):
    events = render(store, preset)
    assert [e.index for e in events if isinstance(e, TakeCommitted)] == [0, 1, 2]
    assert sum(isinstance(e, ClipStep) for e in events) == 3 * 2
    assert statuses(store, preset) == ["done"] * 3
    assert render(store, preset) == []


@pytest.mark.parametrize(("variant", "m"), [("film", 5), ("shot", 1)])
def test_an_exported_film_has_nF_minus_overlaps_frames(tmp_path, picture, preset, variant, m):
    store = film.create(tmp_path / variant, picture, preset, prompts=["night"] * 5, variant=variant)
    render(store, preset)
    exported = film.export(store, preset, tmp_path / "film.mp4")
    assert exported.frames == 5 * 9 - 4 * m
    assert video.probe(tmp_path / "film.mp4").num_frames == exported.frames
    assert (exported.num_frames, exported.num_motion_frames) == (9, m)


def test_editing_a_clip_makes_it_and_all_later_takes_stale(store, preset):
    render(store, preset)
    second = store.load().clips[1].id
    store.edit(lambda p: storyboard.set_prompt(p, second, "snow falls"))
    assert statuses(store, preset) == ["done", "stale", "stale"]
    assert film.plan(store, preset).next.index == 1


def test_undoing_an_edit_makes_the_old_takes_fresh_again(store, preset):
    render(store, preset)
    clip = store.load().clips[0]
    store.edit(lambda p: storyboard.set_prompt(p, clip.id, "snow falls"))
    store.edit(lambda p: storyboard.set_prompt(p, clip.id, clip.prompt))
    assert statuses(store, preset) == ["done"] * 3


def test_other_weights_make_every_take_stale(store, preset):
    render(store, preset)
    (preset.path(preset.model) / "model.safetensors").write_bytes(b"other weights")
    assert statuses(store, preset) == ["stale"] * 3


def test_regenerating_only_one_clip_leaves_the_later_takes_accepted(store, preset):
    render(store, preset)
    before = film.plan(store, preset)
    shown = {c.clip.id: c.take.digest for c in before.clips}
    first = store.load().clips[0].id
    store.edit(lambda p: storyboard.regenerate(p, first, seed=99, shown=shown, scope="only_this"))
    backend = ScriptedBackend()
    render(store, preset, backend)
    assert len(backend.generated) == 1
    after = film.plan(store, preset)
    assert [c.take.digest for c in after.clips][1:] == [c.take.digest for c in before.clips][1:]
    assert after.clips[0].take.seed == 99


def test_choosing_an_earlier_take_needs_no_rendering_of_that_clip(store, preset):
    render(store, preset)
    clip = store.load().clips[2]
    old = film.plan(store, preset).clips[2].take.digest
    store.edit(lambda p: storyboard.set_seed(p, clip.id, 5))
    render(store, preset)
    store.edit(lambda p: storyboard.pin(p, clip.id, old))
    assert statuses(store, preset) == ["done"] * 3
    assert film.plan(store, preset).clips[2].take.digest == old


def test_the_first_clip_starts_from_one_frame_and_later_ones_from_the_motion_frames(store, preset):
    seen = []
    render(store, preset, ScriptedBackend(before_step=lambda request, step: seen.append(request)))
    first, _, second, _, third, _ = seen
    assert len(first.condition_frames) == 1 and first.overlap == 0
    assert np.array_equal(first.condition_frames[0], first.anchor)
    assert len(second.condition_frames) == len(third.condition_frames) == 5 and second.overlap == 5


def test_motion_frames_are_lossless(store, preset):
    made = {}

    class Recording(ScriptedBackend):
        def generate(self, request):
            for item in super().generate(request):
                if hasattr(item, "frames"):
                    made[request.index] = item.frames
                yield item

    seen = {}
    render(store, preset, Recording(before_step=lambda request, step: seen.setdefault(request.index, request)))
    assert np.array_equal(seen[1].condition_frames, made[0][-5:])


def test_the_same_project_gives_the_same_film(tmp_path, picture, preset):
    films = []
    for name in ("a", "b"):
        store = film.create(tmp_path / name, picture, preset, prompts=["night", "fog"], seed=3)
        render(store, preset)
        film.export(store, preset, tmp_path / f"{name}.mp4")
        takes = [store.take_folder(clip.digest) for clip in film.plan(store, preset).clips]
        films.append([p.read_bytes() for t in takes for p in (t / "segment.mp4", *sorted(t.glob("tail/*")))])
        films[-1].append((tmp_path / f"{name}.mp4").read_bytes())
    assert [a == b for a, b in zip(*films, strict=True)] == [True] * len(films[0])


def test_seeds_differ_per_clip(store, preset):
    render(store, preset)
    assert len({c.take.seed for c in film.plan(store, preset).clips}) == 3


def test_closing_the_generator_cancels_and_keeps_finished_clips(store, preset):
    events = film.render(store, ScriptedBackend(), preset, reserve_bytes=0)
    for event in events:
        if isinstance(event, ClipStep) and event.index == 1:
            break
    events.close()
    assert statuses(store, preset) == ["done", "missing", "missing"]
    assert not list(store.takes_folder.glob(".tmp-*"))
    assert store.attempts() == {}


def test_clips_appended_while_rendering_are_rendered_too(store, preset):
    events = film.render(store, ScriptedBackend(), preset, reserve_bytes=0)
    next(events)
    store.edit(lambda p: storyboard.append(p, ["snow"]))
    assert sum(isinstance(e, TakeCommitted) for e in events) == 4


def test_two_renderers_of_one_project_are_refused(store, preset):
    first = film.render(store, ScriptedBackend(), preset, reserve_bytes=0)
    next(first)
    with pytest.raises(ProjectLocked, match="in use"):
        render(store, preset)
    first.close()


def test_a_clip_that_killed_the_process_three_times_is_quarantined(store, preset):
    digest = film.plan(store, preset).next.digest
    store.set_attempt(digest, 3)
    with pytest.raises(GenerationError, match="Clip 1 stopped the studio 3 times"):
        render(store, preset)
    assert digest in {event.digest for event in render(store, preset) if isinstance(event, TakeCommitted)}


def test_running_out_of_memory_is_said_in_a_sentence(store, preset):
    def explode(request, step):
        raise MemoryError

    with pytest.raises(OutOfMemory, match="Clip 1"):
        render(store, preset, ScriptedBackend(before_step=explode))


def test_a_flat_clip_is_refused(store, preset):
    class Grey(ScriptedBackend):
        def generate(self, request):
            for item in super().generate(request):
                if hasattr(item, "frames"):
                    item.frames[:] = 127
                yield item

    with pytest.raises(GenerationError, match="flat colour"):
        render(store, preset, Grey())


def test_no_clip_is_started_when_the_disk_is_nearly_full(store, preset):
    with pytest.raises(DiskFull, match="No room"):
        list(film.render(store, ScriptedBackend(), preset, reserve_bytes=10**18))


def test_a_missing_segment_is_made_again_and_blocks_an_export_before(store, preset, tmp_path):
    render(store, preset)
    digest = film.plan(store, preset).clips[1].digest
    (store.take_folder(digest) / "segment.mp4").unlink()
    assert statuses(store, preset)[1] == "missing"
    backend = ScriptedBackend()
    render(store, preset, backend)
    assert backend.generated == [digest]


def test_a_damaged_segment_is_named_at_export(store, preset, tmp_path):
    render(store, preset)
    segment = store.take_folder(film.plan(store, preset).clips[1].digest) / "segment.mp4"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    with pytest.raises(ProjectError, match="clip 2 is damaged"):
        film.export(store, preset, tmp_path / "film.mp4")


def test_a_damaged_segment_or_tail_is_made_again_bit_for_bit(store, preset, tmp_path):
    render(store, preset)
    folder = store.take_folder(film.plan(store, preset).clips[1].digest)
    whole = {path.name: path.read_bytes() for path in (folder / "segment.mp4", folder / "tail" / "4.png")}
    (folder / "segment.mp4").write_bytes(bytes(len(whole["segment.mp4"])))
    with pytest.raises(ProjectError, match="set aside"):
        film.export(store, preset, tmp_path / "film.mp4")
    render(store, preset)
    assert (folder / "segment.mp4").read_bytes() == whole["segment.mp4"]
    (folder / "tail" / "4.png").write_bytes(whole["4.png"][:40])
    third = store.load().clips[2].id
    store.edit(lambda p: storyboard.set_seed(p, third, 77))
    backend = ScriptedBackend()
    render(store, preset, backend)
    assert len(backend.generated) == 2
    assert (folder / "tail" / "4.png").read_bytes() == whole["4.png"]


def test_there_is_nothing_to_export_before_the_first_clip(store, preset, tmp_path):
    with pytest.raises(ProjectError, match="no finished clip"):
        film.export(store, preset, tmp_path / "film.mp4")


def test_a_folder_that_lost_its_project_file_is_not_overwritten(store, preset, picture):
    render(store, preset)
    store.project_file.unlink()
    with pytest.raises(ProjectCorrupt, match="missing"):
        film.create(store.folder, picture, preset)


def test_a_full_disk_at_the_end_of_a_cancelled_clip_is_not_an_error(store, preset):
    events = film.render(store, ScriptedBackend(), preset, reserve_bytes=0)
    next(events)
    with faults.injected("attempts.temp:enospc:1"):
        events.close()


def test_a_second_project_in_the_same_folder_is_refused(store, preset, picture):
    with pytest.raises(InputError, match="already holds"):
        film.create(store.folder, picture, preset)


def test_a_shortcut_that_changes_pixels_asks_for_other_takes_and_the_rest_does_not(store, preset):
    plain = film.plan(store, preset).clips[0].digest
    for change in ({"tier": "streamed"}, {"lossy": True}):
        assert film.plan(store, preset.model_copy(update=change)).clips[0].digest == plain
    for change in (
        {"cache": "taylor"},
        {"attention": "flash"},
        {"compile": True},
        {"cfg": "batched"},
        {"tier": "tiled"},
    ):
        assert film.plan(store, preset.model_copy(update=change)).clips[0].digest != plain


def test_a_kept_take_of_another_method_is_refused_by_name_and_stays(store, preset):
    """Only a preset file that was edited leads there: the take is whole, so it is not set aside as damaged."""
    render(store, preset)
    kept = film.plan(store, preset).clips[0].take
    store.edit(lambda project: storyboard.pin(project, kept.clip_id, kept.digest))
    pro = preset.model_copy(update={"variants": {"film": VariantPreset(method="svi-2.0-pro")}})
    with pytest.raises(InputError, match="Clip 1 was made by another method and hands over no latents"):
        render(store, pro)
    assert kept.digest in store.takes()
