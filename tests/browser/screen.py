"""What a creator does and sees on the page, in their words."""

import os
import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

TIMEOUT_MS = 20_000
FIRST_MS = 30_000  # until the page's scripts have run on a slow core
expect.set_options(timeout=TIMEOUT_MS)  # five seconds are too few beside another browser on two slow cores


class Screen:
    """One tab. Errors on the page and requests to other hosts are collected while it is used."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._requested(request.url))

    def _requested(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "data:")):
            self.foreign.append(url)

    # Acting

    def open(self, path: str = "/") -> "Screen":
        self.page.goto(self.url + path)
        expect(self.primary).to_be_visible(timeout=FIRST_MS)
        self.page.wait_for_function("window.svi.trigger && Object.keys(window.svi.setup).length > 0")
        return self

    def drop(self, picture: Path) -> None:
        self.page.set_input_files("#anchor-image input[type=file]", picture)
        self.page.wait_for_function("!!window.svi.form.image")

    def draft(self, picture: Path, *, keywords: str = "an old harbour", clips: int = 3) -> None:
        self.drop(picture)
        self.page.fill("#keywords textarea", keywords)
        self.page.fill("#length input", str(clips))
        self.page.wait_for_function(f"window.svi.form.length == {clips}")
        self.primary.click()
        expect(self.cards).to_have_count(clips)
        self.wait_phase("ready")

    def generate(self) -> None:
        expect(self.primary).to_have_text("Generate")
        self.primary.click()

    def finish(self, *, timeout_s: float = 60) -> None:
        self.wait_phase("finished", timeout_s=timeout_s)

    def write(self, index: int, text: str) -> None:
        self.prompt(index).fill(text)

    def menu(self, index: int, item: str) -> None:
        self.card(index).get_by_role("button", name="More for clip").click()
        self.page.get_by_role("menuitem", name=item).click()

    # Seeing

    @property
    def primary(self) -> Locator:
        return self.page.locator("#primary")

    @property
    def cards(self) -> Locator:
        return self.page.locator("#storyboard [data-clip]")

    @property
    def banner(self) -> Locator:
        return self.page.locator("#banner")

    def card(self, index: int) -> Locator:
        return self.cards.nth(index)

    def prompt(self, index: int) -> Locator:
        return self.card(index).locator("textarea.prompt")

    def prompts(self) -> list[str]:
        return self.cards.locator("textarea.prompt").evaluate_all("(fields) => fields.map((field) => field.value)")

    def saved_prompts(self) -> list[str]:
        """What the server has, asked for anew."""
        return self.page.evaluate(
            """async () => {
                const { id, token } = window.svi;
                const reply = await fetch(`gradio_api/studio/p/${id}/state`, { headers: { "X-Studio-Token": token } });
                return (await reply.json()).clips.map((clip) => clip.prompt);
            }"""
        )

    def state(self, path: str = ""):
        return self.page.evaluate(f"window.svi.state{path}")

    def video(self, what: str):
        return self.page.evaluate(f"document.querySelector('#player video').{what}")

    def wait(self, expression: str, *, timeout_s: float = 20) -> None:
        self.page.wait_for_function(expression, timeout=timeout_s * 1000)

    def wait_video(self, claim: str, *, timeout_s: float = 20) -> None:
        """Until `claim` holds of the video's properties, such as "ended" or "currentTime > 2"."""
        names = "currentTime, readyState, paused, ended, muted, seeking"
        self.wait(f"(({{ {names} }}) => {claim})(document.querySelector('#player video'))", timeout_s=timeout_s)

    def wait_phase(self, *phases: str, timeout_s: float = 20) -> None:
        self.wait(f"{list(phases)}.includes(document.body.dataset.phase)", timeout_s=timeout_s)

    def wait_done(self, count: int, *, timeout_s: float = 60) -> None:
        self.wait(f"document.querySelectorAll('[data-clip][data-status=done]').length >= {count}", timeout_s=timeout_s)

    def wait_saved(self) -> None:
        expect(self.page.locator("[data-at=saved]")).to_have_text("Saved")

    def snap(self, name: str, *, whole: bool = True) -> None:
        """A screenshot in the folder `SVI_SCREENSHOTS`, when somebody wants to look."""
        if folder := os.environ.get("SVI_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(
                path=Path(folder) / f"{re.sub(r'[^a-z0-9-]+', '-', name.lower())}.png", full_page=whole
            )
