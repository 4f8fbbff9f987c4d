import csv
import io
import json
import os
import random
import unicodedata
from collections import Counter
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import TrainingError
from engine.training.dataset import (
    MAX_FRAMES,
    MAX_TABLE_BYTES,
    Crop,
    UnusableVideo,
    VideoItem,
    csv_rows,
    fold,
    json_rows,
    random_crop,
    read_index,
    read_window,
    resize,
    scan,
)
from tests.engine.training.footage import (
    damage_the_middle,
    flat,
    noisy_frames,
    numbers,
    write_audio,
    write_video,
)


@pytest.fixture
def folder(tmp_path):
    """A dataset folder of its own, so that a file beside it lies outside."""
    path = tmp_path / "data"
    path.mkdir()
    return path


def captions(dataset):
    return {item.name: item.caption for item in dataset.items}


def reasons(notes):
    return {note.name: note.reason for note in notes}


def window(item, *, num_frames=9, size=(48, 64), fps=None, seed=0, num_outside=0):
    rng = random.Random(seed)
    return read_window(item, num_frames=num_frames, size=size, fps=fps, rng=rng, num_outside=num_outside)


# Layouts and captions


def test_upstreams_layout_takes_captions_from_the_csv_of_each_category(folder):
    write_video(folder / "Sky" / "a.mp4")
    write_video(folder / "Sky" / "b.mp4")
    write_video(folder / "Sky" / "c.mp4")
    (folder / "Sky" / "Sky.csv").write_text(
        "Video Title,Video Description,Video URL,Download URL,Filename\n"
        'T,"Clouds, slowly",https://a,https://b,a.mp4\nT,,https://a,https://b,b.mp4\n'
    )
    dataset = scan(folder, num_frames=9)
    stand_in = "A video from Sky category"
    assert captions(dataset) == {"Sky/a.mp4": "Clouds, slowly", "Sky/b.mp4": stand_in, "Sky/c.mp4": stand_in}
    assert reasons(dataset.noted) == dict.fromkeys(("Sky/b.mp4", "Sky/c.mp4"), f"has no caption: “{stand_in}” is used")
    assert not dataset.skipped


def test_a_category_can_be_the_whole_dataset(folder):
    write_video(folder / "a.mp4")
    (folder / "data.csv").write_text("Filename,Video Description\na.mp4,\n")
    assert captions(scan(folder)) == {"a.mp4": "A video from data category"}


@pytest.mark.parametrize("file_key", ["file", "filename", "file_name", "video", "Filename"])
@pytest.mark.parametrize("caption_key", ["caption", "text", "prompt", "description"])
def test_either_table_may_use_the_usual_words(folder, file_key, caption_key):
    write_video(folder / "a.mp4", 2)
    (folder / "captions.csv").write_text(f"{file_key},{caption_key}\na.mp4,a cat\n")
    assert captions(scan(folder)) == {"a.mp4": "a cat"}
    (folder / "captions.csv").unlink()
    (folder / "metadata.jsonl").write_text(json.dumps({file_key: "a.mp4", caption_key: "a dog"}) + "\n\n")
    assert captions(scan(folder)) == {"a.mp4": "a dog"}


def test_a_table_may_name_videos_in_subfolders(folder):
    write_video(folder / "clips" / "a.mp4")
    (folder / "metadata.jsonl").write_text('{"file_name": "clips/a.mp4", "text": "a cat"}')
    assert captions(scan(folder)) == {"clips/a.mp4": "a cat"}


def test_a_text_file_beside_a_video_is_its_caption(folder):
    write_video(folder / "a.mp4")
    (folder / "a.txt").write_text("  a cat\n walks\n", encoding="utf-8-sig")
    assert captions(scan(folder)) == {"a.mp4": "a cat walks"}


def test_without_any_caption_upstreams_is_used_and_said(folder):
    write_video(folder / "a.mp4")
    dataset = scan(folder, num_frames=9)
    assert captions(dataset) == {"a.mp4": "The mountain"}
    assert reasons(dataset.noted) == {"a.mp4": "has no caption: “The mountain” is used"}


def test_a_byte_order_mark_is_no_part_of_the_first_column(folder):
    write_video(folder / "a.mp4")
    (folder / "captions.csv").write_text("file,caption\na.mp4,Schöne Wolken\n", encoding="utf-8-sig")
    assert captions(scan(folder)) == {"a.mp4": "Schöne Wolken"}


def test_accents_may_be_composed_in_the_table_and_not_on_the_disk(folder):
    name = "café – 雪.mp4"
    write_video(folder / unicodedata.normalize("NFD", name))
    (folder / "captions.csv").write_text(f"file,caption\n{unicodedata.normalize('NFC', name)},snow\n", "utf-8")
    dataset = scan(folder, num_frames=9)
    assert list(captions(dataset).values()) == ["snow"]
    assert not dataset.skipped and not dataset.noted


def test_a_caption_without_a_video_is_named(folder):
    write_video(folder / "a.mp4")
    (folder / "captions.csv").write_text("file,caption\na.mp4,a cat\nb.mp4,a dog\n,a bird\n")
    dataset = scan(folder)
    assert reasons(dataset.skipped)["captions.csv row 3: b.mp4"] == "does not exist"
    assert reasons(dataset.skipped)["captions.csv row 4"].startswith("names no video")


def test_a_second_caption_for_a_video_is_named_and_not_used(folder):
    write_video(folder / "a.mp4")
    (folder / "captions.csv").write_text("file,caption\na.mp4,a cat\na.mp4,a  cat\na.mp4,a dog\n")
    dataset = scan(folder)
    assert captions(dataset) == {"a.mp4": "a cat"}
    assert list(reasons(dataset.skipped)) == ["captions.csv row 4: a.mp4"]


def test_a_caption_that_spills_over_its_column_is_not_cut(folder):
    write_video(folder / "a.mp4")
    (folder / "captions.csv").write_text("file,caption\na.mp4,a cat, and a dog\n")
    dataset = scan(folder)
    assert captions(dataset) == {"a.mp4": "The mountain"}
    assert "in quotes" in reasons(dataset.skipped)["captions.csv row 2"]


def test_a_latin_1_table_is_refused_with_the_place(folder):
    write_video(folder / "a.mp4")
    (folder / "captions.csv").write_bytes("file,caption\na.mp4,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(TrainingError, match=r"captions.csv is not UTF-8 text \(byte 0xe9 in line 2\)"):
        scan(folder)


def test_a_latin_1_caption_costs_its_video_only(folder):
    write_video(folder / "a.mp4")
    write_video(folder / "b.mp4")
    (folder / "a.txt").write_bytes(b"caf\xe9")
    dataset = scan(folder)
    assert list(captions(dataset)) == ["b.mp4"]
    assert "a.txt is not UTF-8 text" in reasons(dataset.skipped)["a.mp4"]


def test_an_endless_table_is_refused(folder):
    write_video(folder / "a.mp4")
    (folder / "metadata.jsonl").touch()
    os.truncate(folder / "metadata.jsonl", MAX_TABLE_BYTES + 1)
    with pytest.raises(TrainingError, match="too many for captions"):
        scan(folder)


def test_a_table_without_the_columns_is_told_both_lists(folder):
    write_video(folder / "a.mp4")
    (folder / "captions.csv").write_text("name;caption\na.mp4;a cat\n")
    with pytest.raises(TrainingError, match="the first has: name;caption") as caught:
        scan(folder)
    for word in ("file_name", "description"):
        assert f"“{word}”" in caught.value.hint


def test_two_tables_are_refused(folder):
    (folder / "captions.csv").touch()
    (folder / "metadata.jsonl").touch()
    with pytest.raises(TrainingError, match=r"has captions.csv and metadata.jsonl. Keep one"):
        scan(folder)


def test_an_unclosed_quote_does_not_swallow_the_rest_of_the_table(folder):
    write_video(folder / "a.mp4")
    (folder / "captions.csv").write_text('file,caption\na.mp4,"a cat\nb.mp4,a dog\n')
    with pytest.raises(TrainingError, match="not a valid CSV file"):
        scan(folder)


@pytest.mark.parametrize("name", ["../out.mp4", "/etc/passwd", "x/../../out.mp4", r"..\out.mp4", r"C:\out.mp4"])
def test_no_table_reaches_outside_the_folder(folder, name):
    write_video(folder.parent / "out.mp4")
    write_video(folder / "a.mp4")
    (folder / "metadata.jsonl").write_text(json.dumps({"file": name, "caption": "x"}))
    dataset = scan(folder)
    assert list(captions(dataset)) == ["a.mp4"]
    assert reasons(dataset.skipped) == {f"metadata.jsonl line 1: {name}": "leaves the folder"}


def test_no_link_reaches_outside_the_folder(folder):
    outside = write_video(folder.parent / "out.mp4")
    (folder.parent / "secret.txt").write_text("secret")
    (folder.parent / "elsewhere").mkdir()
    write_video(folder.parent / "elsewhere" / "c.mp4")
    write_video(folder / "a.mp4")
    (folder / "b.mp4").symlink_to(outside)
    (folder / "a.txt").symlink_to(folder.parent / "secret.txt")
    (folder / "elsewhere").symlink_to(folder.parent / "elsewhere")
    write_video(folder / "d.mp4")
    dataset = scan(folder)
    assert captions(dataset) == {"d.mp4": "The mountain"}
    assert reasons(dataset.skipped) == {"a.mp4": "a.txt leaves the folder.", "b.mp4": "leaves the folder"}


def test_a_link_within_the_folder_is_followed(folder):
    (folder / "b.mp4").symlink_to(write_video(folder / "a.mp4"))
    assert set(captions(scan(folder))) == {"a.mp4", "b.mp4"}


@pytest.mark.parametrize("row", ["[1]", "{", '{"file": 3}', '{"file": "a\\u0000.mp4"}', '{"file": "\\ud800.mp4"}'])
def test_a_broken_line_costs_that_line_only(folder, row):
    write_video(folder / "a.mp4")
    (folder / "metadata.jsonl").write_text(row + '\n{"file": "a.mp4", "caption": "a cat"}\n')
    dataset = scan(folder)
    assert captions(dataset) == {"a.mp4": "a cat"}
    assert len(dataset.skipped) == 1


@pytest.mark.parametrize("caption", [3, ["a"], "\ud800", "a" * 9000])
def test_a_caption_that_no_encoder_should_get_is_refused(folder, caption):
    write_video(folder / "a.mp4")
    (folder / "metadata.jsonl").write_text(json.dumps({"file": "a.mp4", "caption": caption}))
    dataset = scan(folder)
    assert captions(dataset) == {"a.mp4": "The mountain"}
    assert "has a caption" in dataset.skipped[0].reason


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(st.lists(st.tuples(words.filter(str.strip), words), min_size=1, max_size=5))
def test_what_a_csv_writer_writes_is_read_back(rows):
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("File", " Caption "), *rows])
    read = list(csv_rows(stream.getvalue(), "captions.csv"))
    assert [(row.first(("file",)), row.first(("caption",)) or "") for row in read] == rows


@given(st.lists(st.dictionaries(st.sampled_from(["file", "caption"]), words.filter(bool), min_size=1), max_size=5))
def test_what_a_json_writer_writes_is_read_back(rows):
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert [row.values for row in json_rows(text)] == rows


@given(st.text(max_size=200))
def test_no_text_breaks_the_tables(text):
    for read in (lambda: list(csv_rows(text, "captions.csv")), lambda: list(json_rows(text))):
        try:
            rows = read()
        except TrainingError:
            continue
        assert all(row.problem or row.values for row in rows)


@given(st.text())
def test_a_caption_is_one_line_that_utf_8_can_hold_or_refused(text):
    try:
        caption = fold(text)
    except UnusableVideo:
        return
    caption.encode()
    assert caption == " ".join(caption.split())


# What can be wrong with a video


def _cut(data, share):
    return data[: int(len(data) * share)]


DAMAGED = {
    "a text file": lambda path: path.write_text("not a video"),
    "an empty file": lambda path: path.touch(),
    "a playlist": lambda path: path.write_text("ffconcat version 1.0\nfile good.mp4\n"),
    "cut off, index at the end": lambda path: path.write_bytes(_cut(write_video(path).read_bytes(), 0.8)),
    "cut off, index first": lambda path: path.write_bytes(
        _cut(write_video(path, frames=noisy_frames(12), movflags="faststart").read_bytes(), 0.8)
    ),
    "no video track": write_audio,
    "one frame": lambda path: write_video(path, 1),
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "too wide": lambda path: write_video(path, 2, size=(8208, 16)),
}


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
def test_a_video_that_cannot_be_used_is_named_and_skipped(folder, make):
    write_video(folder / "good.mp4")
    make(folder / "bad.mp4")
    dataset = scan(folder, num_frames=9)
    assert list(captions(dataset)) == ["good.mp4"]
    assert list(reasons(dataset.skipped)) == ["bad.mp4"]


def test_reasons_tell_what_is_wrong(folder):
    for name in ("no video track", "one frame", "a pipe", "too wide", "cut off, index first"):
        DAMAGED[name](folder / f"{name}.mp4")
    (folder / "old.avi").touch()
    with pytest.raises(TrainingError, match="No video in “data” can be used"):
        scan(folder)
    write_video(folder / "good.mp4")
    found = reasons(scan(folder).skipped)
    assert found == {
        "a pipe.mp4": "is not a file",
        "cut off, index first.mp4": "is cut off",
        "no video track.mp4": "has no video track",
        "old.avi": "is AVI, which is not read: convert it to MP4",
        "one frame.mp4": "has a single frame",
        "too wide.mp4": "has 8208×16 pixels, more than 8192×4320",
    }


def test_damage_in_the_middle_is_found_where_it_is_read(folder):
    write_video(folder / "a.mp4", frames=noisy_frames(40), options={"g": "10"})
    damage_the_middle(folder / "a.mp4")
    [item] = scan(folder).items
    outcomes = []
    for seed in range(20):
        try:
            outcomes.append(int(window(item, seed=seed).indices[0]))
        except UnusableVideo as err:
            outcomes.append(err.message)
    assert 0 < sum(isinstance(outcome, str) for outcome in outcomes) < 20


def test_what_leans_on_a_damaged_frame_is_not_trained_on(folder):
    frames = [np.roll(noisy_frames(1)[0], number, axis=1) for number in range(12)]
    path = write_video(folder / "a.mp4", frames=frames, codec="mpeg4", options={"g": "12"})
    [item] = scan(folder).items
    whole = decoded(path)
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][4]
    data = bytearray(path.read_bytes())
    data[place + 40 : place + 60] = bytes([255]) * 20
    path.write_bytes(data)
    painted = decoded(path)  # a player paints over frame 4 and goes on
    assert [np.array_equal(one, other) for one, other in zip(painted, whole, strict=True)] == [True] * 4 + [False] * 8
    for seed in range(20):
        start = random.Random(seed).randrange(10)
        if start <= 1:
            assert window(item, num_frames=3, seed=seed).indices[0] == start
        else:
            with pytest.raises(UnusableVideo):
                window(item, num_frames=3, seed=seed)


def decoded(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_no_damage_to_a_video_escapes(folder):
    rng = random.Random(0)
    sources = [
        write_video(folder / name, 24, **STREAMS[name]).read_bytes()
        for name in ("b-frames.mp4", "fragmented.mp4", "open-gop.mkv", "vp9.webm")
    ]
    outcomes = Counter()
    path = folder / "mutated.mp4"
    for _ in range(120):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randint(1, 8)):
            end = rng.choice((min(1500, len(data)), len(data)))  # more often in the header
            data[rng.randrange(end)] = rng.choice((0, 127, 255, rng.randrange(256)))
        path.write_bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
        try:
            window(VideoItem(path, "mutated.mp4", "", 0, 0, read_index(path)), num_outside=1)
            outcomes["read"] += 1
        except UnusableVideo:
            outcomes["refused"] += 1
    assert outcomes["read"] > 15 and outcomes["refused"] > 40


def test_a_folder_without_videos_is_told_what_was_looked_for(folder):
    (folder / "notes.docx").touch()
    with pytest.raises(TrainingError, match="There is no video in “data”") as caught:
        scan(folder)
    for word in ("captions.csv", "metadata.jsonl", "CATEGORY.csv", "MP4"):
        assert word in caught.value.hint


def test_a_folder_that_is_not_there_is_named(folder):
    with pytest.raises(TrainingError, match="no dataset folder “nowhere”"):
        scan(folder / "nowhere")


def test_only_the_first_frames_of_an_endless_video_count(folder):
    write_video(folder / "a.mp4", frames=[flat(0, (16, 16))] * (MAX_FRAMES + 5), size=(16, 16), codec="mpeg4")
    dataset = scan(folder)
    assert dataset.items[0].index.num_frames == MAX_FRAMES
    assert "its first 18,000 frames are used" in [note.reason for note in dataset.noted][1]


# Windows

STREAMS = {
    "h264.mp4": {},
    "b-frames.mp4": {"options": {"preset": "medium", "g": "12"}},
    "open-gop.mp4": {"options": {"preset": "medium", "x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "open-gop.mkv": {"options": {"preset": "medium", "x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "fragmented.mp4": {"movflags": "frag_keyframe+empty_moov", "options": {"g": "12"}},
    "hevc.mp4": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.mov": {"codec": "mpeg4"},
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_window_is_what_decoding_the_whole_video_gives(folder, name):
    frames = [flat(number, (64, 48)) for number in range(60)]
    for number, frame in enumerate(frames):
        frame[:, number : number + 4] = 255  # something that moves
    write_video(folder / name, frames=frames, **STREAMS[name])
    [item] = scan(folder).items
    whole = decoded(item.path)
    assert len(whole) == item.index.num_frames == 60
    for seed in range(12):
        read = window(item, seed=seed)
        expected = np.stack([resize(frame, read.crop, (48, 64)) for frame in whole[read.indices]])
        assert np.array_equal(np.diff(read.indices), np.ones(8))
        assert np.abs(read.frames.astype(int) - expected).max() <= 1  # swscale may round otherwise with more threads


def test_starts_reach_from_the_first_frame_to_the_last_window(folder):
    write_video(folder / "a.mp4", 12)
    [item] = scan(folder).items
    starts = {numbers(window(item, seed=seed).frames)[0] for seed in range(40)}
    assert starts == {0, 1, 2, 3}


def test_a_short_video_repeats_its_last_frame_and_is_noted(folder):
    write_video(folder / "a.mp4", 5)
    dataset = scan(folder, num_frames=9)
    assert "fills 5 of the 9 frames" in dataset.noted[1].reason
    assert numbers(window(dataset.items[0]).frames) == [0, 1, 2, 3, 4, 4, 4, 4, 4]


def test_frames_are_resampled_by_time(folder):
    write_video(folder / "a.mp4", 30, fps=24)
    dataset = scan(folder, num_frames=9, fps=8)
    assert dataset.noted[1].reason == "has 24 fps, read at 8"
    for seed in range(5):
        picked = numbers(window(dataset.items[0], fps=8, seed=seed).frames)
        assert np.diff(picked).tolist() == [3] * 8
        assert picked[-1] <= 29


def test_a_slower_video_repeats_frames_evenly(folder):
    write_video(folder / "a.mp4", 12, fps=12)
    dataset = scan(folder, num_frames=9, fps=24)
    assert "12 fps, fewer than 24: frames are repeated" in dataset.noted[1].reason
    picked = numbers(window(dataset.items[0], fps=24).frames)
    assert max(np.diff(picked)) <= 1 and picked[-1] - picked[0] == 4


def test_a_video_of_the_wanted_rate_is_read_frame_by_frame(folder):
    write_video(folder / "a.mp4", 20, fps=Fraction(24000, 1001))
    dataset = scan(folder, num_frames=9, fps=24)
    assert len(dataset.noted) == 1  # the missing caption only
    for seed in range(8):
        assert np.diff(numbers(window(dataset.items[0], fps=24, seed=seed).frames)).tolist() == [1] * 8


def test_frames_of_uneven_length_are_picked_by_the_clock(folder):
    times = [0, 1, 2, 3, 10, 11, 20, 21, 22, 30]
    write_video(folder / "a.mp4", 10, times=times, fps=10)
    [item] = scan(folder, num_frames=4, fps=1).items
    assert numbers(window(item, num_frames=4, fps=1).frames) == [0, 4, 6, 9]
    assert np.diff(numbers(window(item, num_frames=4).frames)).tolist() == [1] * 3


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_video_filmed_sideways_is_turned_upright(folder, rotation):
    picture = flat(10, (64, 48))
    picture[:8] = 255  # a white bar at the top of what is stored
    write_video(folder / "a.mp4", frames=[picture] * 4, rotation=rotation)
    [item] = scan(folder).items
    upright = (48, 64) if rotation == 180 else (64, 48)
    assert (item.index.height, item.index.width) == upright
    frame = window(item, num_frames=2, size=upright).frames[0].astype(int)
    bright = {90: frame[:, 0], 180: frame[-1], -90: frame[:, -1]}[rotation]  # counterclockwise: the top goes left
    assert bright.mean() > 180 > frame.mean()


def test_frames_from_outside_are_never_of_the_window(folder):
    write_video(folder / "a.mp4", 14)
    [item] = scan(folder).items
    for seed in range(10):
        read = window(item, seed=seed, num_outside=2)
        assert read.outside.shape == (2, 48, 64, 3)
        assert not set(numbers(read.outside)) & set(numbers(read.frames))


def test_a_video_without_more_frames_has_none_outside(folder):
    write_video(folder / "a.mp4", 9)
    [item] = scan(folder).items
    assert window(item, num_outside=2).outside.shape == (0, 48, 64, 3)


def test_the_same_seed_reads_the_same_window(folder):
    write_video(folder / "a.mp4", frames=noisy_frames(20))
    [item] = scan(folder).items
    first, second, other = window(item, seed=1), window(item, seed=1), window(item, seed=2)
    assert np.array_equal(first.frames, second.frames)
    assert not np.array_equal(first.frames, other.frames)


def test_odd_sizes_are_read(folder):
    write_video(folder / "a.webm", 9, size=(51, 37), codec="libvpx-vp9")
    [item] = scan(folder).items
    assert numbers(window(item, size=(32, 32)).frames) == list(range(9))


# Crops

sides = st.integers(16, 4000)


@given(sides, sides, sides, sides, st.integers())
def test_a_crop_has_the_aspect_and_thirteen_fourteenths_of_the_limiting_side(width, height, tall, wide, seed):
    crop = random_crop(width, height, (tall, wide), random.Random(seed))
    assert crop.width / crop.height == pytest.approx(wide / tall)
    assert 13 / 14 - 1e-9 <= max(crop.width / width, crop.height / height) <= 1
    assert crop.left >= 0 and crop.top >= 0
    assert crop.left + crop.width <= width + 1e-6 and crop.top + crop.height <= height + 1e-6


@given(sides, sides, st.integers())
def test_every_crop_can_be_resized(width, height, seed):
    pixels = np.zeros((height, 1, 3), np.uint8) if width > 99 else np.zeros((height, width, 3), np.uint8)
    crop = random_crop(pixels.shape[1], height, (16, 32), random.Random(seed))
    assert resize(pixels, crop, (16, 32)).shape == (16, 32, 3)


def test_shares_and_positions_of_crops_are_uniform():
    rng = random.Random(0)
    crops = [random_crop(1920, 1080, (480, 832), rng) for _ in range(4000)]
    shares = np.array([(crop.height / 1080 - 13 / 14) * 14 for crop in crops])
    lefts = np.array([crop.left / (1920 - crop.width) for crop in crops])
    tops = np.array([crop.top / (1080 - crop.height) for crop in crops])
    for values in (shares, lefts, tops):  # in [0, 1]; a standard error of a decile's share is 0.005
        counts, _ = np.histogram(values, bins=10, range=(0, 1))
        assert counts.sum() == 4000
        assert np.abs(counts / 4000 - 0.1).max() < 0.025


def test_resizing_keeps_what_the_box_frames():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    resized = resize(np.ascontiguousarray(ramp), Crop(left=50, top=10, width=100, height=50), (25, 50))
    middles = 50 + (np.arange(50) + 0.5) * 2 - 0.5
    assert np.abs(resized[12, 2:-2, 0] - middles[2:-2]).max() <= 1


def test_the_whole_picture_at_its_own_size_is_untouched():
    picture = noisy_frames(1)[0]
    assert np.array_equal(resize(picture, Crop(0, 0, 64, 48), (48, 64)), picture)
