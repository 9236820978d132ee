"""A picture of the first screen of a run, made by the system's Chromium.

`python -m labkit.report.pages.picture outputs/RUN`
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import click

from labkit.base.command import clear_errors
from labkit.base.places import try_file
from labkit.errors import LabkitError

SIZE = "1280,860"  # pixels
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MOST = 60  # seconds


def picture(page: Path, target: Path) -> bool:
    """Write a PNG of the top of a page; without a browser, print why and return False.

    Raises LabkitError where there is no page, or the browser fails.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print(f"no picture of {page.name}: none of {', '.join(BROWSERS)} is installed")
        return False
    if not page.is_file():
        raise LabkitError(f"{page} is no page: give the folder of a run.")
    try_file(target, "the picture", "make room there")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={profile}", f"--window-size={SIZE}"]
        command = [browser, *options, f"--screenshot={target.resolve()}", page.resolve().as_uri()]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_MOST)
        except (OSError, subprocess.SubprocessError) as error:
            raise LabkitError(f"{browser} made no picture: {type(error).__name__}.") from error
    return True


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@clear_errors
def main(run: Path) -> int:
    """Write first-screen.png into the folder of RUN."""
    return 0 if picture(run / "index.html", run / "first-screen.png") else 1


if __name__ == "__main__":
    main()
