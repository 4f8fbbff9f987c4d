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


def damage(studio, screen) -> None:
    (found,) = (studio.folder / "data").rglob(f"{screen.state('.project.id')}/project.json")
    found.write_text("{ torn")


def test_a_damaged_film_says_so_and_its_last_good_version_comes_back(screen, studio, photo):
    screen.draft(photo, clips=2)
    screen.write(0, "Snow covers the harbour")
    screen.wait_saved()
    damage(studio, screen)
    problem = screen.page.locator("#problem")
    expect(problem).to_contain_text("project.json")
    expect(screen.banner).to_be_hidden()
    expect(screen.cards).to_have_count(2)
    problem.get_by_role("button", name="Restore the last good version").click()
    expect(problem).to_be_hidden()
    expect(screen.cards).to_have_count(2)


def test_an_error_of_the_studio_is_shown_with_its_id_and_is_no_lost_connection(screen, photo):
    screen.draft(photo, clips=2)
    answer = {"message": "Something went wrong in the studio.", "hint": "Try again.", "id": "abcd1234"}
    screen.page.route("**/state*", lambda route: route.fulfill(status=500, json=answer))
    expect(screen.page.locator("#problem")).to_contain_text("Error abcd1234")
    expect(screen.banner).to_be_hidden()
    expect(screen.cards).to_have_count(2)
    screen.page.unroute("**/state*")
    expect(screen.page.locator("#problem")).to_be_hidden()


def test_a_film_that_is_gone_for_a_while_keeps_its_key(screen, photo):
    screen.draft(photo, clips=2)
    screen.page.route("**/state*", lambda route: route.fulfill(status=404, json={"message": "", "hint": "", "id": ""}))
    expect(screen.page.locator("#problem")).to_contain_text("This film is not here")
    expect(screen.primary).to_have_text("New film")
    assert screen.state() is None
    screen.page.unroute("**/state*")
    screen.page.reload()
    expect(screen.cards).to_have_count(2)
    expect(screen.primary).to_have_text("Generate")


def test_a_refused_edit_stays_until_it_is_discarded_and_nothing_is_rendered_before(screen, photo):
    screen.draft(photo, clips=2)
    before = screen.prompts()
    screen.write(0, "x" * 1200)
    expect(screen.card(0)).to_contain_text("1,200 of 1,000 characters")
    expect(screen.card(0)).to_contain_text("up to 1,000 are allowed")
    screen.prompt(0).blur()
    screen.write(1, "Fog rolls in over the pier")
    screen.wait("window.svi.state.clips[1].prompt === 'Fog rolls in over the pier'")
    assert screen.prompts()[0] == "x" * 1200
    screen.primary.click()
    expect(screen.page.locator("#problem")).to_contain_text("Not saved yet")
    screen.page.reload()
    expect(screen.prompt(0)).to_have_value("x" * 1200)
    screen.card(0).get_by_role("button", name="Discard").click()
    screen.wait_saved()
    assert screen.prompts()[0] == before[0]


def test_an_edit_that_fails_is_tried_again_then_parked(screen, photo):
    screen.draft(photo, clips=2)
    tries = []

    def fails(route):
        if "Night" not in (route.request.post_data or ""):
            return route.continue_()
        tries.append(1)
        return route.fulfill(status=500, json={"message": "Something went wrong.", "hint": "", "id": "ab12"})

    screen.page.route("**/act", fails)
    screen.write(0, "Night falls over the pier")
    screen.write(1, "Fog rolls in over the pier")
    expect(screen.card(0)).to_contain_text("Something went wrong. Error ab12")
    screen.wait("window.svi.state.clips[1].prompt === 'Fog rolls in over the pier'")
    assert len(tries) == 5
    screen.page.unroute("**/act")
    screen.card(0).get_by_role("button", name="Save again").click()
    screen.wait_saved()
    assert screen.saved_prompts()[0] == "Night falls over the pier"
