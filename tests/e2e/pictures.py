"""The two pictures of the README: `make pictures` takes them, and every test run checks that their content exists.

They are written to the folder that PICTURES names, otherwise to the folder of the other screenshots.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.browser import SCREENSHOTS, Browser, silent, spoken
from tests.support.documents import LARGEST_PICTURE, REPOSITORY
from tests.support.node import Node
from tests.support.processes import poll

#: Pixels: twice the width on a page of GitHub, for sharp screens.
WIDTH = 1600


def keep(browser: Browser, name: str) -> None:
    """Write a screenshot that is small enough for a repository."""
    folder = REPOSITORY / os.environ["PICTURES"] if "PICTURES" in os.environ else SCREENSHOTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.webp"
    with Image.open(browser.screenshot(f"readme-{name}")) as picture:
        picture.thumbnail((WIDTH, WIDTH))
        picture.convert("RGB").save(path, quality=80, method=6)
    assert path.stat().st_size < LARGEST_PICTURE


@contextlib.contextmanager
def others(node: Node) -> Iterator[None]:
    """Start sessions of other users, so that the page has content."""
    begun = [str(node.begin(user)["sessionId"]) for user in ("grace", "linus")]
    yield
    for session in begun:
        node.end(session)


def talk(page: Page, node: Node) -> None:
    """Press Talk, and wait for the agent's greeting."""
    page.goto(f"{node.url}/")
    page.get_by_role("button", name="Talk").click()
    expect(page.locator("main")).to_contain_text("How can I help you?")


def the_picture_of_the_page_in_a_call(node: Node, tmp_path: Path) -> None:
    with Browser(microphone=spoken(tmp_path, "What time is it?"), size=(900, 540)) as browser:
        talk(browser.page, node)
        shown = lambda: " ".join(browser.page.inner_text("main").split())  # noqa: E731
        poll(
            lambda: re.search(r"help you.*[Tt]ime is it.* It is .*\bin the \w+\.", shown()),
            "an answer is shown",
            60,
            every=0.2,
        )
        keep(browser, "talk")
        assert browser.errors == []
        browser.page.get_by_role("button", name="Hang up").click()


def the_picture_of_the_status_page(node: Node, tmp_path: Path) -> None:
    with others(node), Browser(microphone=silent(tmp_path), size=(1280, 860)) as browser:
        page = browser.page
        caller = page.context.new_page()
        talk(caller, node)
        page.bring_to_front()
        page.goto(f"{node.url}/status")
        page.get_by_label("Admin token").fill(node.secrets["ADMIN_TOKEN"])
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#link")).to_have_text("Live")
        for user in ("grace", "linus"):
            expect(page.get_by_role("button", name=user, exact=True).first).to_be_visible()
        expect(page.locator("#tile-active .figure")).to_have_text("1")
        keep(browser, "status")
        caller.get_by_role("button", name="Hang up").click()
        assert browser.errors == []


STEPS = [the_picture_of_the_page_in_a_call, the_picture_of_the_status_page]
