"""Checks before a training: what is missing, the values of a configuration, then what is built of them.

They are three ideas in files of their own: ``given`` imports nothing that a configuration names; ``values`` compares it
with type hints and builds nothing; ``rehearsal`` tries the built parts on a few images, and ``images`` looks at all.
"""
