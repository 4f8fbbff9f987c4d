"""The drift meter on the cards and the chart above them."""

import pytest
from playwright.sync_api import expect

from tests.browser.test_access import check

SIZES = {"desktop": {"viewport": {"width": 1440, "height": 900}}, "phone": {"viewport": {"width": 390, "height": 844}}}


def meter(screen, index: int):
    return screen.card(index).get_by_role("button", name=f"Drift of clip {index + 1}")


def film(screen, studio, photo, *, clips: int = 4, grainy: tuple[int, ...] = (2, 3)) -> None:
    studio.tell(grainy=list(grainy))
    screen.draft(photo, clips=clips)
    screen.generate()
    screen.finish()


def test_each_finished_clip_says_whether_it_drifts(screen, studio, photo):
    film(screen, studio, photo)
    expect(meter(screen, 0)).to_have_text("Holds")
    expect(meter(screen, 2)).to_have_text("Grainy")
    expect(screen.page.locator(".drift-words")).to_contain_text("2 of 4 clips drift; the first is clip 3: grain")
    expect(screen.page.get_by_role("img", name="Likeness of the background")).to_be_visible()


def test_the_meter_opens_the_figures_by_mouse_and_by_keys(screen, studio, photo):
    film(screen, studio, photo)
    figures = screen.card(2).get_by_role("group", name="Drift of clip 3")
    expect(figures).to_be_hidden()
    meter(screen, 2).click()
    expect(figures).to_contain_text("% like the picture")
    expect(figures).to_contain_text("Grain or a fine grid is building up.")
    expect(meter(screen, 2)).to_have_attribute("aria-expanded", "true")
    screen.card(2).focus()
    screen.page.keyboard.press("Tab")
    expect(meter(screen, 2)).to_be_focused()
    screen.page.keyboard.press("Enter")
    expect(figures).to_be_hidden()


def test_the_chart_leads_to_the_clip_where_drift_begins(screen, studio, photo):
    film(screen, studio, photo, clips=6, grainy=(4,))
    screen.page.get_by_role("button", name="Show clip 5").click()
    expect(screen.card(4)).to_be_focused()
    expect(screen.card(4)).to_be_in_viewport()
    expect(screen.card(4).get_by_role("group", name="Drift of clip 5")).to_be_visible()


def test_figures_that_are_open_follow_the_take_that_is_shown(screen, studio, photo):
    film(screen, studio, photo, clips=2, grainy=(1,))
    meter(screen, 1).click()
    studio.tell()
    screen.menu(1, "Regenerate")
    screen.page.get_by_role("dialog").get_by_role("button", name="Regenerate").click()
    expect(screen.card(1)).to_contain_text("take 2 of 2")
    expect(meter(screen, 1)).to_have_text("Holds")
    screen.finish()
    screen.card(1).get_by_role("button", name="Earlier take of clip 2").click()
    expect(meter(screen, 1)).to_have_text("Grainy")


@pytest.mark.parametrize("size", SIZES)
def test_nothing_moves_when_a_clip_is_measured(size, studio, photo, open_screen):
    screen = open_screen(studio, **SIZES[size])
    screen.draft(photo, clips=4)
    tops = "[...document.querySelectorAll('.drift-strip, [data-clip], [data-clip] textarea')].map((e) => e.offsetTop)"
    before = screen.page.evaluate(tops)
    studio.tell(grainy=[1, 2, 3])
    screen.generate()
    screen.finish()
    expect(meter(screen, 1)).to_have_text("Grainy")
    assert screen.page.evaluate(tops) == before


def test_the_chart_costs_the_same_nodes_for_200_clips_and_its_words_stay_text(screen, photo):
    screen.draft(photo, clips=200)
    shown = screen.page.evaluate(
        """() => {
            const state = structuredClone(window.svi.state), board = window.svi.parts.storyboard;
            const nodes = () => document.querySelectorAll('.drift-strip *').length, before = nodes();
            const reading = { level: 'drifting', label: '<b>${1}</b>', causes: ['grain'], movement: 'light', hint: '',
                structure: 0.9, sharpness: 0.9, grain: 0.07, motion: 0, colour_shift: 9, change: 9 };
            for (const clip of state.clips) clip.drift = { ...reading, structure: 1 - clip.index / 400 };
            state.drift = { text: '<img src=x onerror=alert(1)> ${2}', clip_id: null };
            const start = performance.now();
            board.update(state);
            document.querySelector('#storyboard').getBoundingClientRect();
            const elapsed = performance.now() - start;
            const text = document.querySelector('.drift-words').textContent;
            const label = document.querySelector('.meter').textContent;
            const markup = document.querySelector('.meter b, .drift-words img');
            return { elapsed, added: nodes() - before, text, label, markup };
        }"""
    )
    assert shown.pop("elapsed") < 500
    assert shown == {"added": 0, "text": "<img src=x onerror=alert(1)> ${2}", "label": "<b>${1}</b>", "markup": None}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_serious_in_open_figures(scheme, size, studio, photo, open_screen):
    screen = open_screen(studio, color_scheme=scheme, **SIZES[size])
    film(screen, studio, photo)
    meter(screen, 0).click()
    meter(screen, 2).click()
    check(screen, f"drift-{size}-{scheme}")
    assert screen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_film_made_before_there_was_a_meter_shows_none(screen, studio, photo):
    film(screen, studio, photo, clips=2, grainy=())
    for file in (studio.folder / "data" / "films" / screen.state(".project.id") / "takes").glob("*/take.json"):
        text = file.read_text()
        file.write_text(text[: text.index(',\n "drift"')] + "\n}")
    studio.stop()
    studio.start()
    screen.page.reload()
    expect(screen.cards).to_have_count(2)
    expect(screen.page.locator(".drift-words")).to_have_text("These clips were made before drift was measured.")
    expect(screen.page.locator(".meter:visible")).to_have_count(0)
