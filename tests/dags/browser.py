"""Headless Chromium over the W3C WebDriver protocol, for the tests of Airflow's pages."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "chromium and chromedriver are not installed (Debian: chromium-driver)"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The protocol's key for an element's id."""
_SECONDS = 60.0
ENTER = "\ue007"
"""The key, in a typed text."""


def until(condition: Callable[[], Any], description: str, seconds: float = _SECONDS) -> Any:
    """Wait for the condition and return its value. Raises TimeoutError with the description."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {description}")
        time.sleep(0.05)
    return value


class Browser:
    """One browser window. Elements are found by XPath; the methods wait for a missing one."""

    def __init__(self, driver: str) -> None:
        self._http = httpx.Client(base_url=driver, timeout=120)
        options = {
            "binary": CHROMIUM,
            # --no-sandbox: Chromium's sandbox does not start for root. Only pages of the platform are loaded.
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--window-size=1280,1400",
                "--lang=en",
            ],
        }
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self._session = self._request("POST", "/session", {"capabilities": capabilities})["sessionId"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._command("DELETE", "")
        self._http.close()

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._http.request(method, path, json=body).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise LookupError(f"{answer['error']}: {answer['message']}")
        return answer

    def _command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._request(method, f"/session/{self._session}{path}", body)

    def open(self, url: str) -> None:
        """Open a page."""
        self._command("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        """The URL of the current page."""
        return str(self._command("GET", "/url"))

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a script in the page. Returns its value."""
        return self._command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    @property
    def text(self) -> str:
        """All visible text of the page."""
        return str(self.run("return document.body.innerText"))

    def find(self, xpath: str, seconds: float = _SECONDS) -> dict[str, str]:
        """The first displayed element. Raises TimeoutError with the page's text."""

        def displayed() -> Any:
            found = self._command("POST", "/elements", {"using": "xpath", "value": xpath})
            return next((e for e in found if self._element("GET", e, "/displayed")), None)

        try:
            element: dict[str, str] = until(displayed, xpath, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the page {self.url} shows:\n{self.text}") from error
        return element

    def _element(self, method: str, element: dict[str, str], path: str, body: dict[str, Any] | None = None) -> Any:
        return self._command(method, f"/element/{quote(element[_ELEMENT])}{path}", body)

    def click(self, xpath: str) -> None:
        """Click an element. It must be enabled and not covered."""
        element = self.find(xpath)
        until(lambda: self._element("GET", element, "/enabled"), f"{xpath} is enabled")
        self._element("POST", element, "/click", {})

    def type(self, xpath: str, text: str) -> None:
        """Replace the text of a field."""
        element = self.find(xpath)
        self._element("POST", element, "/clear", {})
        self._element("POST", element, "/value", {"text": text})

    def enabled(self, xpath: str) -> bool:
        """Whether a control is enabled."""
        return bool(self._element("GET", self.find(xpath), "/enabled"))

    def screenshot(self, path: Path) -> None:
        """Write the window as a PNG."""
        from base64 import b64decode

        path.write_bytes(b64decode(self._command("GET", "/screenshot")))


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser, ended with its driver."""
    with tempfile.TemporaryDirectory(prefix="fraud-browser-", ignore_cleanup_errors=True) as home:
        driver = subprocess.Popen(
            [str(DRIVER), "--port=0"], env={"HOME": home, "TMPDIR": home, "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            port = next(
                line.rstrip(".\n").rpartition(" ")[2] for line in driver.stdout or () if "started successfully" in line
            )
            with Browser(f"http://127.0.0.1:{port}") as browser:
                yield browser
        finally:
            driver.terminate()
            driver.wait()
            if driver.stdout:
                driver.stdout.close()
