"""For everyone: axe-core on every state in light and dark, a small phone, keys alone, reduced motion."""

import pytest
from playwright.sync_api import expect

AXE = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()


def check(screen, name: str) -> None:
    screen.snap(name)
    response = AXE.run(screen.page, options={"resultTypes": ["violations"]}).response
    serious = [
        f"{found['id']}: {[(node['target'], node.get('failureSummary', '')[:300]) for node in found['nodes'][:3]]}"
        for found in response["violations"]
        if found["impact"] in ("serious", "critical")
    ]
    assert not serious, f"{name}: " + "\n".join(serious)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_state(scheme, studio, photo, open_screen):
    screen = open_screen(studio, color_scheme=scheme)
    page = screen.page
    check(screen, f"{scheme}-empty")
    page.locator("#advanced button, #advanced summary").first.click()
    screen.drop(photo)
    check(screen, f"{scheme}-picture")
    screen.draft(photo, clips=4)
    check(screen, f"{scheme}-drafted")
    studio.tell(hold=[1], step_s=0.05)
    screen.generate()
    screen.wait_done(1)
    screen.wait("document.querySelector('[data-status=running]')")
    check(screen, f"{scheme}-generating")
    screen.primary.click()
    studio.tell()
    screen.wait_phase("paused")
    check(screen, f"{scheme}-paused")
    studio.tell(fail=[2])
    screen.primary.click()
    screen.wait_phase("failed", timeout_s=40)
    check(screen, f"{scheme}-failed")
    studio.tell()
    screen.primary.click()
    screen.finish()
    check(screen, f"{scheme}-finished")
    screen.write(1, "A dragon lands on the roof")
    screen.wait("window.svi.state.clips[1].status === 'stale'")
    check(screen, f"{scheme}-stale")
    screen.menu(1, "Regenerate")
    expect(page.get_by_role("dialog")).to_be_visible()
    check(screen, f"{scheme}-dialog")
    page.keyboard.press("Escape")
    screen.card(0).get_by_role("button", name="More for clip").click()
    check(screen, f"{scheme}-menu")
    page.keyboard.press("Escape")
    page.context.set_offline(True)
    expect(screen.banner).to_be_visible()
    page.evaluate("window.axe")  # loaded before the connection went
    check(screen, f"{scheme}-offline")
    page.context.set_offline(False)


@pytest.mark.parametrize("state", ["empty", "drafted", "finished"])
def test_a_phone_shows_the_player_first_and_never_scrolls_sideways(state, studio, photo, open_screen):
    screen = open_screen(studio, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    if state != "empty":
        screen.draft(photo, clips=3)
    if state == "finished":
        screen.generate()
        screen.finish()
    screen.snap(f"phone-{state}", whole=False)
    assert screen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    button = screen.primary.bounding_box()
    assert button["y"] + button["height"] > 844 - 40 and button["y"] + button["height"] <= 844
    assert screen.page.locator("#player").bounding_box()["y"] < 200


def test_the_page_reads_at_200_percent_zoom(studio, photo, open_screen):
    screen = open_screen(studio, viewport={"width": 720, "height": 450})
    screen.draft(photo, clips=2)
    assert screen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_whole_flow_by_keys_alone(screen, studio, photo):
    page = screen.page
    screen.drop(photo)  # choosing a file is the operating system's own dialog
    focus_by_tab(page, "#keywords textarea")
    page.keyboard.type("an old harbour")
    focus_by_tab(page, "#length input")
    page.keyboard.press("Control+a")
    page.keyboard.type("2")
    focus_by_tab(page, "#primary")
    page.keyboard.press("Enter")
    expect(screen.cards).to_have_count(2)
    screen.wait_phase("ready")
    focus_by_tab(page, "[data-clip]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.clip") == screen.state(".clips[1].id")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+a")
    page.keyboard.type("Fog rolls in")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.clip") == screen.state(".clips[1].id")
    screen.wait_saved()
    page.keyboard.press("Control+Enter")
    screen.finish()
    page.keyboard.press("e")
    expect(screen.cards).to_have_count(3)
    screen.wait_done(3)
    focus_by_tab(page, "#export")
    page.keyboard.press("Enter")
    expect(page.locator("#download")).to_be_visible()


def focus_by_tab(page, selector: str) -> None:
    """Press Tab until the element has focus; the page must let one get there."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab never reaches {selector}")


def test_the_storyboard_is_one_tab_stop(screen, photo):
    screen.draft(photo, clips=5)
    stops = screen.cards.evaluate_all("(cards) => cards.filter((card) => card.tabIndex === 0).length")
    assert stops == 1
    screen.card(3).locator("textarea").click()
    assert screen.card(3).get_attribute("tabindex") == "0"
    assert screen.page.locator("#storyboard [data-clip] textarea[tabindex='0']").count() == 1


def test_finished_clips_are_announced_in_one_polite_region(screen, studio, photo):
    screen.draft(photo, clips=2)
    screen.generate()
    expect(screen.page.locator("#announcer")).not_to_be_empty()
    assert screen.page.locator("#announcer").get_attribute("aria-live") == "polite"
    screen.finish()


def test_reduced_motion_neither_starts_the_film_nor_moves_previews(studio, photo, open_screen):
    screen = open_screen(studio, reduced_motion="reduce")
    screen.draft(photo, clips=2)
    studio.tell(hold=[1])
    screen.generate()
    screen.wait_done(1)
    expect(screen.card(1).locator(".tag")).to_be_visible()
    screen.wait("document.querySelectorAll('[data-clip] img')[1].src.startsWith('data:image/png')")
    assert screen.video("paused")
    studio.tell()
    screen.finish()
