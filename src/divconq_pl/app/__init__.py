"""The command line, and the files that a run reads and leaves."""

from divconq_pl.extras import require_packages

require_packages("divconq_pl.app", "app", "hydra", "omegaconf", "matplotlib", "PIL", "rich", "torchvision")
