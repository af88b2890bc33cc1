"""The child of a viewer: figures of open iterations, and charts; see ``child.py``.

python -m selfreward.viewer.drawing       asked and answering by lines of JSON
"""

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from selfreward.charts import chart_data, draw, list_links
from selfreward.errors import SelfRewardError
from selfreward.measures.figures import IterationFigures, figures_of
from selfreward.storage.directory import Run
from selfreward.verbs.maintenance import told_as_damage


def main() -> None:
    """Answer until standard input closes, then end at once: nobody waits for what is under way."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    os.nice(5)
    while True:
        answers.write(json.dumps(_answered(json.loads(jobs.get()))) + "\n")
        answers.flush()


def _listen(jobs: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


def _answered(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": answer(job)}
    except SelfRewardError as error:
        kind = type(error).__name__
        return {"error": {"kind": kind, "message": error.message, "hint": error.hint}}
    except Exception as error:  # a bug ends no viewer
        message = f"internal error: {type(error).__name__}: {error}"
        return {"error": {"kind": "SelfRewardError", "message": message, "hint": ""}}


def answer(job: dict[str, Any]) -> Any:
    """Do one job.

    ``{"do": "figures", "run", "iteration"}`` gives IterationFigures as plain values; ``{"do":
    "chart", "run", "chart", "iteration", "theme", "figures"}``, with those of all iterations, gives
    SVG; ``{"do": "compare", "a", "b"}`` what ``selfreward diff`` has of two runs or iterations.

    Raises:
        SelfRewardError: The run cannot be read, or there is no such chart.
    """
    if job["do"] == "compare":
        from selfreward.verbs.diff import diff_of  # loads numpy

        return msgspec.to_builtins(diff_of(job["a"], job["b"]))
    run = Run(Path(job["run"]))
    with told_as_damage(run), run.store() as store:
        if job["do"] == "figures":
            return msgspec.to_builtins(figures_of(store, job["iteration"]))
        figures = msgspec.convert(job["figures"], list[IterationFigures])
        data = chart_data(store, figures, job["chart"], job["iteration"])
    return draw(job["chart"], data, job["theme"], list_links(run.name), job["iteration"])


if __name__ == "__main__":
    main()
