"""A real browser: Debian's Chromium, driven by Playwright, with a fake microphone that plays a file.

    with Browser(microphone=spoken(tmp_path, "What time is it?")) as browser:
        browser.page.goto(node.url)
        browser.page.get_by_role("button", name="Talk").click()
        poll(lambda: browser.heard() > 0, "the agent is heard", every=0.2)
        browser.screenshot("call")
        assert browser.errors == []

Only for tests that are not async: Playwright's synchronous API needs a thread without a running event loop. Each test
starts its own browser, because the microphone is a command line flag. A strict CSP forbids `page.wait_for_function`.
"""

import contextlib
import tempfile
import wave
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil
from numpy.typing import NDArray
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Playwright, Request, expect, sync_playwright

from tests.support.processes import alive, poll
from tests.support.tools import tool

#: Limit of every wait for a page, in milliseconds. It asserts nothing about speed.
WAIT_MS = 90_000
SCREENSHOTS = Path(__file__).resolve().parents[2] / ".screenshots"
#: (width, height)
PHONE, DESKTOP = (360, 740), (1280, 800)
#: Hz: Chromium's fake microphone does not resample this rate.
_RATE = 48_000

_ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Sums the energy that all peer connections have received; a track that has ended keeps its last value.
_EAR = """(() => {
  const connections = [], energies = new Map(), Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(...options) { super(...options); connections.push(this); }
  };
  window.__heard = async () => {
    for (const [index, connection] of connections.entries())
      for (const row of (await connection.getStats()).values())
        if (row.type === 'inbound-rtp' && row.kind === 'audio' && row.totalAudioEnergy)
          energies.set(`${index}:${row.ssrc}`, row.totalAudioEnergy);
    return [...energies.values()].reduce((sum, energy) => sum + energy, 0);
  };
})();"""


def chromium() -> str:
    """Return the path of Chromium."""
    return tool("chromium", "Debian: apt install chromium")


def spoken(folder: Path, sentence: str, *, before: float = 6, after: float = 6) -> Path:
    """Return a sound file with a sentence between two silences.

    The first silence outlasts the agent's greeting, because speech during it is recognised badly. The file starts
    when the page opens the microphone, and repeats.
    """
    from agent_runtime.offline import speech

    sound = speech.voice().speak(sentence)
    at = np.arange(int(len(sound) * _RATE / speech.TTS_RATE)) * speech.TTS_RATE / _RATE
    samples = np.interp(at, np.arange(len(sound)), sound).astype(np.int16)
    return _sound(folder / "microphone.wav", np.pad(samples, (int(before * _RATE), int(after * _RATE))))


def silent(folder: Path) -> Path:
    """Return a sound file with silence: a voice agent may take Chromium's beep for a word, and answer it."""
    return _sound(folder / "silence.wav", np.zeros(_RATE, np.int16))


def _sound(path: Path, samples: NDArray[np.int16]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes(samples.tobytes())
    return path


class Browser:
    """One Chromium with one page; all of its processes are gone at exit.

    `microphone` is a sound file, True for a beep, False for one that the user denies, or None for no microphone.
    """

    def __init__(
        self, *, microphone: Path | bool | None = True, size: tuple[int, int] = DESKTOP, dark: bool = False,
        calm: bool = False,
    ) -> None:  # fmt: skip
        self._path = chromium()
        refused = "=deny" if microphone is False else ""
        self._arguments = [*_ARGUMENTS, f"--use-fake-ui-for-media-stream{refused}"]
        if microphone is not None:
            self._arguments.append("--use-fake-device-for-media-stream")
        if isinstance(microphone, Path):
            self._arguments.append(f"--use-file-for-fake-audio-capture={microphone}")
        self._size, self._dark, self._calm = size, dark, calm
        #: Errors of the page: console errors, uncaught exceptions and requests without a response.
        self.errors: list[str] = []
        self.page: Page
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._closing:
            profile = self._closing.enter_context(
                tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
            )
            self._closing.callback(_assert_gone, profile)
            context = self._launch(self._closing.enter_context(sync_playwright()), profile)
            self._closing.callback(context.close)
            context.add_init_script(_EAR)
            context.set_default_timeout(WAIT_MS)
            expect.set_options(timeout=WAIT_MS)
            self.page = context.pages[0]
            self.page.on("console", self._said)
            self.page.on("pageerror", lambda error: self.errors.append(str(error)))
            self.page.on("requestfailed", self._failed)
            self._closing = self._closing.pop_all()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with self._closing:
            if error is not None:
                with contextlib.suppress(Exception):
                    self.screenshot("failed")

    def _launch(self, playwright: Playwright, profile: str) -> BrowserContext:
        width, height = self._size
        return playwright.chromium.launch_persistent_context(
            profile,
            executable_path=self._path,
            headless=True,
            # Chromium's sandbox does not work as root in a container.
            chromium_sandbox=False,
            args=self._arguments,
            viewport={"width": width, "height": height},
            device_scale_factor=2,
            color_scheme="dark" if self._dark else "light",
            reduced_motion="reduce" if self._calm else "no-preference",
        )

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def _failed(self, request: Request) -> None:
        # A request that the page itself aborts, by navigating away or closing a stream, is not an error.
        if request.failure != "net::ERR_ABORTED":
            self.errors.append(f"{request.method} {request.url}: {request.failure}")

    def heard(self) -> float:
        """Return the energy of all sound that the page has received: it grows while the other side speaks."""
        return float(self.page.evaluate("() => window.__heard()"))

    def screenshot(self, name: str) -> Path:
        """Save a screenshot of the page for people to look at; returns its file."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}-{self._size[0]}-{'dark' if self._dark else 'light'}.png"
        self.page.screenshot(path=path)
        return path


def _assert_gone(profile: str) -> None:
    """Assert that no process of a browser is left: all of them have the profile's folder in their arguments."""

    def left() -> list[int]:
        return [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if any(profile in part for part in process.info["cmdline"] or ()) and alive(process.pid)
        ]

    poll(lambda: not left(), "every process of the browser is gone")


def shown(browser: Browser, text: str, seconds: float = 30) -> None:
    """Wait until the page shows a text."""
    poll(lambda: text.lower() in browser.page.inner_text("main").lower(), f"{text!r} is shown", seconds, every=0.1)
