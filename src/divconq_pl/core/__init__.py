"""Division, subspaces, sampling and schedule: tensors only."""
