"""Pictures that are valid, broken, hostile or oddly named, made from a seed. Nothing is downloaded.

`python -m tests.corpus FOLDER --count 1000` writes the full set; CI uses a smaller count. The fixed cases come first,
the rest is filled with truncations (1 to 99 %) and bit flips of the valid ones.
"""

import argparse
import io
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

Verdict = Literal["accepted", "refused", "either"]
WIDTH, HEIGHT = 96, 72
PNG_MARK = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Case:
    path: Path
    verdict: Verdict


def generate(folder: Path, count: int = 200, seed: int = 0) -> list[Case]:
    """Write at least `count` files below `folder` and say what the importer owes each."""
    folder.mkdir(parents=True, exist_ok=True)
    valid = dict(_valid())
    cases = [_write(folder, name, data, "accepted") for name, data in valid.items()]
    cases += [_write(folder, name, data, verdict) for name, data, verdict in _disguised(valid)]
    cases += [_write(folder, name, data, "refused") for name, data in _refused()]
    cases += _named_oddly(folder, valid["rgb.png"])
    cases += [_write(folder, name, data, verdict) for name, data, verdict in _damaged(valid, count - len(cases), seed)]
    return cases


def picture(mode: str = "RGB", width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A smooth, asymmetric picture: red grows to the right, green downwards, blue is high in the top left."""
    y, x = np.mgrid[:height, :width]
    red, green = 255 * x / width, 255 * y / height
    blue = 255 * ((x < width / 3) & (y < height / 3))
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int, colour: int, row: bytes, extra: bytes = b"") -> bytes:
    """A PNG of `height` equal rows, compressed row by row so that a bomb costs no memory here."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    squeeze = zlib.compressobj(1)
    body = b"".join(squeeze.compress(b"\0" + row) for _ in range(height)) + squeeze.flush()
    return PNG_MARK + png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def with_png_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """`data` with one more chunk right after its header."""
    header_end = 8 + 25
    return data[:header_end] + png_chunk(kind, body) + data[header_end:]


def _many_chunks(data: bytes, count: int) -> bytes:
    return data[:33] + png_chunk(b"teSt", b"") * count + data[33:]


def swapped_profile() -> bytes:
    """A small valid RGB profile that is not sRGB: its red and green primaries are exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "SWAP".encode("utf-16-be"))
    return profile.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")


def oriented_jpeg(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), "JPEG", quality=95, subsampling=0, exif=exif)


def _valid() -> Iterator[tuple[str, bytes]]:
    rgb = picture()
    alpha = picture("RGBA")
    alpha.putalpha(picture("L"))
    grey16 = np.tile(np.linspace(0, 65535, WIDTH).astype(np.uint16), (HEIGHT, 1))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "rgb.png", encoded(rgb, "PNG")
    yield "rgba.png", encoded(alpha, "PNG")
    yield "grey.png", encoded(picture("L"), "PNG")
    yield "grey-alpha.png", encoded(alpha.convert("LA"), "PNG")
    yield "one-bit.png", encoded(picture("1"), "PNG")
    yield "palette.png", encoded(rgb.quantize(16), "PNG")
    yield "palette-transparent.png", encoded(rgb.quantize(16), "PNG", transparency=3)
    yield "rgb-transparent-colour.png", encoded(rgb, "PNG", transparency=(0, 0, 255))
    yield "grey16.png", encoded(Image.fromarray(grey16), "PNG")
    yield "rgb16.png", png(WIDTH, HEIGHT, depth=16, colour=2, row=bytes(range(WIDTH)) * 6)
    yield "rgba16.png", png(WIDTH, HEIGHT, depth=16, colour=6, row=bytes(range(WIDTH)) * 8)
    yield "four-to-one.png", encoded(picture(width=256, height=64), "PNG")
    yield "srgb-profile.png", encoded(rgb, "PNG", icc_profile=profile)
    yield "swapped-profile.png", encoded(rgb, "PNG", icc_profile=swapped_profile())
    yield "broken-profile.png", encoded(rgb, "PNG", icc_profile=b"not a profile" * 20)
    yield "grey-with-rgb-profile.png", encoded(picture("L"), "PNG", icc_profile=profile)
    yield "baseline.jpg", encoded(rgb, "JPEG")
    yield "progressive.jpg", encoded(rgb, "JPEG", progressive=True)
    yield "grey.jpg", encoded(picture("L"), "JPEG")
    yield "cmyk.jpg", encoded(picture("CMYK"), "JPEG")
    yield "profile.jpg", encoded(rgb, "JPEG", icc_profile=swapped_profile())
    yield "large-profile.jpg", encoded(rgb, "JPEG", icc_profile=profile + bytes(2_000_000))
    yield "broken-exif.jpg", encoded(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk")
    for orientation in range(9):
        yield f"orientation-{orientation}.jpg", oriented_jpeg(orientation)
    yield "lossy.webp", encoded(rgb, "WEBP")
    yield "lossless.webp", encoded(rgb, "WEBP", lossless=True)
    yield "alpha.webp", encoded(alpha, "WEBP", exif=picture().getexif())
    yield "two-pictures.jpg", encoded(rgb, "MPO", save_all=True, append_images=[rgb.rotate(180)])


def _disguised(valid: dict[str, bytes]) -> Iterator[tuple[str, bytes, Verdict]]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as entries:
        entries.writestr("payload.txt", "hello")
    page = b"<html><script>alert(1)</script></html>"
    yield "really-a-png.jpg", valid["rgb.png"], "accepted"
    yield "really-a-jpeg.webp", valid["baseline.jpg"], "accepted"
    yield "really-a-webp.txt", valid["lossy.webp"], "accepted"
    yield "png-and-zip.png", valid["rgb.png"] + archive.getvalue(), "accepted"
    yield "jpeg-and-zip.jpg", valid["baseline.jpg"] + archive.getvalue(), "accepted"
    yield "jpeg-and-page.jpg", valid["baseline.jpg"] + page, "accepted"
    yield "png-with-page.png", with_png_chunk(valid["rgb.png"], b"tEXt", b"Comment\0" + page), "accepted"
    yield "webp-and-page.webp", valid["lossy.webp"] + page, "either"
    yield "zip-before-png.png", archive.getvalue() + valid["rgb.png"], "refused"
    yield "gif-script.gif", b"GIF89a/*" + b"\0" * 32 + b"*/=1;" + valid["rgb.png"], "refused"
    yield "png-mark-only.png", PNG_MARK, "refused"
    yield "png-mark-then-jpeg.png", PNG_MARK + valid["baseline.jpg"], "refused"
    yield "jpeg-mark-only.jpg", b"\xff\xd8\xff", "refused"
    yield "riff-wave.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(64), "refused"
    bomb = b"a\0\0" + zlib.compress(bytes(70_000_000), 9)
    yield "text-bomb.png", with_png_chunk(valid["rgb.png"], b"zTXt", bomb), "refused"
    yield "profile-bomb.png", with_png_chunk(valid["rgb.png"], b"iCCP", bomb), "refused"
    yield "many-chunks.png", _many_chunks(valid["rgb.png"], 20_000), "accepted"
    yield "unknown-critical-chunk.png", with_png_chunk(valid["rgb.png"], b"TEST", b"x"), "either"
    second_header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    yield "two-headers.png", with_png_chunk(valid["rgb.png"], b"IHDR", second_header), "either"


def _refused() -> Iterator[tuple[str, bytes]]:
    rgb, other = picture(), picture().rotate(180)
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"/>'
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    yield "empty.png", b""
    yield "one-byte.jpg", b"\xff"
    yield "zeros.png", bytes(1000)
    yield "text.png", b"Once upon a time" * 10
    yield "svg.png", svg
    yield "drawing.svg", svg
    yield "page.webp", b"<!doctype html><img src=x>"
    yield "animation.gif", encoded(rgb, "GIF", save_all=True, append_images=[other])
    yield "still.gif", encoded(rgb, "GIF")
    yield "picture.tiff", encoded(rgb, "TIFF")
    yield "picture.bmp", encoded(rgb, "BMP")
    yield "picture.ico", encoded(rgb, "ICO")
    yield "picture.ppm", encoded(rgb, "PPM")
    yield "picture.jp2", encoded(rgb, "JPEG2000")
    yield "picture.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 72\n"
    yield "paper.pdf", b"%PDF-1.7\n" + bytes(100)
    yield "photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    yield "photo.avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(100)
    yield "clip.png", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(100)
    yield "playlist.png", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    yield "concat.png", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "animated.webp", encoded(rgb, "WEBP", save_all=True, append_images=[other], duration=100)
    yield "animated.png", encoded(rgb, "PNG", save_all=True, append_images=[other], duration=100)
    yield "tall-line.png", png(1, 65535, depth=1, colour=0, row=b"\0")
    yield "wide-line.png", png(65535, 1, depth=1, colour=0, row=bytes(8192))
    yield "one-pixel.png", encoded(picture(width=1, height=1), "PNG")
    yield "too-small.jpg", encoded(picture(width=63, height=63), "JPEG")
    yield "too-wide.png", encoded(picture(width=257, height=64), "PNG")
    yield "too-tall.webp", encoded(picture(width=64, height=257), "WEBP")
    yield "bomb.png", png(30000, 30000, depth=1, colour=0, row=bytes(3750))
    yield "just-over-40-megapixels.png", png(8000, 5001, depth=1, colour=0, row=bytes(1000))
    yield "enormous-header.png", PNG_MARK + png_chunk(b"IHDR", header) + png_chunk(b"IEND", b"")
    yield "no-pixels.png", encoded(rgb, "PNG")[:33] + png_chunk(b"IEND", b"")
    yield "zero-sides.png", png(0, 0, depth=8, colour=2, row=b"")
    yield "wrong-checksum.png", encoded(rgb, "PNG")[:-16] + bytes(4) + encoded(rgb, "PNG")[-12:]
    yield "over-25-megabytes.png", encoded(rgb, "PNG") + bytes(25_000_000)
    canvas = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + b"\xff\x3f\0" * 2 + bytes(8)
    yield "huge-canvas.webp", b"RIFF" + struct.pack("<I", len(canvas)) + canvas


def _named_oddly(folder: Path, data: bytes) -> list[Case]:
    names = [
        "-rf.png",
        "--help",
        "two\nlines.png",
        "$(touch x) `y` ;&|.png",
        "100%d %s {0}.png",
        "quote'\"\\.png",
        "right-\u202egnp.to-left.png",
        "日本語 🎬.png",
        "a" * 251 + ".png",
        " leading space.png",
        "concat:a|b.png",
        os.fsdecode(b"not-utf8-\xff\xfe.png"),
    ]
    return [_write(folder / "odd names", name, data, "accepted") for name in names]


def _damaged(valid: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes, Verdict]]:
    """Alternate truncations and bit flips over the valid pictures. A flip may hit nothing that matters: "either"."""
    rng = random.Random(seed)
    names = sorted(valid)
    for number in range(max(0, count)):
        name = names[number % len(names)]
        data = bytearray(valid[name])
        kind = number // len(names) % 3
        if kind == 0:
            percent = rng.randint(1, 99)
            length = len(data) * percent // 100
            # The first of two pictures may be whole, and so is a PNG that lost no more than its last checksum.
            whole = name == "two-pictures.jpg" or len(data) - length <= 4
            yield f"cut-{number}-{percent}-{name}", bytes(data[:length]), "either" if whole else "refused"
            continue
        reach = min(len(data), 64) if kind == 1 else len(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        yield f"flip-{number}-{'header' if kind == 1 else 'body'}-{name}", bytes(data), "either"


def _write(folder: Path, name: str, data: bytes, verdict: Verdict) -> Case:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return Case(path, verdict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cases = generate(arguments.folder, arguments.count, arguments.seed)
    print(f"{len(cases)} files in {arguments.folder}")


if __name__ == "__main__":
    main()
