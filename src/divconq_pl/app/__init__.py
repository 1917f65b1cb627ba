"""The command line, and the files that a run reads and leaves."""
