"""The stages of an iteration: records in, records out.

They know no paths, no store and no command line. Nothing here depends on timing: what a stage asks
for follows from the run's seed and the records' keys.
"""
