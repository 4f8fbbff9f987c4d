import numpy as np
import pytest
from PIL import Image

from engine.evaluation.curves import PANELS, Curve, draw_curves, save_strip, spread, write_sheet


def curve(role: str, mean: np.ndarray) -> Curve:
    return Curve(role, role, mean, mean - 1, mean + 1)


def test_labels_keep_their_order_and_do_not_touch():
    places = spread([22.0, 21.9, 35.0, 22.1], least=1.0, low=0.0)
    assert np.argsort(places).tolist() == [1, 0, 3, 2]
    assert np.diff(np.sort(places)).min() >= 1.0 - 1e-9


@pytest.mark.filterwarnings("error")
def test_curves_with_gaps_and_empty_curves_are_drawn(tmp_path):
    gap, empty = np.array([30, np.nan, 28.0]), np.full(3, np.nan)
    curves = [curve("control", gap), curve("erft", empty)]
    draw_curves({"shot": dict.fromkeys(PANELS, curves)}, 1, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(1 << 24)}
    assert (0xD5, 0x5E, 0x00) in colours  # the control's line


def test_a_sheet_holds_the_strips_that_are_there(tmp_path):
    for name, level in (("truth 0", 0), ("shot base 0", 255)):
        save_strip([np.full((8, 12, 3), level, np.uint8)] * 3, tmp_path / f"{name}.png")
    write_sheet(tmp_path, ["shot base", "shot control"], 10, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == 26 + 2 * 8
        assert sheet.getpixel((sheet.width - 1, 26)) == (0, 0, 0)
        assert sheet.getpixel((sheet.width - 1, sheet.height - 1)) == (255, 255, 255)


def test_without_strips_there_is_no_sheet(tmp_path):
    write_sheet(tmp_path, ["shot base"], 10, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
