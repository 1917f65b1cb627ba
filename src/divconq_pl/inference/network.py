"""Networks that give embeddings of unit length, and nothing that only a training needs."""

from __future__ import annotations

from torch import Tensor, nn

from divconq_pl.metrics.neighbours import unit_rows


class EmbeddingNetwork(nn.Module):
    """Map normalised images (B, C, H, W) to embeddings of unit length, float32, (B, d).

    Args:
        backbone: images to features (B, D).
        embedding: features to embeddings (B, d); a linear layer.
    """

    def __init__(self, backbone: nn.Module, embedding: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding = embedding
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute embeddings, (B, d)."""
        return unit_rows(self.embedding(self.backbone(images)))


class MeanOfFlips(nn.Module):
    """Give the mean of the features of images and of their mirror images.

    The embedding layer is linear, so this is the mean of their embeddings before these are normalised.

    Args:
        backbone: images (B, C, H, W) to features (B, D).
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """Compute features, (B, D)."""
        mean: Tensor = (self.backbone(images) + self.backbone(images.flip(-1))) / 2
        return mean
