"""Pictures: the strict import against a generated corpus, fitting, lossless storage, statistics."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from engine.domain import Resolution
from engine.errors import InputError, ProjectCorrupt, ProjectError
from engine.media import image, importer
from tests import corpus

CORPUS_SIZE = int(os.environ.get("CORPUS_SIZE", "300"))


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """(case, answer, imported file) for every corpus file, put through one child process."""
    folder = tmp_path_factory.mktemp("corpus")
    cases = corpus.generate(folder / "in", CORPUS_SIZE)
    outputs = [folder / f"{number}.png" for number in range(len(cases))]
    answers = image._answers([(case.path, output) for case, output in zip(cases, outputs, strict=True)])
    return list(zip(cases, answers, outputs, strict=True))


@pytest.fixture
def imported(tmp_path):
    """Write bytes, import them through the public function, return the pixels."""

    def run(data: bytes) -> np.ndarray:
        (tmp_path / "upload").write_bytes(data)
        image.import_image(tmp_path / "upload", tmp_path / "clean.png")
        return image.load(tmp_path / "clean.png")

    return run


def test_the_corpus_has_enough_files(answered):
    assert len(answered) >= 200


def test_no_corpus_file_stops_the_reader_or_takes_too_long(answered):
    stopped = (image.STOPPED[0], image.TOO_SLOW[0])
    assert [case.path.name for case, answer, _ in answered if answer.get("refused") in stopped] == []


def test_every_corpus_file_meets_its_verdict(answered):
    wrong = [
        (case.path.name, answer)
        for case, answer, _ in answered
        if case.verdict != "either" and (case.verdict == "accepted") != ("width" in answer)
    ]
    assert wrong == []


def test_every_refusal_says_what_happened_and_what_to_do(answered):
    refusals = [answer for _, answer, _ in answered if "width" not in answer]
    assert len(refusals) > 50
    for answer in refusals:
        assert answer["refused"].endswith(".") and answer["hint"].endswith("."), answer
        assert "/" not in answer["refused"], "a refusal shows no path"


def test_every_accepted_file_becomes_a_bare_8_bit_rgb_png(answered):
    accepted = [(answer, output) for _, answer, output in answered if "width" in answer]
    assert len(accepted) > 50
    for answer, output in accepted:
        data = output.read_bytes()
        assert (answer["size_bytes"], answer["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        with Image.open(output) as stored:
            stored.load()
            assert (stored.format, stored.mode, stored.info) == ("PNG", "RGB", {})
            assert stored.size == (answer["width"], answer["height"])
        assert {data[12:16], data[37:41]} == {b"IHDR", b"IDAT"}


def test_import_describes_what_it_stored(tmp_path):
    (tmp_path / "photo.webp").write_bytes(corpus.encoded(corpus.picture(), "JPEG"))
    info = image.import_image(tmp_path / "photo.webp", tmp_path / "anchor.png")
    data = (tmp_path / "anchor.png").read_bytes()
    assert info == image.ImageInfo(96, 72, "JPEG", len(data), hashlib.sha256(data).hexdigest())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["anchor.png", "photo.webp"]


def test_the_same_picture_imports_to_the_same_bytes(tmp_path):
    (tmp_path / "a").write_bytes(corpus.encoded(corpus.picture(), "PNG"))
    first, second = (image.import_image(tmp_path / "a", tmp_path / name) for name in ("1.png", "2.png"))
    assert first == second


def test_a_refused_upload_leaves_the_old_picture_and_no_part(tmp_path):
    (tmp_path / "anchor.png").write_bytes(b"the old one")
    (tmp_path / "upload.png").write_bytes(b"<svg/>")
    with pytest.raises(InputError) as refusal:
        image.import_image(tmp_path / "upload.png", tmp_path / "anchor.png")
    assert refusal.value.message == "This file is an SVG drawing, which we do not read."
    assert refusal.value.hint == "Use a PNG, JPEG or WebP picture, up to 25 MB and 40 megapixels."
    assert (tmp_path / "anchor.png").read_bytes() == b"the old one"
    assert not (tmp_path / "anchor.png.part").exists()


def test_a_missing_destination_folder_is_an_os_error_not_a_refusal(tmp_path):
    (tmp_path / "a.png").write_bytes(corpus.encoded(corpus.picture(), "PNG"))
    with pytest.raises(FileNotFoundError):
        image.import_image(tmp_path / "a.png", tmp_path / "absent" / "anchor.png")


def test_only_regular_files_are_read(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    device = tmp_path / "device.png"
    device.symlink_to("/dev/zero")
    sources = [tmp_path, fifo, device, tmp_path / "absent.png", tmp_path / "nul\0name.png"]
    answers = image._answers([(source, tmp_path / "out.png") for source in sources])
    assert [answer["refused"] for answer in answers] == ["This is not a file."] * 3 + [
        "This file could not be opened."
    ] * 2


def test_a_child_that_never_answers_is_a_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(importer, "TIMEOUT_S", 0.001)
    (tmp_path / "a.png").write_bytes(corpus.encoded(corpus.picture(), "PNG"))
    with pytest.raises(InputError, match="took too long"):
        image.import_image(tmp_path / "a.png", tmp_path / "b.png")
    assert not (tmp_path / "b.png.part").exists()


def test_the_child_cannot_take_more_memory_than_allowed():
    pytest.importorskip("resource")
    script = f"import runpy; m = runpy.run_path({importer.__file__!r}); m['limit_resources'](1); bytearray(2 * 10**9)"
    child = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True)
    assert b"MemoryError" in child.stderr


def test_the_child_starts_without_numpy_torch_or_our_packages():
    child = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", importer.__file__],
        input=b'[["absent", "x"]]',
        capture_output=True,
        check=True,
    )
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in child.stderr.decode().splitlines()}
    assert "PIL" in loaded
    assert loaded & {"numpy", "torch", "gradio", "av", "engine"} == set()


def test_many_small_chunks_are_refused_at_once(tmp_path):
    data = corpus.encoded(corpus.picture(), "PNG")
    (tmp_path / "a.png").write_bytes(data[:33] + corpus.png_chunk(b"teSt", b"") * 200_000 + data[33:])
    with pytest.raises(InputError):
        image.import_image(tmp_path / "a.png", tmp_path / "b.png")


def test_all_exif_orientations_come_out_upright(imported):
    upright = np.array(corpus.picture())
    stored_as = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored_as.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = corpus.encoded(Image.fromarray(np.ascontiguousarray(pixels)), "PNG", exif=exif)
        np.testing.assert_array_equal(imported(data), upright, err_msg=f"orientation {orientation}")


def test_transparent_parts_become_white(imported):
    picture = corpus.picture("RGBA")
    picture.putalpha(Image.fromarray(np.where(np.arange(72)[:, None] < 36, 0, 255).astype(np.uint8).repeat(96, 1)))
    pixels = imported(corpus.encoded(picture, "PNG"))
    assert (pixels[:36] == 255).all()
    np.testing.assert_array_equal(pixels[36:], np.array(corpus.picture())[36:])


def test_16_bit_grey_keeps_its_full_range(imported):
    ramp = np.tile(np.linspace(0, 65535, 96).astype(np.uint16), (72, 1))
    pixels = imported(corpus.encoded(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(pixels[..., 0], ramp >> 8)


def test_a_colour_profile_is_applied(imported):
    plain = corpus.encoded(corpus.picture(), "PNG")
    swapped = corpus.encoded(corpus.picture(), "PNG", icc_profile=corpus.swapped_profile())
    # Exchanged primaries exchange the channels; two levels for rounding in the profile's matrix.
    difference = imported(swapped)[..., [1, 0, 2]].astype(int) - imported(plain)
    assert np.abs(difference).max() <= 2


def test_cmyk_comes_close_to_its_colours(imported):
    pixels = imported(corpus.encoded(corpus.picture("CMYK"), "JPEG", quality=95))
    error = np.abs(pixels.astype(int) - np.array(corpus.picture().convert("CMYK").convert("RGB")))
    assert error.mean() < 4  # JPEG loss


def test_png_storage_is_lossless_and_repeatable(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    image.save_png(pixels, tmp_path / "a.png")
    image.save_png(pixels, tmp_path / "b.png")
    np.testing.assert_array_equal(image.load(tmp_path / "a.png"), pixels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_jpeg_storage_is_close(tmp_path):
    pixels = np.array(corpus.picture())
    image.save_jpeg(pixels, tmp_path / "a.jpg")
    assert np.abs(image.load(tmp_path / "a.jpg").astype(int) - pixels).mean() < 3


def test_a_damaged_or_missing_picture_is_named(tmp_path):
    (tmp_path / "tail.png").write_bytes(corpus.encoded(corpus.picture(), "PNG")[:200])
    with pytest.raises(ProjectCorrupt, match=r"tail\.png is damaged"):
        image.load(tmp_path / "tail.png")
    with pytest.raises(ProjectError, match=r"absent\.png is missing"):
        image.load(tmp_path / "absent.png")


@pytest.mark.parametrize("size", [(96, 72), (720, 480), (100, 400), (833, 481), (64, 64)])
def test_fit_gives_the_asked_size(size):
    width, height = size
    pixels = np.array(corpus.picture(width=width, height=height))
    fitted = image.fit(pixels, Resolution(96, 64))
    assert fitted.shape == (64, 96, 3) and fitted.dtype == np.uint8
    np.testing.assert_array_equal(fitted, image.fit(pixels, Resolution(96, 64)))


def test_fit_keeps_a_picture_that_has_the_size_already():
    pixels = np.array(corpus.picture(width=96, height=64))
    np.testing.assert_array_equal(image.fit(pixels, Resolution(96, 64)), pixels)


def test_fit_only_squashes_when_less_than_16_pixels_overhang():
    pixels = np.array(corpus.picture(width=110, height=64))  # 14 pixels wider than the target
    expected = np.array(Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(image.fit(pixels, Resolution(96, 64)), expected)


def test_fit_crops_both_sides_equally_and_nothing_else():
    pixels = np.array(corpus.picture(width=136, height=64))  # 40 pixels wider than the target
    np.testing.assert_array_equal(image.fit(pixels, Resolution(96, 64)), pixels[:, 20:-20])


def test_thumbnails_shrink_but_never_grow():
    pixels = np.array(corpus.picture())
    assert image.thumbnail(pixels, 48).shape == (36, 48, 3)
    assert image.thumbnail(pixels, 320).shape == (72, 96, 3)


@pytest.mark.parametrize(
    ("colour", "word"),
    [
        ((200, 30, 30), "red"), ((240, 140, 40), "orange"), ((110, 70, 30), "brown"), ((240, 230, 40), "yellow"),
        ((40, 160, 60), "green"), ((20, 170, 170), "teal"), ((40, 80, 220), "blue"), ((150, 50, 220), "purple"),
        ((240, 80, 180), "pink"), ((250, 250, 250), "white"), ((128, 128, 128), "grey"), ((8, 8, 8), "black"),
    ],
)  # fmt: skip
def test_a_plain_colour_is_called_by_its_name(colour, word):
    assert image.statistics(np.full((64, 64, 3), colour, np.uint8)).colours == (word,)


def test_statistics_order_pictures_as_eyes_do():
    night = image.statistics(np.full((64, 64, 3), (10, 12, 30), np.uint8))
    fire = image.statistics(np.full((64, 64, 3), (230, 120, 20), np.uint8))
    fog = image.statistics(np.full((64, 64, 3), 200, np.uint8))
    assert night.brightness < fire.brightness < fog.brightness
    assert night.warmth < 0 < fire.warmth
    assert fog.saturation == 0 < fire.saturation
    checks = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8)))[..., None].repeat(3, -1) * 255
    assert image.statistics(checks.astype(np.uint8)).contrast == 1.0 > fog.contrast


def test_dominant_colours_come_most_frequent_first():
    pixels = np.full((64, 64, 3), (40, 80, 220), np.uint8)
    pixels[:20] = (40, 160, 60)
    pixels[:2, :2] = (250, 0, 0)
    assert image.statistics(pixels).colours == ("blue", "green")
