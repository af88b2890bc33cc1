"""A real Slurm on test hosts: controller, nodes and munge, all of it under one directory.

Each node is told to claim what a node of the docs has, 64 cores and 8 GPUs, so that a script runs
as it stands. What takes minutes in Slurm's defaults takes seconds here.
"""

import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.hosts import Host

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
_CONF = """
ClusterName=test
SlurmctldHost={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
SlurmdTimeout=15
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={nodes} CPUs=64 RealMemory=64000 Gres=gpu:8 State=UNKNOWN
PartitionName=normal Nodes={nodes} Default=YES PriorityTier=1
PartitionName=urgent Nodes={nodes} PriorityTier=2 PreemptMode=OFF
"""
_MUNGE = "/run/munge"


def lacking() -> str:
    """Which programs of Slurm are not there; empty if none."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"no {', '.join(missing)}: `make slurm-test` installs Slurm on Debian" if missing else ""


def script_of(page: Path, word: str = "#SBATCH") -> str:
    """The one script with ``word`` in a page of Markdown."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    [script] = [block for block in blocks if word in block]
    return str(script)


class Slurm:
    """See the module.

    Args:
        directory: For its files; on the disk that all hosts share.
        controller: Where ``slurmctld`` runs.
        nodes: Where jobs run.
    """

    def __init__(self, directory: Path, controller: Host, nodes: list[Host]) -> None:
        self.directory, self.controller, self.nodes = directory, controller, nodes
        self._key = os.urandom(128)
        for name in ("state", *(f"spool-{node.name}" for node in nodes)):
            (directory / name).mkdir(parents=True)
        names = ",".join(node.name for node in nodes)
        conf = _CONF.format(controller=controller.name, directory=directory, nodes=names)
        (directory / "slurm.conf").write_text(conf)
        for i in range(8):
            os.mknod(directory / f"gpu{i}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null
        (directory / "gres.conf").write_text(f"Name=gpu File={directory}/gpu[0-7]\n")
        for host in (controller, *nodes):
            self.start_munge(host)
        self._daemon(controller, "slurmctld", "-D")
        for node in nodes:
            self.start_node(node)

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need, beside this process's environment."""
        return {**os.environ, "SLURM_CONF": str(self.directory / "slurm.conf")}

    def start_munge(self, host: Host) -> None:
        """Give a host the key, and a ``munged`` where Slurm looks for it."""
        host.run(["mkdir", "-p", _MUNGE])
        host.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", _MUNGE])
        key = self.directory / "munge.key"
        key.touch(0o600)
        key.write_bytes(self._key)
        host.run(["cp", "--preserve=mode", key, f"{_MUNGE}/key"])
        key.unlink()
        paths = {"key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={_MUNGE}/{name}" for option, name in paths.items()]
        host.run(["munged", *options])

    def start_node(self, node: Host) -> None:
        """Start ``slurmd``, also where one was killed."""
        self._daemon(node, "slurmd", "-D", "-N", node.name)

    def _daemon(self, host: Host, *argv: str) -> None:
        with (self.directory / f"{host.name}-{argv[0]}.out").open("ab") as out:
            host.start(argv, stdout=out, stderr=out, env=self.environment)

    def do(self, *argv: str, **options: object) -> str:
        """Run one of its commands on the controller's host; return what it prints."""
        return self.controller.run(argv, env=self.environment, **options)

    def node_states(self) -> dict[str, str]:
        """By node, such as ``idle``, ``alloc`` or ``down*``."""
        lines = self.do("sinfo", "--Node", "--noheader", "--format=%N %t").splitlines()
        return dict(line.split() for line in lines)

    def job(self, number: int) -> dict[str, str]:
        """Fields of ``scontrol show job``."""
        shown = self.do("scontrol", "--oneliner", "show", "job", str(number))
        return dict(re.findall(r"(\w+)=(\S*)", shown))

    def wait(self, what: str, is_so: Callable[[], bool], within_s: float) -> None:
        """Wait until something is so."""
        until = time.monotonic() + within_s
        while not is_so():
            assert time.monotonic() < until, f"not {what} within {within_s} s: {self.told()}"
            time.sleep(0.3)

    def wait_for_job(self, number: int, *states: str, within_s: float = 120) -> dict[str, str]:
        """Wait for a state of a job, such as ``RUNNING``."""
        self.wait(f"{'/'.join(states)}", lambda: self.job(number)["JobState"] in states, within_s)
        return self.job(number)

    def told(self) -> str:
        """What its logs end with."""
        logs = sorted([*self.directory.glob("*.log"), *self.directory.glob("*.out")])
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)


@contextmanager
def slurm(directory: Path, controller: Host, nodes: list[Host]) -> Iterator[Slurm]:
    """A Slurm whose nodes are idle."""
    made = Slurm(directory, controller, nodes)
    idle = {node.name: "idle" for node in nodes}

    def is_up() -> bool:
        try:
            return made.node_states() == idle
        except (AssertionError, subprocess.TimeoutExpired):
            return False  # the controller does not answer yet

    made.wait("up", is_up, 60)
    yield made
