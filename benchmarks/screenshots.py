"""Opens a report in headless Chromium at three widths, light and dark, and leaves a picture of each to look at.

  python benchmarks/screenshots.py runs/digits/report.html [--out=DIR] [--height=4500] [--browser=chromium]

Needs Chromium (Debian: apt-get install chromium) and nothing else; the page itself asks the network for nothing.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

WIDTHS = (390, 820, 1400)
SCHEMES = {"light": 1, "dark": 0}   # Blink's numbers


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("page", type=pathlib.Path)
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("screenshots"))
  parser.add_argument("--height", type=int, default=4500)
  parser.add_argument("--browser", default="chromium")
  options = parser.parse_args()
  if not shutil.which(options.browser):
    sys.exit(f"there is no {options.browser} here; install it (Debian: apt-get install chromium) or name another "
             "--browser")
  options.out.mkdir(parents=True, exist_ok=True)
  for width in WIDTHS:
    for scheme, number in SCHEMES.items():
      picture = options.out / f"{options.page.stem}_{width}_{scheme}.png"
      subprocess.run(
          [options.browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
           f"--blink-settings=preferredColorScheme={number}", f"--window-size={width},{options.height}",
           "--virtual-time-budget=8000", f"--screenshot={picture}", options.page.absolute().as_uri()],
          check=True, capture_output=True, timeout=120)
      print(f"{picture}: {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
  main()
