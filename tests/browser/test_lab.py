"""The Lab with the model that ships and its real trainer: from dropped videos to a film made with the new LoRA."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import ROOT, Running
from tests.browser.test_access import check
from tests.studio.test_lab import make_video

WEIGHTS = ROOT / "assets" / "pocket" / "transformer"
CAPTIONS = {
    "pier.mp4": "Night falls over the pier",
    "hills.mp4": "Fog rolls in over the hills",
    "lake.mp4": "Autumn comes to the lake",
}
STEPS = 6


@pytest.fixture
def pocket_studio(tmp_path):
    running = Running(tmp_path, preset="pocket", backend="").start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Three videos of 26 to 30 frames, a file that is none, and a table of captions."""
    folder = tmp_path_factory.mktemp("material")
    for seed, name in enumerate(CAPTIONS):
        make_video(folder / name, frames=26 + 2 * seed, seed=seed)
    (folder / "evil.mp4").write_bytes(b"ffconcat version 1.0\nfile /etc/passwd\n")
    rows = [f"{name},{caption}" for name, caption in list(CAPTIONS.items())[:2]]
    (folder / "captions.csv").write_text("\n".join(["file_name,caption", *rows]))
    return folder


def open_lab(screen) -> None:
    screen.page.get_by_role("button", name="Lab", exact=True).click()
    screen.page.locator("#lab").get_by_role("button", name="New training run").first.click()
    expect(screen.page.locator(".lab-drop")).to_be_visible()


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the pocket weights are not in assets/pocket")
def test_dropped_videos_become_a_lora_and_a_film_made_with_it(pocket_studio, open_screen, material, photo):
    screen = open_screen(pocket_studio)
    page, primary = screen.page, screen.page.locator("#lab-primary")
    open_lab(screen)
    expect(primary).to_have_attribute("aria-disabled", "true")

    page.set_input_files("#lab-files", sorted(material.iterdir()))
    expect(page.locator(".lab-video")).to_have_count(3)
    expect(page.locator("#lab-problem")).to_contain_text("evil.mp4: This file is not a video")
    expect(page.locator("#lab-reason, .lab-deck .message").first).to_contain_text("1 video has none")
    page.get_by_label("Caption of lake.mp4").fill(CAPTIONS["lake.mp4"])
    expect(page.get_by_label("Caption of pier.mp4")).to_have_value(CAPTIONS["pier.mp4"])
    page.get_by_label("Name of the LoRA").fill("My harbour")
    page.locator("#lab-steps").fill(str(STEPS))
    expect(page.locator(".lab-plan")).to_contain_text("It fits on this computer", timeout=90_000)
    screen.wait(f"window.svi.lab.state.steps === {STEPS} && window.svi.lab.state.primary.enabled")
    check(screen, "lab-ready")

    primary.click()
    screen.wait("window.svi.lab.state.step >= 2", timeout_s=120)
    expect(page.locator("[data-lab=lossSmooth]")).to_have_attribute("d", re.compile("^M"))
    primary.click()
    screen.wait("['paused', 'done'].includes(window.svi.lab.state.status)", timeout_s=60)
    stopped = page.evaluate("window.svi.lab.state.step")
    assert stopped < STEPS, "paused too late for the test to resume anything"

    page.reload()
    screen.wait("window.svi.lab?.state")
    expect(page.locator(".lab-deck .message")).to_contain_text(f"Paused at step {stopped} of {STEPS}")
    expect(page.get_by_label("Name of the LoRA")).to_have_value("My harbour")
    primary.click()
    screen.wait("window.svi.lab.state.status === 'done'", timeout_s=120)
    assert page.evaluate("window.svi.lab.state.curve.steps") == list(range(1, STEPS + 1))
    expect(page.locator(".lab-samples img").first).to_be_visible()
    assert page.locator(".lab-samples img").first.evaluate("(image) => image.naturalWidth") == 3 * 144
    check(screen, "lab-done")

    expect(primary).to_have_text("Use in a film")
    primary.click()
    expect(page.locator("#model option:checked")).to_have_text(f"My harbour (step {STEPS})")
    screen.draft(photo, keywords="the pier, night", clips=1)
    screen.generate()
    screen.finish(timeout_s=120)
    assert screen.state(".project.preset") == f"lab-{page.evaluate('window.svi.lab.runs[0].id')}-{STEPS}"
    expect(page.locator("#model-choice")).to_contain_text("Made with My harbour")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_lab_is_accessible_and_fits_a_phone(scheme, studio, open_screen, material):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    screen = open_screen(studio, color_scheme=scheme, **phone)
    curves = measured()
    screen.page.route("**/lab/drift", lambda route: route.fulfill(json={"curves": curves}))
    screen.page.get_by_role("button", name="Lab", exact=True).click()
    expect(screen.page.locator("#first-run")).to_be_visible()
    check(screen, f"lab-{scheme}-welcome")
    screen.page.locator("#first-run").click()
    expect(screen.page.locator(".lab-drop")).to_be_visible()
    screen.page.set_input_files("#lab-files", [material / name for name in CAPTIONS])
    expect(screen.page.locator(".lab-video")).to_have_count(3)
    figures = screen.page.locator(".lab-panels figure")
    expect(figures).to_have_count(2)
    expect(figures.first.locator("path.smooth")).to_have_count(3)
    expect(figures.first).to_contain_text("Trained with recycled errors 30 → 25")
    check(screen, f"lab-{scheme}-phone")
    assert screen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_names_and_captions_are_shown_as_text_and_nothing_in_them_runs(studio, open_screen, material, tmp_path):
    screen = open_screen(studio)
    open_lab(screen)
    evil = "<img src=x onerror='window.pwned=1'>${Object.assign(window,{pwned:1})}"
    named = tmp_path / f"{evil.replace('/', '')}.mp4"
    named.write_bytes((material / "pier.mp4").read_bytes())
    screen.page.set_input_files("#lab-files", named)
    expect(screen.page.locator(".lab-video")).to_have_count(1)
    screen.page.locator(".lab-video textarea").fill(evil)
    screen.page.get_by_label("Name of the LoRA").fill(evil[:80])
    screen.wait("window.svi.lab.state.videos[0].caption.includes('onerror')")
    expect(screen.page.locator(".lab-runs strong")).to_have_text(evil[:80])
    assert screen.page.evaluate("window.pwned") is None


def test_the_film_page_asks_nothing_of_the_lab_before_it_is_opened(studio, open_screen):
    asked = []
    screen = open_screen(studio)
    screen.page.on("request", lambda request: asked.append(request.url) if "/studio/lab/" in request.url else None)
    screen.page.reload()
    screen.wait("window.svi?.trigger && Object.keys(window.svi.setup).length > 0")
    assert not [url for url in asked if not url.endswith("/lab/runs")]


def measured() -> dict:
    """Curves as `bench drift` writes them."""

    def lines(start: float, end: float) -> dict:
        mean = [start + (end - start) * clip / 9 for clip in range(10)]
        return {"mean": mean, "low": [value - 1 for value in mean], "high": [value + 1 for value in mean]}

    ends = {"perfect": 29, "control": 18, "erft": 25}
    arms = {
        f"{variant} {role}": {"variant": variant, "role": role, "psnr": lines(30, end)}
        for variant in ("film", "shot")
        for role, end in ends.items()
    }
    return json.loads(json.dumps({"clips": 10, "metrics": {"psnr": "PSNR of the last frame, dB"}, "arms": arms}))
