"""Two browsers with one face for the tests of the live figures: `open`, `run`, `click`, `close`.

Chromium by playwright. Firefox by Marionette, its own remote control, since playwright drives only a Firefox of its own
making; the protocol is JSON over a socket, and four commands are enough.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIREFOX = next(filter(None, map(shutil.which, ("firefox", "firefox-esr"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
NAMES = [name for name, path in (("chromium", CHROMIUM), ("firefox", FIREFOX)) if path]


shared, users = None, 0


@contextlib.contextmanager
def playwright():
    """The one of this process, which refuses a second one."""
    global shared, users
    if not users:
        from playwright.sync_api import sync_playwright

        shared = sync_playwright().start()
    users += 1
    try:
        yield shared
    finally:
        users -= 1
        if not users:
            shared.stop()


class Chromium:
    def __init__(self, folder: Path):
        self.ended = contextlib.ExitStack()
        self.playwright = self.ended.enter_context(playwright())
        self.profile = profile = str(folder / "chromium")  # one that lasts: a second visit is one of the same reader
        self.context = self.playwright.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=QUIET)
        self.context.set_default_timeout(300_000)
        self.tab, self.wrong, self.asked = self.context.new_page(), [], []
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        self.tab.on("request", lambda request: self.asked.append(request.url))

    def open(self, url: str) -> None:
        self.tab.goto(url, wait_until="load")

    def run(self, script: str):
        """The value of an expression."""
        return self.tab.evaluate(script)

    def click(self, selector: str) -> None:
        self.tab.click(selector)

    def close(self) -> None:
        self.context.close()
        self.ended.close()


class Firefox:
    def __init__(self, folder: Path):
        profile = folder / "firefox"
        profile.mkdir(exist_ok=True)
        self.profile = str(profile)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (profile / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
        command = [FIREFOX, "--headless", "--no-remote", "--marionette", "--profile", str(profile)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.socket, self.number, self.wrong = self._connected(port), 0, []
        self.answers = self.socket.makefile("rb")
        self._answer()  # it introduces itself
        self._send("WebDriver:NewSession")
        self._send("WebDriver:SetTimeouts", script=300_000, pageLoad=300_000)

    def _connected(self, port: int) -> socket.socket:
        for _ in range(240):
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=300)
            except OSError:
                time.sleep(0.5)
        self.process.kill()
        raise TimeoutError("Firefox does not answer")

    def _answer(self):
        length = b""
        while (sign := self.answers.read(1)) != b":":
            length += sign
        return json.loads(self.answers.read(int(length)))

    def _send(self, command: str, **parameters):
        self.number += 1
        text = json.dumps([0, self.number, command, parameters]).encode()
        self.socket.sendall(b"%d:%s" % (len(text), text))
        _, _, error, value = self._answer()
        if error:
            raise RuntimeError(f"{command}: {error['message']}")
        return value

    def open(self, url: str) -> None:
        self._send("WebDriver:Navigate", url=url)

    def run(self, script: str):
        return self._send("WebDriver:ExecuteScript", script=f"return {script}", args=[])["value"]

    def click(self, selector: str) -> None:
        element = self._send("WebDriver:FindElement", using="css selector", value=selector)["value"]
        self._send("WebDriver:ElementClick", id=next(iter(element.values())))

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=60)


def opened(name: str, folder: Path) -> Chromium | Firefox:
    return {"chromium": Chromium, "firefox": Firefox}[name](folder)


def private_memory(browser) -> int:
    """Bytes that the browser's processes have for themselves: the one that names its profile, and those it started."""
    parent, ours = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent[folder] = Path("/proc", (folder / "stat").read_text().rpartition(")")[2].split()[1])
            if browser.profile.encode() in (folder / "cmdline").read_bytes():
                ours.add(folder)
        except OSError:  # it has ended meanwhile
            continue
    while more := {folder for folder, started_by in parent.items() if started_by in ours} - ours:
        ours |= more
    total = 0
    for folder in ours:
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total


def until(browser, script: str, seconds: float = 300):
    """Waits for an expression to be true, and gives its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := browser.run(script):
            return value
        time.sleep(0.1)
    raise AssertionError(f"never came true: {script}")
