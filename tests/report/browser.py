"""A headless Chromium, driven through its debugging pipe: no other package is needed."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
MISSING = f"needs Chromium, as one of the commands {', '.join(NAMES)} (Debian: apt-get install chromium)"
LOUD = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
"""Events of a page that has written to the console, or tried to."""


class Browser:
    """One page at a time. Messages are JSON that ends in a zero byte, on the browser's file descriptors 3 and 4."""

    def __init__(self, profile: Path):
        to_browser, self.ours = os.pipe()
        theirs, from_browser = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "-", str(CHROMIUM), *options,
             f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self.incoming, self.rest, self.number, self.events = theirs, b"", 0, []
        self.session = ""
        target = next(found for found in self.call("Target.getTargets")["targetInfos"] if found["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self.session = ""
        self.call("Browser.close")
        self.process.wait(timeout=60)
        os.close(self.ours)
        os.close(self.incoming)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command. AssertionError if the browser refuses it."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        os.write(
            self.ours, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        answer = self._read_until(lambda found: found.get("id") == self.number)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path, *, width: int, dark: bool) -> None:
        """Show a file in a window of this width, with the reader's colour scheme."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        if not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._read_until(lambda found: found.get("method") == "Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[dict[str, Any]]:
        """What the page has written to the console since it was opened."""
        return [event for event in self.events if event["method"] in LOUD]

    def requested(self) -> list[str]:
        """The addresses that the page has asked for, but itself and what it holds."""
        asked = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith(("file:", "data:"))]

    def _read_until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            while b"\0" not in self.rest:
                piece = os.read(self.incoming, 1 << 20)
                assert piece, "the browser has ended"
                self.rest += piece
            text, _, self.rest = self.rest.partition(b"\0")
            message: dict[str, Any] = json.loads(text)
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message


FLAWS = """(() => {
  const flaws = [], ids = new Set();
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = rgb => rgb.slice(0, 3)
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = channels(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth)
    flaws.push("wider than the window: " + document.documentElement.scrollWidth);
  for (const element of document.querySelectorAll("[id]"))
    ids.has(element.id) ? flaws.push("id twice: " + element.id) : ids.add(element.id);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = texts.nextNode();) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || !element.checkVisibility() || element.tagName == "STYLE") continue;
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 600;
    const color = channels(element instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [luminance(color), luminance(behind(element))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05), needed = size >= 24 || size >= 18.66 && bold ? 3 : 4.5;
    if (ratio < needed) flaws.push(`contrast ${ratio.toFixed(2)} of "${node.data.trim().slice(0, 30)}"`);
  }
  return [...new Set(flaws)];
})()"""
"""An expression whose value lists what is wrong with the page: a width above the window's, equal ids, and texts whose
contrast is below WCAG's level AA."""
