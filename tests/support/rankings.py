"""What people ranked, for the tests of judging, and the verb that judges it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from selfreward.inputs.rankings import RankedResponse, Ranking
from tests.support.server import Server, running


def rankings(count: int) -> list[Ranking]:
    """Of "good", "fair" and "poor" answers, whose lengths are all the same."""
    responses = [RankedResponse(text, i) for i, text in enumerate(("poor", "fair", "good"))]
    return [Ranking(f"Question {i}?", tuple(responses)) for i in range(count)]


def write(path: Path, count: int) -> Path:
    rows = [
        {
            "prompt": ranking.prompt,
            "responses": [
                {"text": r.text, "rank": 3 - r.preference} for r in ranking.responses
            ],
        }
        for ranking in rankings(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def selfreward(server: Server, *arguments: str) -> tuple[int, str, str]:
    """Run the verb against the server."""

    async def main() -> tuple[int, str, str]:
        async with running(server):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "selfreward", "judge", "hosted",
                "--engine", "kind=server", "--engine", f"endpoints=[{server.url}]",
                "--engine", "concurrency=1", *arguments,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            out, err = await process.communicate()
            assert process.returncode is not None
            return process.returncode, out.decode(), err.decode()

    return asyncio.run(main())


def check_refused(server: Server, directory: Path, *arguments: str, says: str) -> None:
    """The verb refuses the arguments in one line, before anything is asked."""
    data = write(directory / "d.jsonl", 1)
    before = len(server.bodies)
    code, out, err = selfreward(server, "--data", str(data), *arguments)
    assert (code, out) == (2, ""), err
    assert says in next(line for line in err.splitlines() if line.startswith("error: "))
    assert len(server.bodies) == before
