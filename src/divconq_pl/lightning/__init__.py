"""Divide and conquer in a PyTorch Lightning training."""
