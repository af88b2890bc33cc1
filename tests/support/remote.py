"""Starts a program on several hosts, as `srun --kill-on-bad-exit=1` does; see ``hosts.py``.

    python tests/support/remote.py serve                    on each host
    python tests/support/remote.py HOST,HOST,... PROGRAM ...

``NODEID`` in the words of the program is the number of the host, from 0, as SLURM_NODEID is. The
output of all comes back, and the exit code of the first that fails, which ends the others. It
notices no host that is silent.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

PORT = 514
_ENDED = b"\0ended "


def serve() -> None:
    with socket.create_server(("", PORT)) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_run, args=(connection,), daemon=True).start()


def _run(connection: socket.socket) -> None:
    with connection:
        asked = json.loads(connection.makefile("rb", buffering=0).readline())
        process = subprocess.Popen(
            asked["argv"],
            cwd=asked["cwd"],
            env=asked["env"],
            stdin=subprocess.DEVNULL,
            stdout=connection,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=_end_with, args=(connection, process), daemon=True).start()
        code = process.wait()
        with suppress(OSError):
            connection.sendall(b"%s%d\n" % (_ENDED, code))
            connection.shutdown(socket.SHUT_RDWR)


def _end_with(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """End the program with whoever asked for it."""
    with suppress(OSError):
        connection.recv(1)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)


def start(names: list[str], argv: list[str]) -> int:
    codes: list[int] = []
    ended = threading.Semaphore(0)

    def follow(number: int, name: str) -> None:
        code, words = 255, [word.replace("NODEID", str(number)) for word in argv]
        asked = json.dumps({"argv": words, "cwd": os.getcwd(), "env": dict(os.environ)}) + "\n"
        with suppress(OSError), socket.create_connection((name, PORT), timeout=5) as connection:
            connection.settimeout(None)
            connection.sendall(asked.encode())
            for line in connection.makefile("rb"):
                if line.startswith(_ENDED):
                    code = int(line.split()[-1])
                    break
                os.write(1, line)
        if code:
            os.write(1, f"remote: error: {name}: ended with code {code}\n".encode())
        codes.append(code)
        ended.release()

    for each in enumerate(names):
        threading.Thread(target=follow, args=each, daemon=True).start()
    for _ in names:
        ended.acquire()
        if any(codes):
            break
    return next((abs(code) for code in codes if code), 0)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    os._exit(start(sys.argv[1].split(","), sys.argv[2:]))  # which ends all that is left
