"""Retrieval metrics of embeddings: tensors only."""
