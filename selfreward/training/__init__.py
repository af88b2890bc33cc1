"""SFT, DPO and further methods, thin over TRL: rows of token ids and a model in, a model out.

    base.Training                       what is trained, from where to where
    methods.fit_of                      the function that trains by a method, of these:
    sft.train_sft   SftRow -> model     dpo.train_dpo   DpoRow -> model, reference the start model
    none.train_none                     the start model again
    distributed.train_processes         any of them, in several processes

The rows are made by the chat layer, so training sees the very ids that sampling sees; TRL
neither templates nor tokenizes nor cuts. The modules of the methods import torch and TRL and belong
in child processes; this module, ``methods``, ``options`` and ``distributed`` can be imported
anywhere.
"""

import logging

# At each import of peft it would say that it has no faster kernel for CPUs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
