"""The configuration of the two programs, which travels in the wheel as ``divconq_pl.conf``."""
