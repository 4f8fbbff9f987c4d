"""Turn one untrusted picture into a clean 8-bit sRGB PNG. Run as a script, in a child process with limits.

Imports only the standard library and PIL, so that a child starts in about 0.1 s. Reads a JSON list of
[source, destination] pairs from stdin and writes one JSON object a pair to stdout. `image.import_image` is the way in.
Alpha is laid over white: what a viewer or a printed page shows, and closer to the models' training pictures than grey.
"""

import hashlib
import io
import json
import os
import stat
import sys
import warnings

from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401 (plugins, by hand)

MAX_BYTES = 25_000_000
MAX_PIXELS = 40_000_000
MIN_SIDE, MAX_SIDE = 64, 16384
MAX_ASPECT = 4
MAX_PROFILE_BYTES = 1_000_000
MAX_PNG_CHUNKS = 50_000
TIMEOUT_S = 20
MEMORY_BYTES = 1_500_000_000  # a 40-megapixel WebP with alpha peaks at 0.9 GB

READABLE = "Use a PNG, JPEG or WebP picture, up to 25 MB and 40 megapixels."
DAMAGED = ("This picture is damaged or cut off.", "Download or export it again, then upload it.")
UNREADABLE = ("This file is not an image we can read.", READABLE)
TOO_HEAVY = ("This picture needs more memory than an import may use.", "Save it smaller or as a plain JPEG.")
TOO_LARGE = ("This picture has more than 40 megapixels.", "Scale it down, then upload it again.")

OTHER_FORMATS = (
    (0, b"GIF8", "a GIF"),
    (0, b"II*\x00", "a TIFF"),
    (0, b"MM\x00*", "a TIFF"),
    (0, b"%PDF", "a PDF"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftypheic", "a HEIC photo"),
    (4, b"ftypheix", "a HEIC photo"),
    (4, b"ftypmif1", "a HEIC photo"),
    (4, b"ftyp", "a video"),
)

# EXIF orientation → how to turn the stored pixels upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Refused(Exception):
    """args: (what happened, what to do)."""


def convert(source: str, destination: str) -> dict:
    """Validate `source`, write it to `destination` as an 8-bit RGB PNG without metadata, and describe the result."""
    data = read(source)
    source_format = recognise(data)
    try:
        picture = open_checked(data, source_format)
        pixels = to_rgb(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as err:
        raise Refused(*TOO_LARGE) from err
    except MemoryError as err:
        raise Refused(*TOO_HEAVY) from err
    except Refused:
        raise
    except Exception as err:  # decoders raise OSError, SyntaxError, ValueError, struct.error, … on hostile files
        raise Refused(*DAMAGED) from err
    written = save(pixels, destination)
    return {
        "width": pixels.width,
        "height": pixels.height,
        "source_format": source_format,
        "size_bytes": len(written),
        "sha256": hashlib.sha256(written).hexdigest(),
    }


def read(source: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise Refused("This is not a file.", READABLE)
        with open(source, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as err:
        raise Refused("This file could not be opened.", "Upload it again.") from err
    if not data:
        raise Refused("This file is empty.", "Upload the picture again.")
    if len(data) > MAX_BYTES:
        raise Refused("This picture has more than 25 MB.", "Save it smaller or as JPEG, then upload it again.")
    return data


def recognise(data: bytes) -> str:
    """The format told by the content alone, or a refusal that names what the file is."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    for offset, mark, name in OTHER_FORMATS:
        if data.startswith(mark, offset):
            raise Refused(f"This file is {name}, which we do not read.", READABLE)
    if b"<svg" in data[:4096].lower():
        raise Refused("This file is an SVG drawing, which we do not read.", READABLE)
    raise Refused(*UNREADABLE)


def open_checked(data: bytes, source_format: str) -> Image.Image:
    """The opened picture after every check that needs only headers, and PNG's checksums."""
    if source_format == "PNG":
        refuse_countless_chunks(data)
    picture = Image.open(io.BytesIO(data), formats=[source_format])
    width, height = picture.size
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise Refused(
            f"This picture is {width}×{height} pixels; each side must be {MIN_SIDE} to {MAX_SIDE:,}.",
            "Scale it, then upload it again.",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Refused(
            f"This picture is {width}×{height} pixels; the long side may be at most {MAX_ASPECT} times the short one.",
            "Crop it, then upload it again.",
        )
    # A JPEG with several pictures (format MPO: phones store a depth or gain map) counts as its first one.
    if source_format != "JPEG" and getattr(picture, "n_frames", 1) != 1:
        raise Refused("This picture is animated.", "Save one frame of it as PNG, JPEG or WebP.")
    if source_format == "PNG":
        picture.verify()
        picture = Image.open(io.BytesIO(data), formats=["PNG"])
    if source_format == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise Refused(*DAMAGED)
    return picture


def refuse_countless_chunks(data: bytes) -> None:
    """25 MB of empty chunks would keep Pillow busy for 12 s; an honest file of that size has a few thousand."""
    at = 8
    for _ in range(MAX_PNG_CHUNKS):
        if at >= len(data) or data[at + 4 : at + 8] == b"IEND":
            return
        at += int.from_bytes(data[at : at + 4]) + 12
    raise Refused(*DAMAGED)


def to_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    turn = UPRIGHT.get(orientation(picture))
    profile = picture.info.get("icc_profile")
    if picture.mode in ("P", "PA") or (picture.mode in ("1", "L", "RGB") and "transparency" in picture.info):
        picture = picture.convert("RGBA")
    alpha = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else None
    if picture.mode.startswith("I"):  # 16-bit grey: convert() alone would clip everything above 255 to white
        picture = picture.point(lambda value: value * (1 / 256) + 0)
    opaque = {"LA": "L", "RGBA": "RGB", "CMYK": "CMYK", "L": "L", "1": "L"}.get(picture.mode)
    if opaque is None:
        opaque = "L" if picture.mode.startswith("I") else "RGB"
    colours = to_srgb(picture.convert(opaque), profile)
    if alpha is not None:
        paper = Image.new("RGB", colours.size, "white")
        paper.paste(colours, mask=alpha)
        colours = paper
    return colours.transpose(turn) if turn is not None else colours


def orientation(picture: Image.Image) -> int:
    try:
        return picture.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block is no reason to refuse the picture
        return 1


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert L, RGB or CMYK to RGB through its profile; one that is large, broken or for other channels is ignored."""
    if profile and len(profile) <= MAX_PROFILE_BYTES:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            channels = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[picture.mode]
            described = source.profile.profile_description or ""
            if source.profile.xcolor_space.strip() == channels and not described.startswith("sRGB"):
                return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return picture.convert("RGB")


def save(pixels: Image.Image, destination: str) -> bytes:
    """Write and sync; the caller removes a partial file and renames a whole one."""
    encoded = io.BytesIO()
    # A fresh image drops every chunk Pillow would carry over. Level 2: 40 megapixels in seconds, about 10 % larger.
    clean = Image.new("RGB", pixels.size)
    clean.paste(pixels)
    clean.save(encoded, "PNG", compress_level=2)
    with open(destination, "wb") as file:
        file.write(encoded.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    return encoded.getvalue()


def limit_resources(num_jobs: int) -> None:
    """Cap memory, CPU time, file size and core dumps. On Windows only the parent's timeout remains."""
    try:
        import resource
    except ImportError:
        return
    limits = (("AS", MEMORY_BYTES), ("CPU", TIMEOUT_S * num_jobs), ("FSIZE", 4 * MAX_PIXELS), ("CORE", 0))
    for name, limit in limits:
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
        except (AttributeError, ValueError, OSError):  # macOS refuses RLIMIT_AS
            continue


def answer(source: str, destination: str) -> dict:
    try:
        return convert(source, destination)
    except Refused as refusal:
        message, hint = refusal.args
        return {"refused": message, "hint": hint}
    except MemoryError:
        return {"refused": TOO_HEAVY[0], "hint": TOO_HEAVY[1]}
    except OSError as err:
        return {"errno": err.errno or 5}


def main() -> None:
    jobs = json.load(sys.stdin)
    limit_resources(len(jobs))
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    for source, destination in jobs:
        print(json.dumps(answer(source, destination)), flush=True)


if __name__ == "__main__":
    main()
