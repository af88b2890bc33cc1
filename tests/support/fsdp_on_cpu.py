"""A rank that FSDP2 shards over CPUs (gloo), which accelerate 1.15 only lets GPUs do.

    torchrun ... tests/support/fsdp_on_cpu.py -m selfreward.training.distributed JOB.json

PyTorch can; one list in accelerate leaves CPUs out. So all but NCCL and bfloat16 on GPUs is the
code that runs there.
"""

import inspect
import sys
import textwrap

import accelerate.state

from selfreward.training import distributed

source = textwrap.dedent(inspect.getsource(accelerate.state.AcceleratorState.__init__))
devices = "elif self.distributed_type in [\n"
assert source.count(devices) == 1
more: dict = {}
source = source.replace(devices, f"{devices}DistributedType.MULTI_CPU,\n")
exec(source, vars(accelerate.state), more)
accelerate.state.AcceleratorState.__init__ = more["__init__"]
sys.argv = [sys.argv[0], sys.argv[-1]]
distributed.main()
