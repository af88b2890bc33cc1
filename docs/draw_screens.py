"""Take the pictures of the viewer that the README and docs/viewer.md show: docs/images/.

    selfreward view &                    in a directory with runs/quickstart
    python docs/draw_screens.py 'http://127.0.0.1:7860/?token=...' quickstart

Needs what `make view-test` installs. Each picture is a palette PNG of at most 120 kB.
"""

import io
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

IMAGES = Path(__file__).parent / "images"
SCREENS = {
    "runs": "/",
    "run": "/run/{run}",
    "prompt": "/run/{run}/prompt/2/7?diff=1",
    "list": "/run/{run}/list?kind=responses&sort=score&order=desc",
    "training": "/run/{run}/training/2",
    "question": "/run/{run}/question/1?diff=1",
    "compare": "/compare?a={run}:1&b={run}:2",
    "label": "/run/{run}/label?labeler=Ada",
}
MOST_BYTES = 120_000
_LOADING = (
    "document.body.hasAttribute('aria-busy') || /Drawing…|indexing/.test(document.body.innerText)"
)


def pictures(
    browser: Browser, url: str, run: str, width: int, theme: str
) -> dict[str, Image.Image]:
    """Each screen as it first comes into view."""
    size = {"width": width, "height": 900 if width > 600 else 844}
    context = browser.new_context(viewport=size, color_scheme=theme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    base = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    taken = {}
    for name, path in SCREENS.items():
        page.goto(base + path.format(run=run))
        page.wait_for_selector("main h1")
        for _ in range(240):
            if not page.evaluate(_LOADING):
                break
            page.wait_for_timeout(250)
        page.wait_for_timeout(300)
        taken[name] = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    return taken


def save(image: Image.Image, name: str, width: int | None = None) -> None:
    """Write a picture with as many colors as its size allows."""
    if width is not None:
        height = round(image.height * width / image.width)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    path = IMAGES / f"{name}.png"
    for colors in (128, 64, 32):
        few = image.quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            return
    raise SystemExit(f"{path} is larger than {MOST_BYTES} bytes")


def main() -> None:
    """Take them all."""
    url, run = sys.argv[1:]
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        phones = []
        for theme in ("light", "dark"):
            for name, image in pictures(browser, url, run, 1400, theme).items():
                is_first = (name, theme) == ("run", "light")
                save(
                    image, name if theme == "light" else f"{name}-dark", None if is_first else 1000
                )
            phones.append(pictures(browser, url, run, 390, theme))
        browser.close()
    for name in SCREENS:
        both = Image.new("RGB", (800, 844), "#888888")
        both.paste(phones[0][name], (0, 0))
        both.paste(phones[1][name], (410, 0))
        save(both, f"{name}-phone", 700)


if __name__ == "__main__":
    main()
