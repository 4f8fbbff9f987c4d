import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from engine import faults
from engine.diffusion import conditioning
from engine.diffusion.conditioning import Counters, TextCache
from engine.domain import Resolution
from engine.errors import DiskFull, ProjectLocked, TrainingError
from engine.models import components as families
from engine.training.dataset import read_window, scan
from engine.training.latent_cache import LatentCache, cache_bytes, latent_shape, prepare
from engine.variants import FILM, SHOT
from tests.engine.training.footage import damage_the_middle, noisy_frames, write_video

SIZE = (32, 32)


@pytest.fixture(scope="session")
def wan(tiny_components):
    return tiny_components


@pytest.fixture(scope="session")
def pocket(untrained_pocket):
    return families.load(untrained_pocket)


def steps(videos, folder, components, **changes):
    settings = dict(
        variant=FILM,
        size=SIZE,
        num_frames=9,
        fps=None,
        windows_per_video=1,
        seed=3,
        max_sequence_length=24,
        identity="weights-1",
        dtype=torch.float32,
    )
    return prepare(scan(videos, num_frames=9), components, folder=folder, **settings | changes)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, wan):
    """Three videos of noise with two captions between them, and their complete cache."""
    folder = tmp_path_factory.mktemp("prepared")
    for number, name in enumerate(("a", "b", "c")):
        write_video(folder / "videos" / f"{name}.mp4", frames=noisy_frames(14, seed=number))
    table = "file,caption\na.mp4,night falls\nb.mp4,fog rolls in\nc.mp4,night falls\n"
    (folder / "videos" / "captions.csv").write_text(table)
    list(steps(folder / "videos", folder / "cache", wan))
    return folder


@pytest.fixture
def videos(tmp_path, prepared):
    return shutil.copytree(prepared / "videos", tmp_path / "videos")


@pytest.fixture
def cache(tmp_path, prepared):
    """The complete cache of `videos`."""
    return shutil.copytree(prepared / "cache", tmp_path / "cache")


@pytest.fixture
def fill(tmp_path, wan) -> Callable[..., list[dict]]:
    """Prepares a cache from a folder of videos and returns the records."""

    def run(videos, folder=tmp_path / "cache", components=wan, **changes) -> list[dict]:
        return list(steps(videos, folder, components, **changes))

    return run


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".lock")}


def notes_of(cache, index):
    with safe_open(cache.folder / cache.manifest.windows[index], framework="pt") as file:
        return json.loads(file.metadata()["window"])


# What is in a window


def conditioned(components, clip_request, frames, anchor, caption, *, padding, texts):
    """What sampling would give the transformer for a clip of these condition frames."""
    request = clip_request(
        index=1, prompt=caption, condition_frames=frames, anchor=anchor, num_frames=9, resolution=Resolution(32, 32)
    )
    with torch.inference_mode():
        return conditioning.prepare(
            request,
            components,
            variant=SHOT if padding == "anchor" else FILM,
            texts=texts,
            max_sequence_length=512,
            needs_negative=False,
            counters=texts.counters,
        )


@pytest.mark.parametrize(("variant", "num_condition_frames"), [(FILM, 1), (FILM, 5), (SHOT, 1)])
@pytest.mark.parametrize("model", ["wan", "pocket"])
def test_a_cached_window_is_what_sampling_would_see(
    tmp_path, fill, clip_request, wan, pocket, model, variant, num_condition_frames
):
    components = {"wan": wan, "pocket": pocket}[model]
    write_video(tmp_path / "videos" / "fog rolls in.mp4", 9)  # one window only, flat: no crop changes it
    (tmp_path / "videos" / "fog rolls in.txt").write_text("fog rolls in")
    fill(tmp_path / "videos", components=components, variant=variant, max_sequence_length=512)
    sample = LatentCache(tmp_path / "cache").sample(0, num_condition_frames=num_condition_frames)

    window = decoded(tmp_path / "videos" / "fog rolls in.mp4")
    how = {"padding": variant.padding, "texts": TextCache(components.encode_text, Counters())}
    expected = [
        conditioned(components, clip_request, window[:num_condition_frames], anchor, "fog rolls in", **how)
        for anchor in (window if variant is SHOT else window[:1])
    ]
    assert sample.caption == "fog rolls in"
    torch.testing.assert_close(sample.prompt_embeds, expected[0].prompt_embeds[0], rtol=0, atol=0)
    distances = [float((each.condition_latents[0] - sample.condition).abs().max()) for each in expected]
    assert min(distances) < 1e-5
    if variant is SHOT:  # the anchor is one frame of the window, and no other
        assert sorted(distances)[1] > 1e-3
    if model == "wan":
        torch.testing.assert_close(sample.image_embeds, expected[0].image_embeds[0], rtol=0, atol=1e-5)
    else:
        assert sample.image_embeds is None
    with torch.no_grad():
        latents = components.codec.encode(conditioning.to_pixels(window, components.device))[0]
    torch.testing.assert_close(sample.latents, latents, rtol=0, atol=1e-5)


def decoded(path, size=SIZE):
    """The flat frames of a video as they come back from the disk, at `size` (height, width)."""
    [item] = [item for item in scan(path.parent).items if item.path == path.resolve()]
    count = item.index.num_frames
    return read_window(item, num_frames=count, size=size, fps=None, rng=random.Random(0)).frames


def test_an_anchor_from_outside_is_no_frame_of_the_window(tmp_path, fill, wan):
    write_video(tmp_path / "videos" / "a.mp4", 13)
    fill(tmp_path / "videos", variant=SHOT, anchor="outside", anchors_per_window=2, windows_per_video=2)
    cache = LatentCache(tmp_path / "cache")
    frames = decoded(tmp_path / "videos" / "a.mp4")
    for index in range(2):
        start = notes_of(cache, index)["start"]
        for anchor in (0.2, 0.7):
            number = anchor_of(cache.sample(index, anchor=anchor), frames[start], frames, wan)
            assert number not in range(start, start + 9)


def test_a_video_of_one_window_has_its_anchor_inside(tmp_path, fill, wan):
    write_video(tmp_path / "videos" / "a.mp4", 9)
    fill(tmp_path / "videos", variant=SHOT, anchor="outside")
    frames = decoded(tmp_path / "videos" / "a.mp4")
    assert anchor_of(LatentCache(tmp_path / "cache").sample(0), frames[0], frames, wan) in range(9)


def anchor_of(sample, first, frames, components):
    """The number of the frame that fills the condition."""
    candidates = [conditioning.to_pixels(np.stack([first, *[anchor] * 8]), components.device) for anchor in frames]
    expected = conditioning.condition_latents(torch.cat(candidates), components.codec)
    distances = (expected - sample.condition).abs().amax((1, 2, 3, 4))
    assert distances.min() < 1e-4  # one clip at a time there, all in a batch here
    return int(distances.argmin())


def test_several_anchors_give_several_conditions_and_one_window(tmp_path, fill, videos):
    fill(videos, variant=SHOT, anchors_per_window=3)
    cache = LatentCache(tmp_path / "cache")
    samples = [cache.sample(0, anchor=anchor) for anchor in (0.0, 0.34, 0.99)]
    conditions = {sample.condition.numpy().tobytes() for sample in samples}
    assert len(conditions) > 1
    assert all(torch.equal(sample.latents, samples[0].latents) for sample in samples)


def test_windows_start_with_the_frames_of_their_condition(cache):
    cache = LatentCache(cache)
    for index in range(len(cache)):
        sample = cache.sample(index, num_condition_frames=5)
        torch.testing.assert_close(sample.condition[4:, :2], sample.latents[:, :2], rtol=0, atol=1e-5)
        assert (sample.condition[:4, 0] == 1).all() and (sample.condition[:4, 1:] == 0).all()


def test_the_file_has_the_asked_dtype_and_full_prompts(tmp_path, fill, videos):
    fill(videos, dtype=torch.bfloat16, max_sequence_length=512)
    sample = LatentCache(tmp_path / "cache").sample(0)
    floats = (sample.latents, sample.condition, sample.prompt_embeds, sample.image_embeds)
    assert {value.dtype for value in floats} == {torch.bfloat16}
    assert sample.latents.shape == (16, 3, 4, 4)
    assert sample.condition.shape == (20, 3, 4, 4)
    assert sample.prompt_embeds.shape == (512, 32)
    assert sample.image_embeds.shape == (17, 4)


def test_each_caption_is_encoded_once_and_each_window_alone(videos, fill, wan):
    seen = []

    def encode(pixels):
        seen.append((len(pixels), torch.is_grad_enabled()))
        return wan.codec.encode(pixels)

    def encode_text(prompts, length):
        seen.append((len(prompts), torch.is_grad_enabled()))
        return wan.encode_text(prompts, length)

    codec = wan.codec
    watched = SimpleNamespace(
        encode=encode,
        grid=codec.grid,
        latent_channels=codec.latent_channels,
        spatial_stride=codec.spatial_stride,
        temporal_stride=codec.temporal_stride,
    )
    counters = Counters()
    changed = replace(wan, codec=watched, encode_text=encode_text)
    fill(videos, components=changed, counters=counters, windows_per_video=2)
    assert counters.text_encoder_calls == 2
    assert counters.frames_encoded == 6 * 3 * 9  # windows × (latents and two conditions) × frames
    assert set(seen) == {(1, False)} and len(seen) == 2 + 6 * 3


# What fields of motion can follow


def moving(kind, count=9, size=(96, 64)):
    """Frames of a camera that pans over a scene, of somebody before a scene at rest, small or large, or of a cut."""
    width, height = size
    scene, other = (toy_frame(2 * width, height, seed) for seed in (1, 2))
    y, x = np.mgrid[:height, :width]
    frames = []
    for number in range(count):
        shift = number if kind == "pan" else 0
        frame = (other if kind == "cut" and number > count // 2 else scene)[:, shift : shift + width].copy()
        if kind in ("far", "near"):
            side = {"far": 5, "near": 24}[kind]
            frame[np.hypot(x - 20 - 6 * number, y - 40) < side] = (230, 40, 60)
        frames.append(frame)
    return frames


def toy_frame(width, height, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 220, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_footage_that_fields_cannot_follow_is_left_out_and_the_rest_noted(tmp_path, fill, pocket):
    for name in ("pan", "far", "near", "cut"):
        write_video(tmp_path / "videos" / f"{name}.mp4", frames=moving(name), size=(96, 64))
        (tmp_path / "videos" / f"{name}.txt").write_text(name)
    records = fill(tmp_path / "videos", components=pocket, size=(64, 96))
    again = fill(tmp_path / "videos", components=pocket, size=(64, 96))
    for told in (records, again):
        skipped = [note for record in told for note in record["skipped"]]
        noted = [note for record in told for note in record["noted"]]
        assert sorted(note["name"] for note in skipped) == ["cut.mp4", "near.mp4"]
        assert all("the embedded model cannot follow" in note["reason"] for note in skipped)
        assert [note["name"] for note in noted] == ["far.mp4"]
        assert "follows only in part" in noted[0]["reason"]
    assert records[-1]["done"] == records[-1]["of"] == 2


def test_a_model_of_pixels_follows_everything(tmp_path, fill):
    write_video(tmp_path / "videos" / "cut.mp4", frames=moving("cut"), size=(96, 64))
    (tmp_path / "videos" / "cut.txt").write_text("A cut")
    records = fill(tmp_path / "videos", size=(64, 96))
    assert [record["skipped"] + record["noted"] for record in records] == [[]] * len(records)


# Progress, interruptions, staleness


def test_progress_counts_windows_and_names_what_was_left_out(fill, videos):
    (videos / "d.mp4").write_text("not a video")
    records = fill(videos)
    assert [record["done"] for record in records] == [0, 1, 2, 3, 3]
    assert {record["of"] for record in records} == {3}
    assert [entry["name"] for record in records for entry in record["skipped"]] == ["d.mp4"]
    json.dumps(records)


@pytest.fixture
def broken(tmp_path):
    """A video with a good beginning and a bad end, behind a good one."""
    write_video(tmp_path / "videos" / "a.mp4", 12)
    return damage_the_middle(write_video(tmp_path / "videos" / "b.mp4", frames=noisy_frames(40), options={"g": "10"}))


def test_a_video_that_fails_later_on_is_left_out_with_all_its_windows(tmp_path, fill, broken):
    records = fill(broken.parent, windows_per_video=4, seed=10)
    assert [entry["name"] for record in records for entry in record["skipped"]] == ["b.mp4"]
    assert max(record["done"] for record in records) == 6  # two of its windows could be made
    assert (records[0]["of"], records[-1]["of"], records[-1]["done"]) == (8, 4, 4)
    cache = LatentCache(tmp_path / "cache")
    assert {notes_of(cache, index)["video"] for index in range(len(cache))} == {"a.mp4"}
    assert len(list(cache.folder.glob("*.safetensors"))) == 4
    [again] = fill(broken.parent, windows_per_video=4, seed=10)
    assert [entry["name"] for entry in again["skipped"]] == ["b.mp4"]


def test_videos_that_all_fail_are_an_error(fill, broken):
    (broken.parent / "a.mp4").unlink()
    with pytest.raises(TrainingError, match=r"None of the videos can be read to the end: b.mp4"):
        fill(broken.parent, windows_per_video=4)


def test_an_interrupted_cache_is_completed_to_the_same_bytes(tmp_path, fill, wan, videos, prepared):
    partial = tmp_path / "partial"
    running = steps(videos, partial, wan)
    for _ in range(3):
        next(running)
    running.close()
    [cut, _] = sorted(partial.glob("*.safetensors"))
    cut.write_bytes(cut.read_bytes()[:-5])
    (partial / f".{cut.name}.4711.tmp").write_bytes(b"left by a killed process")
    with pytest.raises(TrainingError, match="no complete latent cache"):
        LatentCache(partial)
    records = fill(videos, partial)
    assert records[0]["done"] == 1  # two were made, one of them is cut
    assert files(partial) == files(prepared / "cache")


@pytest.mark.parametrize(
    ("point", "n"), [("latents.window.temp", 1), ("latents.window.fsync", 2), ("latents.window.rename", 3)]
)
def test_a_full_disk_keeps_what_is_made_and_says_what_is_missing(tmp_path, fill, videos, point, n):
    with (
        faults.injected(f"{point}:enospc:{n}"),
        pytest.raises(DiskFull, match=r"still need \d+ MB .* are missing. What is encoded so far is kept"),
    ):
        fill(videos)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == n - 1
    assert not list((tmp_path / "cache").glob(".*.tmp"))
    assert fill(videos)[0]["done"] == n - 1


@pytest.mark.parametrize("action", ["enospc", "eio", "eacces"])
def test_a_manifest_that_cannot_be_written_leaves_no_cache(fill, videos, cache, action):
    (cache / "manifest.json").unlink()
    with faults.injected(f"latents.manifest.*:{action}:1"), pytest.raises(DiskFull, match="encoded so far is kept"):
        fill(videos)
    with pytest.raises(TrainingError, match="no complete latent cache"):
        LatentCache(cache)
    assert fill(videos)[0]["done"] == 3


def test_a_complete_cache_is_not_touched(fill, videos, cache):
    before = files(cache)
    counters = Counters()
    records = fill(videos, counters=counters)
    assert [(record["done"], record["of"]) for record in records] == [(3, 3)]
    assert counters == Counters()
    assert files(cache) == before


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_without_its_manifest_a_cache_is_checked_and_not_encoded_again(fill, videos, cache, text):
    before = files(cache)
    (cache / "manifest.json").unlink()
    if text is not None:
        (cache / "manifest.json").write_text(text)
    counters = Counters()
    fill(videos, counters=counters)
    assert counters == Counters()
    assert files(cache) == before


def test_only_the_windows_of_what_changed_are_made_again(fill, videos, cache):
    before = files(cache)
    table = videos / "captions.csv"
    table.write_text(table.read_text().replace("fog rolls in", "winter comes"))
    counters = Counters()
    fill(videos, counters=counters)
    assert (counters.text_encoder_calls, counters.frames_encoded) == (1, 3 * 9)
    assert len(files(cache)) == len(before)
    assert len(set(before) & set(files(cache))) == 2 + 1  # the windows of the other two videos, and the manifest
    captions = sorted(LatentCache(cache).sample(index).caption for index in range(3))
    assert captions == ["night falls", "night falls", "winter comes"]


def test_a_replaced_video_is_encoded_again(fill, videos, cache):
    write_video(videos / "a.mp4", frames=noisy_frames(15, seed=9))
    counters = Counters()
    fill(videos, counters=counters)
    assert counters.frames_encoded == 3 * 9


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "weights-2"},
        {"seed": 4},
        {"size": (32, 48)},
        {"num_frames": 13},
        {"fps": 12.0},
        {"max_sequence_length": 20},
        {"dtype": torch.float16},
        {"variant": SHOT},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_setting_makes_all_windows_anew_and_removes_the_old(fill, videos, cache, change):
    before = set(files(cache))
    for name in ("a.mp4", "c.mp4"):
        (videos / name).unlink()
    counters = Counters()
    fill(videos, counters=counters, **change)
    assert counters.frames_encoded > 0
    assert before & set(files(cache)) == {"manifest.json"} and len(files(cache)) == 2


def test_more_windows_keep_those_there_are(fill, videos, cache):
    counters = Counters()
    assert fill(videos, windows_per_video=2, counters=counters)[0]["done"] == 3
    assert counters.frames_encoded == 3 * 3 * 9
    assert len(LatentCache(cache)) == 6


def test_a_removed_video_takes_its_window_along(fill, videos, cache):
    (videos / "a.mp4").unlink()
    counters = Counters()
    fill(videos, counters=counters)
    assert counters.frames_encoded == 0
    assert len(LatentCache(cache)) == len(list(cache.glob("*.safetensors"))) == 2


def test_files_that_are_not_ours_are_left_alone(fill, videos, cache):
    (cache / "my.safetensors").write_bytes(b"mine")
    (videos / "a.mp4").unlink()
    fill(videos)
    assert (cache / "my.safetensors").read_bytes() == b"mine"


def test_two_processes_do_not_fill_one_cache(fill, wan, videos, cache):
    running = steps(videos, cache, wan)
    next(running)
    with pytest.raises(ProjectLocked, match="encoding videos"):
        fill(videos)
    running.close()
    fill(videos)


# Room on the disk


def test_the_estimate_covers_the_files_and_not_twice_over(tmp_path, fill, videos, wan):
    fill(videos, variant=SHOT, anchors_per_window=2)
    estimate = cache_bytes(
        3,
        latent_shape=latent_shape(9, SIZE, wan.codec),
        num_conditions=2,
        prompt_shape=(24, wan.transformer.config.text_dim),
        image_shape=(17, wan.transformer.config.image_dim),
        dtype=torch.float32,
    )
    written = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.safetensors"))
    assert estimate / 2 < written <= estimate


def test_the_estimate_of_the_paper_size_is_what_its_tensors_weigh():
    megabytes = (
        cache_bytes(
            1,
            latent_shape=(16, 21, 60, 104),
            num_conditions=2,
            prompt_shape=(512, 4096),
            image_shape=(257, 1280),
            dtype=torch.bfloat16,
        )
        / 1e6
    )
    assert megabytes == pytest.approx(4.193 + 2 * 5.242 + 4.194 + 0.658, abs=0.01)


def test_too_little_room_is_said_before_anything_is_encoded(fill, videos, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=20_000))
    counters = Counters()
    with pytest.raises(DiskFull, match=r"still need 1 MB on this disk and 1 MB are free: 1 MB are missing"):
        fill(videos, counters=counters)
    assert counters == Counters()


def test_an_old_cache_gives_way_when_room_is_short(fill, videos, cache, monkeypatch):
    old = [cache / name for name in LatentCache(cache).manifest.windows]

    def disk_usage(folder):
        return SimpleNamespace(free=0 if any(path.exists() for path in old) else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    fill(videos, identity="weights-2")
    assert len(LatentCache(cache)) == 3


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 10}, r"10 frames cannot be encoded for Film. It must be 4·n \+ 1 frames, more than 5"),
        ({"num_frames": 5}, r"5 frames cannot be encoded for Film"),
        ({"size": (32, 40)}, r"40×32 cannot be encoded. Use multiples of 16"),
        ({"anchors_per_window": 2}, "Film is padded with grey and has no anchors"),
        ({"anchor": "outside"}, "Film is padded with grey and has no anchors"),
        ({"windows_per_video": 0}, "at least one window"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, fill, videos, change, message):
    with pytest.raises(TrainingError, match=message):
        fill(videos, **change)
    assert not (tmp_path / "cache").exists()


def test_conditions_that_are_not_cached_are_refused(cache):
    with pytest.raises(TrainingError, match="conditions of 1 or 5 frames, not of 3"):
        LatentCache(cache).sample(0, num_condition_frames=3)


def test_a_damaged_window_says_what_to_do_and_is_made_again(fill, videos, cache):
    opened = LatentCache(cache)
    before = files(cache)
    path = cache / opened.manifest.windows[2]
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TrainingError, match=r"missing or damaged. Start the training again"):
        opened.sample(2)
    fill(videos)
    assert files(cache) == before


def test_a_manifest_cannot_point_outside_its_folder(cache):
    saved = json.loads((cache / "manifest.json").read_text())
    saved["windows"][0] = f"../{saved['windows'][0]}"
    (cache / "manifest.json").write_text(json.dumps(saved))
    with pytest.raises(TrainingError, match="no complete latent cache"):
        LatentCache(cache)
