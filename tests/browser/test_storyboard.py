"""Cards: editing while the film grows, order, takes, undo."""

import re

from playwright.sync_api import expect


def test_typing_during_updates_of_200_cards_loses_nothing(screen, studio, photo):
    screen.draft(photo, clips=200)
    studio.tell(step_s=0.12)
    screen.generate()
    screen.wait("document.querySelector('[data-status=running]')")
    field = screen.prompt(150)
    field.click()
    field.fill("")
    before = screen.state(".rev")
    words = "Night falls over the harbour while the lamps come on one by one along the pier. "
    field.press_sequentially(words * 2, delay=45)
    assert screen.state(".rev") - before >= 20  # many updates arrived meanwhile
    assert field.input_value() == words * 2
    assert field.evaluate("(node) => document.activeElement === node && node.selectionStart === node.value.length")
    screen.wait_saved()
    expected = " ".join((words * 2).split())
    screen.wait(f"window.svi.state.clips[150].prompt === {expected!r}")
    assert screen.saved_prompts()[150] == expected
    screen.page.locator("#stop").click()
    screen.wait_phase("paused")


def test_an_update_of_200_cards_is_on_screen_in_half_a_second(screen, photo):
    screen.draft(photo, clips=200)
    elapsed = screen.page.evaluate(
        """async () => {
            const state = structuredClone(window.svi.state);
            const times = [];
            for (let round = 0; round < 10; round += 1) {
                for (const clip of state.clips) clip.status = round % 2 ? "queued" : "draft";
                const start = performance.now();
                window.svi.parts.storyboard.update(state);
                document.querySelector('#storyboard').getBoundingClientRect();
                times.push(performance.now() - start);
            }
            return times.sort((a, b) => a - b)[9];
        }"""
    )
    assert elapsed < 500


def test_an_edit_is_saved_within_a_second_of_the_last_key(screen, photo):
    screen.draft(photo, clips=2)
    with screen.page.expect_request(lambda request: request.url.endswith("/act"), timeout=1000):
        screen.prompt(0).press("x")


def test_cards_move_by_menu_by_keys_and_by_dragging(screen, photo):
    screen.draft(photo, clips=4)
    first = screen.prompts()
    ids = screen.page.evaluate("window.svi.state.clips.map((clip) => clip.id)")
    screen.menu(0, "Move down")
    screen.wait(f"window.svi.state.clips[1].id === '{ids[0]}'")
    screen.card(1).focus()
    screen.page.keyboard.press("Alt+ArrowUp")
    screen.wait(f"window.svi.state.clips[0].id === '{ids[0]}'")
    assert screen.page.evaluate("document.activeElement.dataset.clip") == ids[0]
    screen.card(0).locator(".grip").drag_to(screen.card(3), target_position={"x": 240, "y": 60})
    screen.wait(f"window.svi.state.clips[3].id === '{ids[0]}'")
    assert screen.prompts() == [*first[1:], first[0]]


def test_a_deleted_clip_comes_back_with_undo(screen, photo):
    screen.draft(photo, clips=3)
    before = screen.prompts()
    screen.menu(1, "Delete")
    expect(screen.cards).to_have_count(2)
    screen.page.locator(".toast").get_by_role("button", name="Undo").click()
    expect(screen.cards).to_have_count(3)
    assert screen.prompts() == before
    screen.card(2).focus()
    screen.page.keyboard.press("Delete")
    expect(screen.cards).to_have_count(2)
    screen.page.keyboard.press("Control+z")
    expect(screen.cards).to_have_count(3)


def test_inserted_and_duplicated_clips_appear_in_their_place(screen, photo):
    screen.draft(photo, clips=2)
    before = screen.prompts()
    screen.menu(0, "Duplicate")
    expect(screen.cards).to_have_count(3)
    assert screen.prompts() == [before[0], before[0], before[1]]
    screen.menu(1, "Insert a clip after")
    expect(screen.cards).to_have_count(4)
    expect(screen.prompt(2)).to_be_focused()


def test_editing_a_finished_clip_marks_it_and_later_ones_and_regenerating_mends_them(screen, photo):
    screen.draft(photo, clips=3)
    screen.generate()
    screen.finish()
    screen.write(1, "Fog rolls in over the pier")
    screen.wait("['done','stale','stale'].every((status, i) => window.svi.state.clips[i].status === status)")
    expect(screen.card(2)).to_contain_text("Made from an older clip 2")
    screen.snap("stale")
    screen.card(1).get_by_role("button", name="Regenerate", exact=True).click()
    dialog = screen.page.get_by_role("dialog")
    expect(dialog.get_by_text("This clip and everything after")).to_be_visible()
    expect(dialog.get_by_role("radio").first).to_be_checked()
    screen.snap("stale-dialog", whole=False)
    dialog.get_by_role("button", name="Regenerate").click()
    screen.wait_done(3)
    assert screen.page.evaluate("window.svi.state.clips.map((clip) => clip.takes.length)") == [1, 2, 2]


def test_an_earlier_take_comes_back_at_once(screen, photo):
    screen.draft(photo, clips=2)
    screen.generate()
    screen.finish()
    screen.menu(1, "Regenerate")
    screen.page.get_by_role("dialog").get_by_role("button", name="Regenerate").click()
    expect(screen.card(1)).to_contain_text("take 2 of 2")
    screen.finish()
    screen.card(1).get_by_role("button", name="Earlier take of clip 2").click()
    expect(screen.card(1)).to_contain_text("take 1 of 2")
    screen.wait_phase("finished")


def test_a_failed_clip_says_why_and_retries_from_its_card(screen, studio, photo):
    screen.draft(photo, clips=3)
    studio.tell(fail=[1])
    screen.generate()
    screen.wait_phase("failed", timeout_s=40)
    expect(screen.card(0)).to_have_attribute("data-status", "done")
    expect(screen.card(1)).to_contain_text("The model gave an empty picture")
    expect(screen.primary).to_have_text("Retry")
    screen.snap("failed")
    studio.tell()
    screen.card(1).get_by_role("button", name="Retry").click()
    screen.finish()


def test_pause_keeps_what_is_done_and_resume_goes_on(screen, studio, photo):
    screen.draft(photo, clips=3)
    studio.tell(step_s=0.3)
    screen.generate()
    screen.wait_done(1)
    screen.primary.click()
    screen.wait_phase("paused")
    expect(screen.primary).to_have_text("Resume")
    screen.snap("paused")
    studio.tell()
    screen.primary.click()
    screen.finish()


def test_a_prompt_without_a_known_move_gets_a_hint_and_a_chip_mends_it(screen, photo):
    screen.draft(photo, clips=1)
    screen.write(0, "A dragon lands on the roof")
    expect(screen.card(0).locator(".hint")).to_contain_text("No move the embedded model knows")
    expect(screen.card(0).locator(".hint")).to_contain_text("Ignored: “lands roof”")
    screen.page.get_by_role("group", name="Light").get_by_role("button", name=re.compile("fog")).last.click()
    expect(screen.prompt(0)).to_have_value("Fog rolls in over an old harbour.")
    expect(screen.card(0).locator(".hint")).to_have_text("fog from “fog”. Ignored: “old”.")


def test_a_card_says_which_words_the_embedded_model_goes_by(screen, photo):
    screen.draft(photo, clips=1)
    for prompt, moves, ignored in (
        ("Night falls over the still harbour", "night", ""),
        ("Snow covers the ${alert(1)} <b>roof</b>, no fog", "winter", "alert roof"),
        ("Nothing changes", "stay", ""),
    ):
        screen.write(0, prompt)
        expect(screen.card(0).locator(".hint b")).to_have_text(moves)
        expect(screen.card(0).locator(".hint span").last).to_have_text(f" Ignored: “{ignored}”." if ignored else "")
