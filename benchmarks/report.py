"""How long ``selfreward report`` takes for a million judgments, how much memory and how many bytes.

    python benchmarks/report.py [--judgments 1000000] [--keep DIRECTORY]

The run is that of ``benchmarks/store.py``: four iterations, the last still being judged. It is to
take less than 30 s, 500 MB and 2 MB.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from store import write_run


def main() -> None:
    """Write the run, then its report, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--judgments", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="write the run here and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = arguments.keep or Path(temporary) / "benchmark"
        if not run.exists():
            write_run(run, arguments.judgments, "written")
        page = Path(temporary) / "report.html"
        start = time.perf_counter()
        command = [sys.executable, "-m", "selfreward", "report", str(run), "--output", str(page)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        scale = 1 if sys.platform == "darwin" else 1024
        busy = spent.ru_utime + spent.ru_stime
        print(f"report: {seconds:.1f} s, {busy:.1f} s of processor time")
        print(f"memory: {spent.ru_maxrss * scale / 1e6:.0f} MB")
        print(f"page: {page.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
