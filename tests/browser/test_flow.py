"""From a picture to an exported film, as a creator does it."""

import json
import subprocess

from playwright.sync_api import expect


def test_a_picture_becomes_a_film_that_plays_extends_and_exports(screen, studio, photo, tmp_path):
    page = screen.page
    screen.snap("empty")
    expect(screen.primary).to_have_text("Draft storyline")
    expect(screen.primary).to_have_attribute("aria-disabled", "true")
    expect(page.locator("#primary-reason")).to_contain_text("Add a picture first")

    screen.draft(photo, keywords="an old harbour, night", clips=3)
    assert "project=" in page.url
    assert "harbour" in screen.prompts()[0]
    screen.snap("drafted")

    screen.write(1, "Fog rolls in over the harbour")
    screen.wait_saved()
    assert screen.saved_prompts()[1] == "Fog rolls in over the harbour"

    studio.tell(step_s=0.25)
    screen.generate()
    screen.wait("document.querySelector('[data-status=running] .tag:not([hidden])')")
    screen.wait_done(1)
    screen.wait_video("!paused")  # the first clip plays at once, without a click
    screen.snap("generating")
    studio.tell()
    screen.finish()
    assert screen.video("muted")

    screen.wait_video("currentTime > 2.2")  # past the first seam
    expect(screen.primary).to_have_text("Extend")
    screen.snap("finished")
    screen.primary.click()
    expect(screen.cards).to_have_count(4)
    screen.wait_phase("queued", "loading", "generating", "finished")
    screen.wait_done(4)

    page.locator("#export").click()
    download = page.locator("#download")
    expect(download).to_be_visible()
    with page.expect_download() as event:
        download.click()
    event.value.save_as(tmp_path / "film.mp4")
    frames = int(probe(tmp_path / "film.mp4")["nb_read_frames"])
    assert frames == 4 * 25 - 3 * 5


def test_an_open_film_shows_its_settings_and_saves_changes_to_them(screen, photo):
    screen.draft(photo, clips=2)
    page = screen.page
    page.locator("#variant").get_by_label("Shot").check()
    screen.wait("window.svi.state.project.variant === 'shot'")
    page.locator("#quality").get_by_label("Best").check()
    screen.wait("window.svi.state.project.num_inference_steps === 8")
    page.locator("[data-at=title]").fill("The harbour at night")
    screen.wait("window.svi.state.project.title === 'The harbour at night'")
    page.reload()
    expect(page.locator("#quality input[value=best]")).to_be_checked()
    expect(page.locator("#variant input[value=shot]")).to_be_checked()
    expect(page.locator("[data-at=title]")).to_have_value("The harbour at night")
    expect(page.locator("#keywords textarea")).to_have_value("an old harbour")


def test_a_picture_that_is_none_is_refused_in_words(screen, tmp_path):
    fake = tmp_path / "fake.png"
    fake.write_bytes(b"ffconcat version 1.0\nfile /etc/passwd\n")
    screen.page.set_input_files("#anchor-image input[type=file]", fake)
    screen.wait("!!window.svi.form.image || !!document.querySelector('.toast-wrap, [data-testid=toast-body]')")
    if screen.page.evaluate("!!window.svi.form.image"):
        screen.primary.click()
        expect(screen.page.locator("#problem")).to_be_visible()
        expect(screen.page.locator("#problem")).to_contain_text("picture")
    assert screen.cards.count() == 0


def test_templates_say_why_tone_and_language_cannot_be_chosen(screen):
    for name in ("tone", "language"):
        expect(screen.page.locator(f"#{name}")).to_be_disabled()
    expect(screen.page.locator("#telling-note")).to_contain_text("Templates")
    expect(screen.page.locator("#drafter")).to_contain_text("Storyline by templates.")


def test_a_shared_link_shows_the_film_and_lets_a_stranger_copy_it(screen, studio, photo, open_screen):
    screen.draft(photo, clips=2)
    screen.generate()
    screen.finish()
    screen.page.get_by_role("button", name="Share").click()
    link = screen.page.locator(".share-link").input_value()
    stranger = open_screen(studio, link.removeprefix(studio.url), browser=1)
    expect(stranger.primary).to_have_text("Make a copy")
    assert stranger.prompt(0).get_attribute("readonly") is not None
    stranger.snap("view-only")
    assert "Your film" not in stranger.page.locator("body").inner_text()
    stranger.primary.click()
    stranger.wait("window.svi.state?.view_only === false && window.svi.state.clips.length === 2")
    assert stranger.state(".project.id") != screen.state(".project.id")


def probe(path) -> dict:
    shown = ["-count_frames", "-select_streams", "v:0", "-show_streams", "-of", "json"]
    command = ["ffprobe", "-v", "error", *shown, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"][0]


def test_what_is_filled_in_before_the_studio_has_said_its_defaults_stays(screen):
    page = screen.page
    page.wait_for_function("() => window.svi.setup.quality")
    page.get_by_label("Length in clips").fill("3")
    page.wait_for_function("() => Number(window.svi.form.length) === 3")
    page.evaluate("() => { const { setup } = window.svi; window.svi.setup = {}; window.svi.defaultsArrive(setup); }")
    assert page.evaluate("() => [Number(window.svi.form.length), window.svi.form.quality]") == [3, "balanced"]
