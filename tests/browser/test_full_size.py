"""The page with the full-size family: drafts and full quality, missing weights, no GPU, random weights."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.tiers import GB
from tests.browser.conftest import Running
from tests.browser.test_access import check
from tests.engine.models.test_expert import write_lora
from tests.engine.models.tiny import TWO_EXPERTS, write_tiny_wan22

DOUBLE = "tests.browser.backend:open_backend"
SIZES = "resolutions: [[64, 48], [48, 64]]\nhd_resolutions: [[96, 64], [64, 96]]\nquality: {fast: 2, best: 4}\n"
DRAFT = "draft: {num_inference_steps: 1, guidance_scale: 1.0, loras: [{lora: distilled.safetensors}]}\n"
DRAFTING = TWO_EXPERTS.replace("resolutions: [[32, 32]]\n", SIZES) + DRAFT
GPU = {
    "name": "NVIDIA H200",
    "kind": "cuda",
    "free_vram": 148 * GB,
    "total_vram": 150 * GB,
    "compute_capability": [9, 0],
}


@pytest.fixture
def opened(tmp_path):
    """A function that starts an app of its own on this test's folder."""
    started = []

    def start(preset: str | Path, *, backend: str = DOUBLE, machine: dict | None = None, **variables: str) -> Running:
        running = Running(tmp_path, preset=str(preset), backend=backend, **variables)
        running.tell(machine=machine or {})
        started.append(running)
        return running.start()

    yield start
    for running in started:
        running.stop()


def marks(screen) -> list[bool]:
    """Which cards carry the mark of a draft."""
    return screen.cards.evaluate_all("(cards) => cards.map((card) => !card.querySelector('.draft-mark').hidden)")


@pytest.mark.slow
def test_a_draft_film_of_two_experts_is_finished_clip_by_clip(opened, tmp_path, photo, open_screen):
    preset = write_tiny_wan22(tmp_path, preset=DRAFTING)
    from engine.models.untrained import WanSize, build

    write_lora(tmp_path / "distilled.safetensors", build(WanSize(), takes_picture=False).transformer)
    screen = open_screen(opened(preset.folder / "tiny.yaml", backend=""))
    page = screen.page
    page.locator("#quality").get_by_label("Draft").check()
    expect(page.locator("#quality-note")).to_contain_text("1 step with the distilled LoRA, for trying a storyline")
    screen.draft(photo, clips=3)
    assert screen.state(".project.quality") == "draft"
    screen.generate()
    screen.finish()
    assert marks(screen) == [True] * 3
    expect(page.locator("[data-at=draftsText]")).to_contain_text("All clips are drafts.")
    screen.snap("drafts")

    screen.menu(1, "Render in full quality")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("clip 2 in full quality, 1 draft again")
    screen.snap("draft-dialog")
    dialog.get_by_role("button", name="Render").click()
    screen.wait("window.svi.state.clips[1].takes.length === 2")
    screen.finish()
    page.reload()
    screen.wait_done(3)
    assert marks(screen) == [True, False, True]
    expect(page.locator("#quality input[value=draft]")).to_be_checked()
    expect(page.locator("#size-note")).to_contain_text("The size stays")

    page.get_by_role("button", name="Finish in full quality").click()
    dialog.get_by_role("button", name="Render").click()
    screen.wait("!window.svi.state.drafts && window.svi.state.phase === 'finished'")
    assert marks(screen) == [False] * 3
    expect(page.locator("#finish-drafts")).to_be_hidden()


def test_without_weights_or_a_gpu_the_page_says_what_is_needed(opened, tmp_path, photo, open_screen):
    studio = opened("svi-2-pro", SVI_MODELS_DIR=str(tmp_path / "models"))
    screen = open_screen(studio, color_scheme="light", viewport={"width": 1280, "height": 900})
    page, panel = screen.page, screen.page.locator("#machine")
    screen.wait("window.svi.setup.machine.known")  # the worker has looked
    expect(panel).to_contain_text("SVI 2.0 Pro, Wan 2.2 A14B needs a GPU")
    expect(panel.locator("tbody tr")).to_have_count(6)
    expect(panel).to_contain_text("Not here yet: Wan 2.2 image-to-video A14B, two experts; SVI 2.0 Pro for Wan 2.2")
    expect(panel).to_contain_text("python app.py --preset svi-2-pro --random-weights")
    assert page.locator("#variant label").all_inner_texts() == ["Film, SVI 2.0 Pro"]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel.get_by_role("button", name="Copy the command python -m engine weights").click()
    assert page.evaluate("navigator.clipboard.readText()") == "python -m engine weights download --preset svi-2-pro"
    readme = page.request.get(f"{studio.url}/gradio_api/studio/readme")
    assert readme.ok and "text/plain" in readme.headers["content-type"]
    check(screen, "light-no-weights")

    screen.draft(photo, clips=2)
    expect(screen.primary).to_have_text("Generate")
    expect(screen.primary).to_have_attribute("aria-disabled", "true")
    expect(page.locator("#primary-reason")).to_contain_text("The weights of “svi-2-pro” are not all here")
    check(screen, "light-no-weights-drafted")
    page.emulate_media(color_scheme="dark")
    page.evaluate("document.body.classList.add('dark')")
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("button[data-tab=setup]").click()
    expect(panel).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    check(screen, "dark-no-weights-phone")


def test_random_weights_are_marked_everywhere_and_memory_is_said_where_it_ran_out(opened, tmp_path, photo, open_screen):
    (tmp_path / "wan.yaml").write_text(DRAFTING)
    studio = opened(tmp_path / "wan.yaml", machine=GPU, SVI_RANDOM_WEIGHTS="1")
    screen = open_screen(studio)
    page = screen.page
    mark = page.locator("#random-mark")
    expect(mark).to_contain_text("Random weights: pictures will be noise. For trying the page only.")
    screen.wait("window.svi.setup.machine.known")
    expect(page.locator("#machine")).to_contain_text("NVIDIA H200, 150 GB, compute capability 9.0")
    expect(page.locator("#machine")).to_contain_text("random, as large as this machine holds")
    page.locator("#size").get_by_label("64p").check()
    screen.draft(photo, clips=2)
    assert screen.state(".project.width") == 96
    studio.tell(hold=[1], lowered=[1])
    screen.generate()
    notice = screen.card(1).get_by_text("going on with a tiled VAE")
    expect(notice).to_be_visible()
    page.reload()
    expect(notice).to_be_visible()
    check(screen, "random-notice")
    studio.tell()
    screen.finish()
    page.get_by_text("What changed while rendering").click()
    expect(page.get_by_text("Clip 2: Not enough GPU memory")).to_be_visible()
    page.mouse.wheel(0, 2000)
    expect(mark).to_be_in_viewport()
    page.locator("#export").click()
    expect(page.locator("#download")).to_be_visible()
    name = page.locator("#download").get_attribute("download")
    assert re.fullmatch(r"film-2-clips-[0-9a-f]{10}-random-weights\.mp4", name)
