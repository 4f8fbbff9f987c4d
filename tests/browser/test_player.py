"""The film plays as one, while its clips arrive."""

import pytest
from playwright.sync_api import expect

COUNT_WAITING = """() => {
    const video = document.querySelector('#player video');
    window.waits = [];
    video.addEventListener('waiting', () => window.waits.push(video.currentTime));
}"""

BUFFERED_S = """() => {
    const { buffered } = document.querySelector('#player video');
    let seconds = 0;
    for (let index = 0; index < buffered.length; index += 1) seconds += buffered.end(index) - buffered.start(index);
    return seconds;
}"""


def film(screen, photo, clips):
    screen.draft(photo, clips=clips)
    screen.generate()
    screen.finish(timeout_s=120)
    screen.page.keyboard.press("Escape")


def test_seams_are_played_through_without_waiting(screen, photo):
    film(screen, photo, 6)
    screen.page.evaluate("document.querySelector('#player video').pause(); window.svi.parts.player.seek(0)")
    screen.wait_video("readyState >= 3")
    screen.page.evaluate(COUNT_WAITING)
    screen.page.evaluate("window.svi.parts.player.play()")
    screen.wait_video("ended", timeout_s=40)
    assert screen.page.evaluate("window.waits") == []
    duration = (6 * 25 - 5 * 5) / 12
    assert abs(screen.video("duration") - duration) < 0.05


def test_a_late_clip_continues_the_film_without_a_click(screen, studio, photo):
    screen.draft(photo, clips=3)
    studio.tell(hold=[1])
    screen.generate()
    screen.wait_done(1)
    screen.wait_video("currentTime > 1.9")
    expect(screen.page.locator("#player .note")).to_contain_text("Waiting for clip 2")
    studio.tell()
    screen.wait_video("currentTime > 2.3")
    screen.finish()
    screen.wait_video("ended", timeout_s=30)


def test_a_replaced_take_reloads_at_the_same_clip_and_offset(screen, photo):
    film(screen, photo, 3)
    screen.page.evaluate("window.svi.parts.player.pause(); window.svi.parts.player.seek(4.5)")
    clip = screen.page.evaluate("window.svi.parts.player.position().clip_id")
    generation = screen.state(".film.generation")
    screen.menu(0, "Delete")
    expect(screen.cards).to_have_count(2)
    screen.wait(f"window.svi.state.film.generation !== {generation}")
    screen.wait_video("readyState >= 2")
    where = screen.page.evaluate("window.svi.parts.player.position()")
    assert where["clip_id"] == clip
    start = screen.state(
        ".film.segments.find((one) => one.clip_id === window.svi.parts.player.position().clip_id).start_s"
    )
    assert abs(screen.video("currentTime") - start - where["offset"]) < 0.1


def test_keys_play_step_jump_and_help(screen, photo):
    film(screen, photo, 3)
    page = screen.page
    page.evaluate("document.activeElement?.blur(); window.svi.parts.player.pause()")
    page.keyboard.press("Home")
    screen.wait_video("currentTime < 0.1")
    page.keyboard.press("ArrowRight")
    screen.wait_video("Math.abs(currentTime - 1 / 12) < 0.02")
    page.keyboard.press("Shift+ArrowRight")
    screen.wait_video("currentTime > 1")
    page.keyboard.press("ArrowDown")
    screen.wait_video("Math.abs(currentTime - 25 / 12) < 0.02")
    page.keyboard.press("ArrowUp")
    screen.wait_video("currentTime < 0.1")
    page.keyboard.press("k")
    screen.wait_video("!paused")
    page.keyboard.press(" ")
    screen.wait_video("paused")
    page.keyboard.press("m")
    screen.wait_video("!muted")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("play or pause")
    screen.snap("keys", whole=False)
    page.get_by_label("Use single keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    assert not screen.video("muted")


def test_choosing_a_card_moves_the_playhead_and_playing_marks_the_card(screen, photo):
    film(screen, photo, 3)
    screen.page.evaluate("window.svi.parts.player.pause()")
    screen.card(1).locator(".shot").click()
    screen.wait_video("Math.abs(currentTime - 25 / 12) < 0.05")
    expect(screen.card(1)).to_have_attribute("data-playing", "")


def test_an_extension_starts_two_seconds_before_the_new_seam(screen, photo):
    film(screen, photo, 3)
    screen.wait_video("ended", timeout_s=30)
    screen.primary.click()
    screen.wait_done(4)
    seam = (3 * 25 - 2 * 5) / 12
    screen.wait_video(f"currentTime > {seam - 2.1}")
    screen.wait_video(f"currentTime > {seam + 0.3}")


@pytest.mark.slow
def test_a_long_film_keeps_only_what_is_near_the_playhead(screen, photo):
    film(screen, photo, 130)
    screen.page.evaluate("window.svi.parts.player.pause()")
    for seconds in range(0, 215, 12):
        screen.page.evaluate(f"window.svi.parts.player.seek({seconds})")
        screen.wait_video("readyState >= 2")
    screen.wait(f"({BUFFERED_S})() < 190")
    screen.page.evaluate("window.svi.parts.player.seek(1)")
    screen.wait_video("readyState >= 2 && Math.abs(currentTime - 1) < 0.1")


def test_without_media_source_the_page_says_what_to_do(studio, photo, open_screen):
    screen = open_screen(studio)
    screen.page.add_init_script("delete window.MediaSource; delete window.ManagedMediaSource")
    screen.page.reload()
    screen.wait("window.svi?.trigger && !!window.svi.setup.machine")
    screen.draft(photo, clips=1)
    screen.generate()
    screen.finish()
    expect(screen.page.locator("#player .note")).to_contain_text("Export the film")


def test_a_clip_that_cannot_be_read_is_named(screen, photo):
    screen.draft(photo, clips=3)
    screen.page.route("**/segment/**", lambda route: route.fulfill(status=500, body=""))
    screen.generate()
    screen.finish()
    expect(screen.page.locator("#player .note")).to_have_text("Clip 1 could not be read. Regenerate it.")


def test_a_full_buffer_is_emptied_and_the_film_goes_on(screen, photo):
    screen.page.evaluate(
        """() => {
            const append = SourceBuffer.prototype.appendBuffer;
            window.full = 0;
            SourceBuffer.prototype.appendBuffer = function (data) {
                if (data.byteLength > 2000 && window.full < 1) {
                    window.full += 1;
                    throw new DOMException("full", "QuotaExceededError");
                }
                return append.call(this, data);
            };
        }"""
    )
    film(screen, photo, 3)
    screen.wait("window.full === 1")
    screen.wait_video("ended", timeout_s=30)
    assert screen.page.evaluate("window.svi.parts.player.ahead") == 30


def test_without_single_keys_the_arrows_still_move_among_the_cards(screen, photo):
    screen.draft(photo, clips=3)
    screen.page.evaluate("window.svi.preference('keys', false)")
    screen.card(0).focus()
    screen.page.keyboard.press("ArrowRight")
    expect(screen.card(1)).to_be_focused()
    screen.page.keyboard.press("Enter")
    expect(screen.prompt(1)).to_be_focused()


def test_only_a_press_that_began_beside_a_dialog_closes_it(screen):
    page = screen.page
    page.get_by_role("button", name="Keys").click()
    dialog = page.get_by_role("dialog")
    box = dialog.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(5, 300)
    page.mouse.up()
    page.mouse.click(box["x"] + 6, box["y"] + 6)
    expect(dialog).to_be_visible()
    page.mouse.click(5, 300)
    expect(dialog).to_be_hidden()


def test_an_impossible_length_is_named_and_not_repaired(screen, photo):
    screen.drop(photo)
    field = screen.page.locator("#length input")
    for wrong in ("0", "-3", "1000000"):
        field.fill(wrong)
        field.blur()
        expect(screen.page.locator("[data-at=length]")).to_contain_text("a whole number from 1 to 200")
        assert field.input_value() == wrong
    screen.primary.click()
    expect(screen.page.locator("#problem")).to_contain_text("a whole number from 1 to")
    assert screen.cards.count() == 0
