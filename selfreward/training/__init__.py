"""SFT and DPO, thin over TRL: rows of token ids and a model in, a model out.

    base.Training                       what is trained, from where to where
    sft.train_sft   SftRow -> M1        dpo.train_dpo   DpoRow -> M(t+1), reference M(t)
    distributed.train_processes         either, in several processes

The rows are made by the chat layer, so training sees the very ids that sampling sees; TRL
neither templates nor tokenizes nor cuts. ``sft`` and ``dpo`` import torch and TRL and belong in
child processes; this module, ``options`` and ``distributed`` can be imported anywhere.
"""
