"""Draw the package as it is: the picture in docs/, and the tree in README.md.

    python docs/draw_rooms.py            writes both
    python docs/draw_rooms.py --check    writes nothing; says whether they are as they should be

Rooms are the folders of ``selfreward/`` and its four files. A room stands one floor above the
highest room that it imports from. The words beside it are the first line of its ``__init__.py``.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "selfreward"
PICTURE, README = ROOT / "docs" / "rooms.svg", ROOT / "README.md"
BEGIN, END = "<!-- rooms: made by docs/draw_rooms.py -->\n", "<!-- /rooms -->"
FACES = ("__init__", "__main__")


def rooms() -> list[str]:
    """Names of the rooms, from the top floor down."""
    found = {path.stem for path in PACKAGE.iterdir() if path.is_file() or any(path.glob("*.py"))}
    return sorted(found - {*FACES, "py"}, key=lambda room: (-floor(room), room))


def files(room: str) -> list[Path]:
    """The modules of a room."""
    return sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]


def imported(path: Path) -> Iterator[str]:
    """The room of each module that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selfreward"):
            parts = (node.module or "").split(".")
            yield from parts[1:2] or (name.name for name in node.names)


@cache
def arrows(room: str) -> Counter[str]:
    """How often a room imports from each other one."""
    found = Counter(other for path in files(room) for other in imported(path))
    own = (room, "__version__", "DISTRIBUTION")
    return Counter({other: n for other, n in found.items() if other not in own})


@cache
def floor(room: str) -> int:
    """Floors below a room."""
    return max((1 + floor(other) for other in arrows(room)), default=0)


def says(room: str) -> str:
    """What a room is, in its own words."""
    face = PACKAGE / room / "__init__.py"
    text = (face if face.is_file() else PACKAGE / f"{room}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0].rstrip(".")


def tree() -> str:
    """The rooms as a tree, from the top floor down, as a block of Markdown."""
    lines = ["```", "selfreward/"]
    for room in rooms():
        is_folder = (PACKAGE / room).is_dir()
        lines.append(f"  {room + ('/' if is_folder else '.py'):<15}{says(room)}")
        inner = [path for path in files(room) if path.stem not in FACES] if is_folder else []
        inside = {path.relative_to(PACKAGE / room).parts[0].removesuffix(".py") for path in inner}
        if inside:
            lines += wrapped(sorted(inside))
    lines.append("```")
    return "\n".join(lines) + "\n"


def wrapped(names: list[str], width: int = 96) -> list[str]:
    """Names on as few lines as they need, indented below their room."""
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) + 18 > width:
            lines.append("")
        lines[-1] += f"{name} "
    return [f"{'':<17}{line}".rstrip() for line in lines]


def with_tree(text: str) -> str:
    """A page with the tree between its marks put in anew."""
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    assert pattern.search(text), f"no {BEGIN.strip()} in the page"
    return pattern.sub(lambda _: BEGIN + tree() + END, text)


def draw(path: Path) -> None:
    """Draw rooms as boxes on their floors and imports as lines, as wide as they are many."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "rooms"  # the same picture for the same imports
    floors: dict[int, list[str]] = {}
    for room in rooms():
        floors.setdefault(floor(room), []).append(room)
    place = {
        room: (3.0 * (i - (len(row) - 1) / 2) + 0.9 * (-1) ** level * (len(row) == 1), 1.15 * level)
        for level, row in floors.items()
        for i, room in enumerate(row)
    }
    figure, axis = plt.subplots(figsize=(9, 1.05 * len(floors)), layout="constrained")
    for room, (x, y) in place.items():
        for other, count in arrows(room).items():
            if not floor(other):  # all rooms import from these
                continue
            to_x, to_y = place[other]
            near = y - to_y < 1.5
            axis.annotate(
                "", (to_x, to_y + 0.28), (x, y - 0.28), zorder=1,
                arrowprops={
                    "arrowstyle": "-|>", "color": "#2a6f97" if near else "#9db4c0",
                    "lw": 0.5 + 0.06 * count, "alpha": 0.9 if near else 0.55, "shrinkA": 0,
                    "shrinkB": 0, "connectionstyle": "arc3,rad=0" if near else "arc3,rad=0.18",
                },
            )  # fmt: skip
        count = sum(1 for path in files(room) if path.stem not in FACES)
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files(room))
        name = f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"
        words = f"{count} files, {lines:,} lines" if name.endswith("/") else f"{lines:,} lines"
        if not floor(room):
            words = f"{words}; imported by all"
        box = {"boxstyle": "round,pad=0.45", "fc": "#f2f5f7", "ec": "#2a6f97", "lw": 1}
        axis.text(
            x, y, f"{name}\n{words}", ha="center", va="center", fontsize=8, bbox=box, zorder=2
        )
    axis.set_xlim(-4.6, 4.6)
    axis.set_ylim(-0.7, 1.15 * max(floors) + 0.7)
    axis.axis("off")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Write the picture and the tree, or check the tree."""
    page = README.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        if page != with_tree(page):
            sys.exit("README.md: the tree is not that of selfreward/; python docs/draw_rooms.py")
        return
    README.write_text(with_tree(page), encoding="utf-8")
    draw(PICTURE)


if __name__ == "__main__":
    main()
