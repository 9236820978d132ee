"""A picture of the first screen of a run, made by the system's Chromium.

`python -m labkit.report.pages.picture outputs/RUN`
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SIZE = "1280,860"  # pixels
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def picture(page: Path, target: Path) -> bool:
    """Write a PNG of the top of a page; without a browser, print why and return False."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print(f"no picture of {page.name}: none of {', '.join(BROWSERS)} is installed")
        return False
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={profile}", f"--window-size={SIZE}"]
        subprocess.run(
            [browser, *options, f"--screenshot={target.resolve()}", page.resolve().as_uri()],
            check=True,
            capture_output=True,
            timeout=60,
        )
    return True


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.exit(0 if picture(folder / "index.html", folder / "first-screen.png") else 1)
