"""Who answers: inference engines behind one small protocol.

Each engine has a module, the only one that imports its library; ``kinds`` chooses among them.
"""
