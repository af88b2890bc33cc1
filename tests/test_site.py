"""The documentation as a site: links lead somewhere, and no page loads anything from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytest.importorskip("material", reason="make install installs it")
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|icon|preload|preconnect))[^>]*"""
    r"""\bhref=["']?(?:https?:)?//[^>]*>"""
)


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """``strict`` in mkdocs.yml makes an error of a link, an anchor or a page that leads nowhere."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    built = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.html")}
    assert built.keys() == pages | {"index", "404"}
    assert 'src="images/run.png"' in built["index"] and 'src="rooms.svg"' in built["architecture"]
    assert (tmp_path / "images" / "run.png").is_file() and (tmp_path / "rooms.svg").is_file()
    assert LOADED.search('<link href="https://fonts.example/x.css" rel="stylesheet">')
    assert [found[0] for page in built.values() for found in LOADED.finditer(page)] == []
    styles = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.css")]
    assert styles and not [s for s in styles if re.search(r"(?:@import|url\()\s*[\"']?https?:", s)]
