"""Debian's Chromium, for tests of pages."""

import shutil

import pytest


def find_chromium() -> str:
    """Its path; skips where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("there is no chromium here: apt-get install chromium")
    return found
