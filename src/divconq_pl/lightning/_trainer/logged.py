"""Values that are logged in each training step."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor


def log_step(module: pl.LightningModule, name: str, value: Tensor, **options: Any) -> None:
    """Log a value in ``training_step`` as ``module.log`` does, but faster from the second step of an epoch on.

    Each time ``module.log`` walks through all that is kept of the value, to move it to a device where it is already.

    Args:
        module: the module whose step it is.
        name: the name of the value.
        value: the value, a scalar.
        options: those of ``module.log``, the same in each step; nothing that reduces over an epoch.
    """
    trainer, key = module._trainer, f"training_step.{name}"
    results = None if trainer is None else trainer._results
    if results is None or key not in results or results[key].has_reset:
        module.log(name, value, **options)
    else:
        results.update_metrics(key, value.detach(), batch_size=1)
