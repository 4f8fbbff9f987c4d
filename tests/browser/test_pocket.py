"""The same page with the model that ships: no double anywhere."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import ROOT, Running

WEIGHTS = ROOT / "assets" / "pocket" / "transformer"
LUMA = """(selector) => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 16;
    const context = canvas.getContext('2d');
    context.drawImage(document.querySelector(selector), 0, 0, 16, 16);
    const { data } = context.getImageData(0, 0, 16, 16);
    let sum = 0;
    for (let at = 0; at < data.length; at += 4) sum += 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    return sum / 256;
}"""


@pytest.fixture
def pocket_studio(tmp_path):
    running = Running(tmp_path, preset="pocket", backend="").start()
    yield running
    running.stop()


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the pocket weights are not in assets/pocket")
def test_the_pocket_model_makes_the_film_that_was_drafted(pocket_studio, open_screen, photo):
    screen = open_screen(pocket_studio)
    expect(screen.page.locator("#machine")).to_contain_text("Pocket")
    expect(screen.page.locator("#machine .chip").first).to_be_visible()
    screen.snap("pocket-empty")
    picture = next(iter(sorted((ROOT / "assets" / "examples").glob("*.jpg"))), photo)
    screen.draft(picture, keywords="the lake, night", clips=3)
    assert any(word in screen.prompts()[0].lower() for word in ("night", "dark", "moon"))
    screen.generate()
    screen.wait("document.querySelector('[data-status=running] .tag:not([hidden])')", timeout_s=120)
    screen.snap("pocket-generating")
    screen.finish(timeout_s=240)
    screen.page.evaluate("window.svi.parts.player.pause(); window.svi.parts.player.seek(4.8)")
    screen.wait_video("readyState >= 2 && !seeking")
    screen.snap("pocket-finished")
    assert screen.page.evaluate(LUMA, "#player video") < 0.8 * screen.page.evaluate(
        LUMA, "[data-at=anchor]"
    )  # night fell
