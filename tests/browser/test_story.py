"""The prompt-stream engine on the page: a storyline written card by card by a model behind a loopback endpoint."""

import io
import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import PRESET, scripted
from tests.browser.test_access import check
from tests.loopback_llm import MODEL, Fault, LoopbackLLM

KEY = "loopback-key-4f1d9a7c"


class Endpoint(LoopbackLLM):
    """Answers question by question as `faults` says, and well afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Fault] = []

    def next_behaviour(self) -> tuple[Fault, int]:
        return (self.faults.pop(0) if self.faults else self.fault), self.status


@pytest.fixture(scope="module")
def endpoint():
    with Endpoint() as server:
        yield server


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of three pictures with their credits, as an operator keeps one."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in (("dog-street", (190, 120, 60)), ("dog-meadow", (70, 140, 60)), ("harbour", (50, 80, 120))):
        gradient = np.linspace(0.5, 1.0, 480)[None, :, None] * np.array(colour)
        Image.fromarray(np.broadcast_to(gradient, (320, 480, 3)).astype(np.uint8)).save(folder / f"{name}.jpg")
    credit = {"author": "Ann <b>Example</b>", "licence": "CC BY 4.0"}
    addresses = {"licence_url": "https://creativecommons.org/licenses/by/4.0/", "page_url": "https://example.org/dog"}
    credits = {"dog-street.jpg": {"title": "A dog in the street"} | credit | addresses, "dog-meadow.jpg": credit}
    (folder / "credits.yaml").write_text(json.dumps(credits))
    return folder


@pytest.fixture(scope="module")
def shared_storyteller(tmp_path_factory, endpoint, pictures):
    """A studio whose model follows any text and uses negative prompts, and whose storylines an endpoint writes."""
    folder = tmp_path_factory.mktemp("story")
    running = scripted(folder)
    (folder / "weights" / "vocabulary.json").unlink()
    (folder / "scripted.yaml").write_text(PRESET.replace("guidance_scale: 1.0", "guidance_scale: 4.0"))
    running.variables = {
        "SVI_ENDPOINT_URL": endpoint.url,
        "SVI_ENDPOINT_MODEL": MODEL,
        "SVI_ENDPOINT_KEY": KEY,
        "SVI_PICTURES": str(pictures),
    }
    yield running.start()
    running.stop()


@pytest.fixture
def storyteller(shared_storyteller, endpoint):
    endpoint.faults, endpoint.fault, endpoint.chunk_s, endpoint.first_byte_s = [], "none", 0.0, 0.0
    endpoint.requests.clear()
    shared_storyteller.tell()
    return shared_storyteller


@pytest.fixture
def story(storyteller, open_screen):
    return open_screen(storyteller)


def begin(screen, photo, *, clips: int, keywords: str = "dog, street") -> None:
    """Everything up to the click on Draft storyline."""
    screen.drop(photo)
    screen.page.fill("#keywords textarea", keywords)
    screen.page.fill("#length input", str(clips))
    screen.wait(f"window.svi.form.length == {clips}")
    screen.primary.click()


def problem_of(screen):
    return screen.page.locator("#story-problem")


def place_of(card) -> list[float]:
    """Left and top edge on the page, however far it is scrolled."""
    return card.evaluate("(node) => { const { x, y } = node.getBoundingClientRect(); return [x, y + scrollY]; }")


def test_cards_appear_one_by_one_are_edited_redrafted_from_the_fourth_and_filmed(story, endpoint, photo):
    endpoint.chunk_s = 0.02
    begin(story, photo, clips=6)
    expect(story.cards.first).to_be_visible()
    assert story.cards.count() < 3  # the first card is there before the third
    place = place_of(story.card(0))
    expect(story.primary).to_have_text("Stop drafting")
    expect(story.page.locator(".card.writing")).to_contain_text("Writing")
    story.write(0, "The dog wakes in the street")  # while the rest is being written
    assert story.page.evaluate("document.body.dataset.phase") == "drafting"
    expect(story.cards.nth(2)).to_be_visible()
    assert place_of(story.card(0)) == place  # what is there stays where it is
    expect(story.cards).to_have_count(6)
    story.wait_phase("ready")
    expect(story.page.locator(".card.writing")).to_have_count(0)
    before = story.prompts()
    assert before[0] == "The dog wakes in the street" and len(set(before)) == 6
    assert all("dog" in prompt for prompt in before)
    endpoint.chunk_s = 0.0
    story.menu(3, "Redraft from here")
    story.page.get_by_role("dialog").get_by_role("button", name="Redraft").click()
    expect(story.page.locator(".toast")).to_contain_text("Redrafted from clip 4")
    after = story.prompts()
    assert after[:3] == before[:3] and not set(after[3:]) & set(before)
    story.generate()
    story.finish()


def test_stop_drafting_keeps_the_cards_that_are_written(story, endpoint, photo):
    endpoint.chunk_s = 0.04
    begin(story, photo, clips=8)
    expect(story.cards.nth(1)).to_be_visible()
    story.primary.click()
    story.wait_phase("ready")
    kept = story.prompts()
    assert 2 <= len(kept) < 8
    assert story.saved_prompts() == kept
    expect(problem_of(story)).to_be_hidden()
    expect(story.primary).to_have_text("Generate")


def test_undo_is_offered_for_what_a_draft_replaced_and_for_nothing_else(story, endpoint, photo):
    toast = story.page.locator("[data-at=toast]")
    begin(story, photo, clips=3)
    story.wait_phase("ready")
    story.write(0, "The dog of mine wakes")
    endpoint.faults = ["hang"]
    story.page.get_by_role("button", name="Another idea").click()
    expect(story.primary).to_have_text("Stop drafting")
    story.primary.click()
    story.wait_phase("ready")
    expect(toast).to_be_hidden()
    before = story.prompts()
    assert before[0] == "The dog of mine wakes"
    endpoint.faults, endpoint.chunk_s = [], 0.05
    story.page.get_by_role("button", name="Another idea").click()
    expect(story.prompt(0)).not_to_have_value(before[0])
    story.primary.click()
    story.wait_phase("ready")
    expect(toast).to_contain_text("Another idea replaced")
    toast.get_by_role("button", name="Undo").click()
    expect(story.prompt(0)).to_have_value(before[0])
    assert story.prompts() == before == story.saved_prompts()


def test_cards_inserted_and_deleted_while_others_are_written_are_nobody_s_to_rewrite(story, endpoint, photo):
    page = story.page
    endpoint.chunk_s = 0.05
    begin(story, photo, clips=5)
    expect(story.cards.nth(1)).to_be_visible()
    story.menu(0, "Insert a clip after")
    expect(page.locator("textarea.prompt:focus")).to_be_visible()
    assert_only_the_next_card_is_awaited(story)
    page.keyboard.press("Escape")
    for _ in range(2):
        count = story.cards.count()
        story.card(count - 1).focus()
        page.keyboard.press("Delete")
        expect(page.locator("[data-at=toast]")).to_contain_text(f"Clip {count} removed")
        assert page.evaluate("document.activeElement.matches('[data-clip]')")
        assert_only_the_next_card_is_awaited(story)
    endpoint.chunk_s = 0.0
    story.wait_phase("ready")
    expect(story.cards).to_have_count(4)


def assert_only_the_next_card_is_awaited(screen) -> None:
    marked, number, clips = screen.page.evaluate(
        "[document.querySelectorAll('[data-awaited], textarea.prompt:read-only').length,"
        " document.querySelector('.card.writing .number')?.textContent,"
        " document.querySelectorAll('[data-clip]').length]"
    )
    assert marked == 0 and number == str(clips + 1)


# Asked for elsewhere, while what is typed here has not reached the studio.
ANOTHER_IDEA = """async () => {
    const { id, token } = window.svi, body = JSON.stringify({ action: "another_idea" });
    const headers = { "X-Studio-Token": token, "Content-Type": "application/json" };
    await fetch(`gradio_api/studio/p/${id}/act`, { method: "POST", headers, body });
}"""


def test_a_card_to_be_rewritten_takes_no_text_and_keeps_what_was_typed_before(story, endpoint, photo):
    begin(story, photo, clips=3)
    story.wait_phase("ready")
    before = story.prompts()
    held: list = []

    def hold(route) -> None:
        if '"set_prompt"' in (route.request.post_data or "") and not held:
            held.append(route)
        else:
            route.continue_()

    story.page.route("**/act", hold)
    story.write(2, "The dog of mine sleeps")
    story.page.wait_for_event("request", lambda request: '"set_prompt"' in (request.post_data or ""))
    endpoint.first_byte_s = 2.0
    story.page.evaluate(ANOTHER_IDEA)
    story.wait_phase("drafting")
    assert story.prompt(1).evaluate("(node) => { node.focus(); return node.readOnly; }")
    story.page.keyboard.type("lost")
    assert story.prompts() == [*before[:2], "The dog of mine sleeps"]
    assert story.prompt(2).evaluate("(node) => !node.readOnly")
    held.pop().continue_()
    story.page.unroute("**/act")
    story.wait_saved()
    endpoint.first_byte_s = 0.0
    story.wait_phase("ready")
    expect(story.prompt(1)).not_to_have_value(before[1])  # although it has the focus
    after = story.prompts()
    assert after[2] == "The dog of mine sleeps" and not set(after[:2]) & set(before)
    assert story.saved_prompts() == after


def test_a_reload_and_a_second_tab_see_the_cards_that_are_being_written(
    story, storyteller, endpoint, photo, open_screen
):
    endpoint.chunk_s = 0.03
    begin(story, photo, clips=8)
    expect(story.cards.first).to_be_visible()
    field = story.prompt(0)
    field.click()
    field.press("Control+End")
    field.press_sequentially(" It rains.", delay=60)  # cards arrive meanwhile
    assert field.input_value().endswith(" It rains.")
    assert field.evaluate("(node) => document.activeElement === node")
    story.wait_saved()
    story.page.reload()
    expect(story.primary).to_have_text("Stop drafting")
    second = open_screen(storyteller, story.page.url.removeprefix(storyteller.url))
    expect(second.cards.first).to_be_visible()
    endpoint.chunk_s = 0.0
    for tab in (story, second):
        expect(tab.cards).to_have_count(8)
        tab.wait_phase("ready")
    assert story.prompts() == second.prompts()
    assert story.prompts()[0].endswith(" It rains.")


def test_an_endpoint_that_breaks_off_is_told_and_templates_step_in_only_when_asked(story, endpoint, photo):
    endpoint.faults = ["none", "cut"]  # the question about the picture, then the one for cards
    begin(story, photo, clips=6)
    expect(problem_of(story)).to_be_visible()
    kept = story.prompts()
    assert 1 <= len(kept) < 6
    expect(problem_of(story)).to_contain_text(f"{len(kept)} of 6 cards")
    story.snap("story-problem")
    endpoint.faults = ["none", "cut"]
    problem_of(story).get_by_role("button", name="Try again").click()
    story.wait(f"window.svi.state.clips.length > {len(kept)} && !window.svi.state.story.drafting")
    expect(problem_of(story)).to_be_visible()
    more = story.prompts()
    assert more[: len(kept)] == kept and len(more) < 6
    problem_of(story).get_by_role("button", name=re.compile("use templates instead", re.I)).click()
    expect(story.cards).to_have_count(6)
    expect(problem_of(story)).to_be_hidden()
    assert story.prompts()[: len(more)] == more
    assert len(endpoint.questions) == 4  # nobody asked the endpoint for the rest


def test_the_next_beat_is_drafted_from_the_last_frame_and_extend_films_it(story, storyteller, endpoint, photo):
    begin(story, photo, clips=2)
    story.wait_phase("ready")
    expect(story.page.locator("#next-beat")).to_have_attribute("aria-disabled", "true")
    story.generate()
    story.finish()
    anchor = endpoint.questions[0].pictures[0]
    asked = len(endpoint.questions)
    story.page.locator("#next-beat").click()
    expect(story.cards).to_have_count(3)
    story.wait_phase("ready")  # drafted, not filmed
    expect(story.page.locator("#next-beat")).to_have_attribute("aria-disabled", "true")
    sent = next(question.pictures[0] for question in endpoint.questions[asked:] if question.pictures)
    assert looks_like(sent, last_frame(storyteller, story, 1)) and not looks_like(sent, read(anchor))
    story.generate()
    story.finish()
    asked = len(endpoint.questions)
    story.page.locator("[data-extend='1']").click()
    expect(story.cards).to_have_count(4)
    story.finish()
    sent = next(question.pictures[0] for question in endpoint.questions[asked:] if question.pictures)
    assert looks_like(sent, last_frame(storyteller, story, 2))


def test_what_a_draft_waits_for_is_said_in_the_studio_s_words(story, endpoint, photo):
    message = "Waiting until the film model is loaded: then loopback-vl takes its place."
    endpoint.fault = "hang"

    def waiting(route) -> None:
        reply = route.fetch()
        state = reply.json() if reply.status == 200 else {}
        if state.get("story", {}).get("drafting"):
            state["story"]["drafting"]["state"], state["message"] = "waiting", message
        route.fulfill(response=reply, json=state) if state else route.fulfill(response=reply)

    story.page.route("**/state*", waiting)
    begin(story, photo, clips=2)
    expect(story.page.locator("[data-at=message]")).to_have_text(message)
    expect(story.page.locator(".card.writing .status")).to_have_text("Waiting…")
    expect(story.page.locator("#topbar")).not_to_contain_text("Writing")
    story.page.unroute("**/state*")
    story.primary.click()
    story.wait_phase("draft")


@pytest.mark.parametrize("button", ["#primary", "#stop"])
def test_one_click_ends_a_film_without_end_while_its_next_beat_is_thought_of(
    button, story, storyteller, endpoint, photo
):
    begin(story, photo, clips=1)
    story.wait_phase("ready")
    story.generate()
    story.finish()
    endpoint.first_byte_s = 2.0
    if button == "#stop":
        storyteller.tell(hold=[1])
    story.page.locator("#extend").click()
    story.page.get_by_role("menuitem", name="Until I stop").click()
    if button == "#primary":
        expect(story.primary).to_have_text("Stop drafting")
        story.primary.click()
    else:
        stop_late(story, storyteller, endpoint)
    story.wait_phase("finished", "paused")
    expect(story.primary).to_have_text(re.compile("Extend|Resume"))
    endpoint.first_byte_s = 0.0
    asked, clips = len(endpoint.questions), story.cards.count()
    for _ in range(3):  # it does not go on by itself
        with story.page.expect_request(re.compile("/state")):
            pass
        assert story.state(".phase") in ("finished", "paused")
    assert len(endpoint.questions) == asked and story.cards.count() == clips


def stop_late(screen, storyteller, endpoint) -> None:
    """Click Stop when the film has gone on to think of its next beat and the page does not know it yet."""
    expect(screen.page.locator("#stop")).to_be_visible(timeout=15_000)
    asked = len(endpoint.questions)
    screen.page.route("**/state*", lambda route: None)  # no answer
    storyteller.tell()
    while len(endpoint.questions) == asked:
        screen.page.wait_for_timeout(50)
    expect(screen.page.locator("#stop")).to_be_visible()
    screen.page.locator("#stop").click()
    screen.page.unroute("**/state*")


def read(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB").resize((24, 16)), dtype=float)


def last_frame(studio, screen, index: int) -> np.ndarray:
    digest = screen.state(f".film.segments[{index}].digest")
    (folder,) = studio.folder.glob(f"data/films/*{screen.state('.project.id')}*/takes/{digest}/tail")
    return read(max(folder.glob("*.png"), key=lambda file: int(file.stem)).read_bytes())


def looks_like(sent: bytes, frame: np.ndarray) -> bool:
    """Within what a JPEG changes; the scripted films change by tens of levels a clip."""
    return float(np.abs(read(sent) - frame).mean()) < 6


def test_a_french_draft_shows_captions_beside_the_english_prompts(story, endpoint, photo):
    story.page.select_option("#language", "fr")
    story.page.select_option("#tone", "comedy")
    expect(story.page.locator("#telling-note")).to_contain_text("Français")
    begin(story, photo, clips=2)
    story.wait_phase("ready")
    caption = story.card(0).locator(".caption")
    expect(caption).to_have_attribute("lang", "fr")
    expect(caption).to_have_attribute("dir", "auto")
    assert caption.inner_text() == story.state(".clips[0].caption")
    expect(story.prompt(0)).to_have_attribute("lang", "en")
    assert any("French" in question.text or "Français" in question.text for question in endpoint.questions)
    assert story.state(".story.telling") == {"tone": "comedy", "pace": "steady", "language": "fr"}
    story.page.reload()
    expect(story.page.locator("#language")).to_have_value("fr")


def test_a_caption_keeps_its_language_when_the_film_s_changes(story, endpoint, photo):
    story.page.select_option("#language", "fr")
    begin(story, photo, clips=2)
    story.wait_phase("ready")
    story.page.select_option("#language", "de")
    story.wait("window.svi.state.story.telling.language === 'de'")
    assert story.state(".clips.map((clip) => clip.caption_language)") == ["fr", "fr"]
    expect(story.card(0).locator(".caption")).to_have_attribute("lang", "fr")


def test_templates_leave_open_only_the_choices_that_mean_something_to_them(screen):
    page, fields = screen.page, screen.page.evaluate("window.svi.setup.story.fields")
    for name, field in fields.items():
        assert page.locator(f"#{name}").is_enabled() == field["enabled"]
        if not field["enabled"]:
            expect(page.locator("#telling-note")).to_contain_text(field["why_not"])
            expect(page.locator(f"#{name}")).to_have_attribute("title", field["why_not"])
    assert fields["pace"]["enabled"] and not fields["language"]["enabled"]


def test_a_storyline_goes_out_as_a_file_and_comes_back(story, photo, tmp_path):
    begin(story, photo, clips=3)
    story.wait_phase("ready")
    written = story.prompts()
    for label, suffix in (("Text", "txt"), ("JSON", "json"), ("prompt.txt", "py"), ("Markdown", "md")):
        with story.page.expect_download() as download:
            tools(story, f"Export as {label}")
        file = tmp_path / f"story.{suffix}"
        download.value.save_as(file)
        story.write(0, f"Something else than in the {label}")
        story.wait_saved()
        with story.page.expect_file_chooser() as chooser:
            tools(story, "Import a storyline")
        chooser.value.set_files(file)
        expect(story.prompt(0)).to_have_value(written[0])
        assert story.prompts() == written
    expect(story.page.locator(".toast")).to_contain_text("The storyline of the file replaced 3 cards.")
    story.page.locator(".toast").get_by_role("button", name="Undo").click()
    expect(story.prompt(0)).to_have_value("Something else than in the Markdown")


def test_the_largest_storyline_that_can_be_exported_can_be_imported(story, photo, tmp_path):
    begin(story, photo, clips=1)
    story.wait_phase("ready")
    caption = "कुत्ता गली में चलता है और बारिश शुरू होती है। " * 12
    clips = [{"prompt": f"{number}. " + "The dog walks on. " * 45, "caption": caption} for number in range(200)]
    clips[7]["prompt"] = "[wide] The dog walks on."  # as a line of text this would be a list
    file = tmp_path / "story.json"
    file.write_text(json.dumps({"clips": clips}, ensure_ascii=False), encoding="utf-8")
    assert file.stat().st_size > 440_000
    with story.page.expect_file_chooser() as chooser:
        tools(story, "Import a storyline")
    chooser.value.set_files(file)
    expect(story.cards).to_have_count(200)
    story.page.get_by_role("button", name="Import and export").click()
    offered = story.page.get_by_role("menuitem", name="Export as").all_inner_texts()
    assert len(offered) == 3 and not any("Text" in item for item in offered)


def tools(screen, item: str) -> None:
    screen.page.get_by_role("button", name="Import and export").click()
    screen.page.get_by_role("menuitem", name=item).click()


def test_cards_are_split_at_the_cursor_merged_and_given_a_negative_prompt_by_keys_alone(story, photo):
    page = story.page
    begin(story, photo, clips=2)
    story.wait_phase("ready")
    story.write(0, "A dog sleeps. It wakes and barks.")
    story.wait_saved()
    story.prompt(0).press("Home")
    for _ in range(len("A dog sleeps.")):
        page.keyboard.press("ArrowRight")
    story.card(0).get_by_role("button", name="More for clip").focus()
    choose_by_keys(page, "Split at the cursor")
    expect(story.cards).to_have_count(3)
    assert story.prompts()[:2] == ["A dog sleeps.", "It wakes and barks."]
    story.card(0).get_by_role("button", name="More for clip").focus()
    choose_by_keys(page, "Merge with the next")
    expect(story.cards).to_have_count(2)
    assert story.prompts()[0] == "A dog sleeps. It wakes and barks."
    page.locator(".toast").get_by_role("button", name="Undo").click()
    expect(story.cards).to_have_count(3)
    story.card(1).get_by_role("button", name="More for clip").focus()
    choose_by_keys(page, "Negative prompt")
    page.keyboard.type("people, text")
    story.wait("window.svi.state.clips[1].negative_prompt === 'people, text'")
    page.reload()
    expect(story.card(1).get_by_label("Negative prompt")).to_have_value("people, text")


def choose_by_keys(page, item: str) -> None:
    page.keyboard.press("Enter")
    for _ in range(20):
        if item in page.evaluate("document.activeElement.textContent"):
            return page.keyboard.press("Enter")
        page.keyboard.press("ArrowDown")
    raise AssertionError(f"no {item} in the menu")


def test_hostile_text_of_a_model_is_refused_and_that_of_a_file_is_shown_as_text(story, endpoint, photo, tmp_path):
    page, code = story.page, "${Object.assign(window,{pwned:1})} <img src=x onerror=pwned=1>"
    endpoint.fault = "hostile text"
    page.select_option("#language", "fr")
    begin(story, photo, clips=2, keywords=f"dog {code}")
    expect(problem_of(story)).to_contain_text("No card was written yet.")
    clips = [{"prompt": f"A dog. {code} \u202egnp", "caption": f"Un chien. {code}", "negative_prompt": code}]
    file = tmp_path / "story.json"
    file.write_text(json.dumps({"clips": clips}))
    with page.expect_file_chooser() as chooser:
        tools(story, "Import a storyline")
    chooser.value.set_files(file)
    expect(story.prompt(0)).to_have_value(f"A dog. {code} gnp")  # the override of the direction is gone
    expect(story.card(0).locator(".caption")).to_have_text(f"Un chien. {code}")
    expect(story.card(0).get_by_label("Negative prompt")).to_have_value(code)
    expect(page.locator("[data-at=title]")).to_have_value(re.compile(r"\$\{Object"))
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.pwned") is None


def test_the_endpoint_s_key_is_nowhere_a_visitor_can_look(story, endpoint, photo):
    answers: list[str] = []

    def keep(response) -> None:
        with suppress(Exception):  # a redirect or a media answer has no text
            answers.append(response.text())

    story.page.on("response", keep)
    endpoint.fault = "reflect"
    begin(story, photo, clips=2)
    expect(problem_of(story)).to_be_visible()
    assert any(KEY in question.headers["authorization"] for question in endpoint.questions)
    seen = story.page.evaluate(
        "[document.documentElement.outerHTML, JSON.stringify({...localStorage}), JSON.stringify(window.svi.state),"
        " JSON.stringify(window.svi.setup), ...[...document.querySelectorAll('textarea')].map((f) => f.value)].join()"
    )
    assert KEY not in seen and len(answers) > 3
    assert not [answer for answer in answers if KEY in answer]


def test_a_picture_is_found_chosen_and_credited(story, photo):
    page = story.page
    page.get_by_text("Find a picture").click()
    expect(page.locator(".finder-note")).to_contain_text("Your words are looked up in:")
    page.get_by_label("Words for the picture").fill("dog")
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name=re.compile("dog", re.I))).to_have_count(2)
    first = page.get_by_role("radio", name="A dog in the street")
    first.focus()
    page.keyboard.press("Space")
    expect(first).to_be_checked()
    expect(page.locator(".found")).to_contain_text("“A dog in the street” by Ann <b>Example</b>, CC BY 4.0")
    expect(page.locator("#anchor-image")).to_be_hidden()
    story.page.fill("#length input", "2")
    story.primary.click()
    story.wait_phase("ready")
    credit = page.locator("#topbar .credit")
    expect(credit).to_contain_text("“A dog in the street” by Ann <b>Example</b>, CC BY 4.0")
    expect(credit.get_by_role("link", name="CC BY 4.0")).to_have_attribute("rel", "noopener noreferrer")
    assert credit.locator("b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_while_drafting_after_a_failure_and_in_the_grid(
    scheme, storyteller, endpoint, photo, open_screen
):
    screen = open_screen(storyteller, color_scheme=scheme)
    page = screen.page
    page.get_by_text("Find a picture").click()
    page.get_by_label("Words for the picture").fill("dog")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("radio", name=re.compile("dog", re.I)).first.check(force=True)
    check(screen, f"{scheme}-picture-grid")
    page.get_by_role("button", name="Use a picture of mine").click()
    endpoint.chunk_s, endpoint.faults = 0.03, ["none", "cut"]
    page.select_option("#language", "fr")
    begin(screen, photo, clips=6)
    expect(screen.cards.first).to_be_visible()
    check(screen, f"{scheme}-drafting")
    expect(problem_of(screen)).to_be_visible()
    check(screen, f"{scheme}-problem")
