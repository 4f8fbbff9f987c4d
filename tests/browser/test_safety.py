"""Rule S1: text from people, files and models is text on the page, whatever it looks like."""

import re

from playwright.sync_api import expect

from tests.browser.conftest import ROOT

ATTACKS = (
    "${Object.assign(window,{pwned:1})}",
    '<img src=x onerror="window.pwned=1">',
    "{{constructor.constructor('window.pwned=1')()}}",
    "`;window.pwned=1;//",
)


def test_no_template_has_a_placeholder():
    markup = sorted((ROOT / "studio" / "ui" / "markup").glob("*.html"))
    assert len(markup) >= 8
    for path in markup:
        assert "${" not in path.read_text() and "{{" not in path.read_text(), path.name
    for path in (ROOT / "studio").rglob("*.py"):
        for template in re.findall(r"html_template=(.+?),", path.read_text()):
            assert template in ("markup", '"<i></i>"', '"<h2>Setup</h2>"'), f"{path.name}: {template}"


def test_scripts_build_no_markup_from_text():
    for path in (ROOT / "studio" / "ui").glob("*.js"):
        source = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in source, f"{path.name}: {word}"


def test_code_in_every_field_stays_text(screen, studio, photo, open_screen, tmp_path):
    page = screen.page
    attack = " ".join(ATTACKS)
    picture = tmp_path / "${Object.assign(window,{pwned:1})}<img src=x onerror=pwned=1>.jpg"
    picture.write_bytes(photo.read_bytes())
    page.locator("#advanced button, #advanced summary").first.click()
    page.locator("#title textarea, #title input").first.fill(attack[:190])
    page.locator("#negative-prompt textarea, #negative-prompt input").first.fill(attack)
    screen.draft(picture, keywords=attack[:400], clips=2)
    screen.write(0, attack)
    screen.wait_saved()
    page.locator("[data-at=title]").fill(attack[:190])
    screen.wait_saved()
    screen.generate()
    screen.finish()
    page.reload()
    expect(screen.prompt(0)).to_have_value(" ".join(attack.split()))
    screen.menu(0, "Regenerate")
    page.get_by_role("dialog").get_by_label("Prompt").fill(attack + " again")
    page.get_by_role("dialog").get_by_role("button", name="Regenerate").click()
    screen.wait_done(2)
    other = open_screen(studio, page.url.removeprefix(studio.url))
    expect(other.cards).to_have_count(2)
    for tab in (screen, other):
        assert tab.page.evaluate("window.pwned") is None
        assert tab.page.locator("#storyboard img[src=x], #topbar img").count() == 0
    assert "${Object.assign(window" in page.title()


def test_odd_letters_and_long_texts_are_shown_or_refused(screen, photo):
    screen.draft(photo, clips=2)
    screen.write(0, "夜の港 🌙 مساء الخير في الميناء é̂")
    screen.wait_saved()
    assert screen.saved_prompts()[0] == "夜の港 🌙 مساء الخير في الميناء é̂"
    screen.page.evaluate("document.querySelectorAll('#storyboard textarea')[1].removeAttribute('maxlength')")
    screen.write(1, "x" * 10_000)
    expect(screen.card(1)).to_contain_text("up to 1,000 are allowed")


def test_a_wrong_link_says_so_and_leads_to_a_new_film(studio, open_screen):
    screen = open_screen(studio, "/?project=" + "a" * 26)
    expect(screen.page.locator("#problem")).to_contain_text("This film is not here")
