"""Reloads, second tabs, outages and restarts: the film goes on and no text is lost."""

from playwright.sync_api import expect


def test_a_reload_in_the_middle_of_a_clip_finds_the_same_job(screen, studio, photo):
    screen.draft(photo, clips=3)
    studio.tell(hold=[1], step_s=0.05)
    screen.generate()
    screen.wait_done(1)
    screen.wait("document.querySelectorAll('[data-status=running]').length === 1")
    job = screen.state(".job.id")
    screen.page.reload()
    screen.wait("document.querySelectorAll('[data-status=running]').length === 1", timeout_s=10)
    assert screen.state(".job.id") == job
    assert screen.cards.count() == 3
    studio.tell()
    screen.finish()
    assert screen.state(".clips.map((clip) => clip.takes.length)") == [1, 1, 1]


def test_a_second_tab_sees_the_same_film_and_each_others_edits(screen, studio, photo, open_screen):
    screen.draft(photo, clips=2)
    other = open_screen(studio, screen.page.url.removeprefix(studio.url))
    expect(other.cards).to_have_count(2)
    screen.write(0, "Snow covers the harbour")
    other.page.bring_to_front()
    other.wait("document.querySelector('#storyboard textarea').value === 'Snow covers the harbour'")
    other.generate()
    other.finish()
    screen.page.bring_to_front()
    screen.finish()
    assert len(screen.state(".film.segments")) == 2


def test_text_typed_during_ten_seconds_offline_is_sent_afterwards(screen, studio, photo):
    screen.draft(photo, clips=3)
    studio.tell(hold=[0], step_s=0.05)
    screen.generate()
    screen.wait("document.querySelector('[data-status=running]')")
    context = screen.page.context
    context.set_offline(True)
    expect(screen.banner).to_contain_text("Connection lost. Your film keeps rendering.")
    screen.prompt(2).fill("The sun rises over the harbour")
    screen.page.wait_for_timeout(10_000)
    screen.snap("offline")
    expect(screen.page.locator("[data-at=saved]")).to_contain_text("1 change waiting")
    context.set_offline(False)
    expect(screen.banner).to_be_hidden()
    screen.wait_saved()
    assert screen.prompts()[2] == "The sun rises over the harbour"
    assert screen.saved_prompts()[2] == "The sun rises over the harbour"


def test_text_typed_offline_survives_a_reload(screen, studio, photo):
    screen.draft(photo, clips=2)
    url = screen.page.url
    screen.page.route("**/act", lambda route: route.abort())
    screen.prompt(0).fill("Night falls over the pier")
    expect(screen.page.locator("[data-at=saved]")).not_to_have_text("Saved")
    screen.page.goto("about:blank")
    screen.page.unroute("**/act")
    screen.page.goto(url)
    expect(screen.prompt(0)).to_have_value("Night falls over the pier")
    screen.wait_saved()
    assert screen.saved_prompts()[0] == "Night falls over the pier"


def test_a_restart_of_the_studio_in_the_middle_of_a_clip_loses_nothing(own_studio, photo, open_screen):
    screen = open_screen(own_studio)
    screen.draft(photo, clips=3)
    own_studio.tell(hold=[1], step_s=0.05)
    screen.generate()
    screen.wait_done(1)
    screen.wait("document.querySelectorAll('[data-status=running]').length === 1")
    own_studio.kill()
    expect(screen.banner).to_be_visible(timeout=10_000)
    screen.prompt(2).fill("Fog rolls in at the end")
    own_studio.start()
    expect(screen.banner).to_be_hidden(timeout=15_000)
    screen.wait_saved()
    own_studio.tell()
    screen.finish()
    assert screen.saved_prompts()[2] == "Fog rolls in at the end"
    takes = screen.page.evaluate("window.svi.state.clips.map((clip) => clip.takes.length)")
    assert takes[0] == 1


def test_five_tabs_all_follow_the_film(screen, studio, photo, open_screen):
    screen.draft(photo, clips=2)
    path = screen.page.url.removeprefix(studio.url)
    others = [open_screen(studio, path) for _ in range(4)]
    screen.page.bring_to_front()
    screen.generate()
    for tab in (screen, *others):
        tab.page.bring_to_front()
        tab.finish()
