"""What the site takes from outside ``docs``: the README as its front page, and linked files.

A hook of ``mkdocs.yml``. On the site the checkout lies where ``docs`` does, so links lose their
``../``, and those of the README their ``docs/``.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[1]
_OUTWARD = re.compile(r"\]\(\.\./(?!README\.md)([^)#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the front page and every file that a page links to outside of ``docs``."""
    front = (_ROOT / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((?!docs/|https?:|#)([^)#]+)\)", front))
    for page in files.documentation_pages():
        linked |= {*_OUTWARD.findall(page.content_string)}
    for name in sorted(linked):
        files.append(File.generated(config, name, abs_src_path=str(_ROOT / name)))
    files.append(File.generated(config, "index.md", content=front.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Have links into the checkout lead to what was added."""
    return _OUTWARD.sub(r"](\1", markdown.replace("](../README.md", "](index.md"))
