"""A film is rendered again by another model and both are watched; a film of another size plays and offers a copy."""

import json
import shutil

import pytest
from playwright.sync_api import expect

from engine.domain import new_id
from studio.tokens import Tokens
from tests.browser.conftest import PRESET, scripted
from tests.browser.screen import Screen
from tests.browser.test_access import check
from tests.conftest import OLD_PROJECT

IN_STEP = """() => {
    const { player } = window.svi.parts, [main, beside] = document.querySelectorAll('#player video');
    const share = ({ segments }, seconds) => {
        const index = segments.findLastIndex((one) => one.start_s <= seconds + 0.001);
        return index + (seconds - segments[index].start_s) / segments[index].duration_s;
    };
    return Math.abs(share(player.film, main.currentTime) - share(player.beside.film, beside.currentTime));
}"""


def opened(open_screen, running) -> Screen:
    """The page on a film that an earlier studio made at 288×192."""
    project = json.loads((OLD_PROJECT / "project.json").read_text()) | {"id": new_id()}
    folder = running.folder / "data" / "films" / project["id"]
    shutil.copytree(OLD_PROJECT, folder)
    (folder / "project.json").write_text(json.dumps(project))
    token = Tokens.open(running.folder / "data" / "secret.key").give(project["id"], "edit")
    return open_screen(running, f"/?project={project['id']}&token={token}")


@pytest.fixture
def longer(tmp_path):
    """A studio whose clips are 41 frames at 16 fps."""
    running = scripted(tmp_path)
    (tmp_path / "scripted.yaml").write_text(PRESET.replace("num_frames: 25", "num_frames: 41").replace("12", "16", 1))
    yield running.start()
    running.stop()


def test_a_film_is_rendered_by_another_model_and_shown_beside_the_first(longer, open_screen):
    screen = opened(open_screen, longer)
    screen.finish()
    screen.page.evaluate(
        """async () => {
            const { project_id, token } = await window.svi.act("copy", { owner: window.svi.owner() });
            window.svi.open(project_id, token);
        }"""
    )
    screen.wait("window.svi.state?.project.title.endsWith('(copy)')")
    prompts, first = screen.prompts(), screen.state(".project.id")
    screen.page.locator("#remake").click()
    dialog = screen.page.get_by_role("dialog", name="Render with…")
    expect(dialog.get_by_role("radio", name="SVI 1.0, Wan 2.1 14B")).to_be_disabled()
    expect(dialog).to_contain_text("python -m engine weights download --preset svi-1")
    dialog.locator("input[value=scripted]").check()
    check(screen, "remake-dialog")
    dialog.get_by_role("button", name="Make the copy").click()
    screen.wait("window.svi.state?.project.preset === 'scripted'")
    screen.wait_phase("ready")
    assert screen.prompts() == prompts and screen.state(".origin.id") == first
    screen.generate()
    screen.finish()

    both = screen.page.get_by_role("button", name="Show the film by Pocket beside this one")
    both.click()
    screen.wait("document.querySelectorAll('#player video')[1].readyState >= 2")
    screen.page.evaluate("window.svi.parts.player.pause()")
    for seconds in (1.0, 2.4, 4.0):
        screen.page.evaluate(f"window.svi.parts.player.seek({seconds})")
        screen.wait(f"({IN_STEP})() < 0.03")
    check(screen, "side-by-side")
    screen.page.evaluate("window.svi.parts.player.seek(0)")
    screen.page.evaluate("window.svi.parts.player.play()")
    screen.wait_video("currentTime > 3")  # across the seam
    assert screen.page.evaluate(IN_STEP) < 0.15
    both.click()
    expect(screen.page.locator("#player video.beside")).to_be_hidden()


def test_a_film_of_another_size_plays_and_a_copy_is_offered(studio, open_screen):
    old = opened(open_screen, studio)
    old.finish()
    expect(old.page.locator("#extend")).to_be_hidden()
    expect(old.page.locator("#deck .message")).to_contain_text("This film was made at 288×192")
    expect(old.card(0)).to_contain_text("Made by an earlier model")
    expect(old.card(0).get_by_role("button", name="Regenerate", exact=True)).to_be_hidden()
    old.wait_video("readyState >= 3")
    assert abs(old.video("duration") - 3.75) < 0.05
    old.page.evaluate("window.svi.parts.player.play()")
    old.wait_video("ended", timeout_s=30)
    check(old, "another-size")
    old.page.keyboard.press("e")
    expect(old.page.locator("#problem")).to_contain_text("Make a copy at the new size")
    assert len(old.prompts()) == 2

    before = old.prompts()
    expect(old.primary).to_have_text("Make a copy at the new size")
    old.primary.click()
    old.wait_phase("ready")
    assert old.prompts() == before and old.state(".project.width") == 832
    expect(old.primary).to_have_text("Generate")
