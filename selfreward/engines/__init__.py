"""Inference engines behind one small protocol; see ``base.py``.

Each engine has a module, the only one that imports its library; ``kinds`` chooses among them.
"""
