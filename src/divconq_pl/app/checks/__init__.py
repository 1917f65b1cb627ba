"""Checks before a training: the values of a configuration, then what is built of them.

They are two ideas in two files: ``values`` compares a configuration with type hints and builds nothing; ``rehearsal``
tries the built parts on a few images.
"""
