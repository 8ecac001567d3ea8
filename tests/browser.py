"""Headless Chromium, for tests that look at a page; they are skipped where there is none."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
"""A browser that asks for nothing by itself."""


@contextmanager
def chromium(width: int = 1200, height: int = 1000) -> Iterator[Any]:
    """Start Debian's chromium with a new profile; a selenium driver, which quits at the end."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            yield browser
        finally:
            browser.quit()


def requests(browser: Any) -> list[str]:
    """The URLs that pages have asked for since the last call, without the browser's own and what is no request."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    urls: list[str] = [event["request"]["url"] for event in sent]
    return [url for url in urls if not url.startswith(("data:", "blob:", "chrome:"))]


def console_errors(browser: Any) -> list[str]:
    """What the console has called an error since the last call."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
