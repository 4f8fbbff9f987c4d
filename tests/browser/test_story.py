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
