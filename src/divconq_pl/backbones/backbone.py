"""What every backbone is: a network without a classifier, with frozen BatchNorm and less memory where asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from divconq_pl.backbones.recomputation import recompute_blocks


class Backbone(nn.Module):
    """Wrap a network that maps images (B, C, H, W) to features (B, ``out_features``).

    With ``freeze_batchnorm`` every BatchNorm layer stays in evaluation mode, whatever mode the rest is in: its running
    statistics are used and never updated, its scale and shift still train (settings of both papers, as the authors'
    code). Batches that come from one cluster at a time would otherwise drag the statistics from cluster to cluster.

    Args:
        network: the network, without a classifier.
        out_features: D, width of its output.
        freeze_batchnorm: keep BatchNorm layers in evaluation mode. Only for networks with trained statistics.
        grad_checkpointing: compute what is inside a block again in the backward pass instead of keeping it: the same
            gradients for a fraction of the memory and about a quarter more time.
    """

    def __init__(
        self,
        network: nn.Module,
        out_features: int,
        *,
        freeze_batchnorm: bool = False,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        # Most convolutional networks are faster this way, others no slower; the layout of the weights carries over.
        self.network = network.to(memory_format=torch.channels_last)
        self.out_features = out_features
        self.freeze_batchnorm = freeze_batchnorm
        if grad_checkpointing:
            recompute_blocks(network)
        self.train(network.training)

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of every layer but frozen BatchNorm."""
        super().train(mode)
        if self.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Compute features, (B, out_features)."""
        features: Tensor = self.network(images)
        return features
