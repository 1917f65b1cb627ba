"""Divide and conquer of texts instead of images: sentences of different lengths, padded by a ``collate_fn``.

The version without it lacks one callback and its import, nothing else.

python examples/text.py
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from divconq_pl import DivideConquerCallback

PADDING = 0


class Sentences(Dataset[tuple[Tensor, int]]):
    """Random tokens, of which each topic prefers some."""

    def __init__(self, topics: int = 40, per_topic: int = 12, vocabulary: int = 500) -> None:
        preference = torch.distributions.Dirichlet(torch.full((vocabulary - 1,), 0.05)).sample((topics,))
        self.sentences = [
            (1 + torch.multinomial(preference[topic], int(torch.randint(5, 20, ())), replacement=True), topic)
            for topic in range(topics)
            for _ in range(per_topic)
        ]

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.sentences)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the tokens of a sentence and its topic."""
        return self.sentences[index]


def padded(sentences: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Make a batch of sentences."""
    tokens, topics = zip(*sentences, strict=True)
    return pad_sequence(list(tokens), batch_first=True, padding_value=PADDING), torch.tensor(topics)


class TextEmbedder(pl.LightningModule):
    """Embed a sentence by the mean of its tokens' vectors and a small network."""

    def __init__(self, vocabulary: int = 500) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(vocabulary, 64, padding_idx=PADDING)
        self.projection = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
        self.loss = losses.TripletMarginLoss(margin=0.2)
        self.miner = miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard")

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of padded sentences, shape (B, 32)."""
        embedded: Tensor = self.projection(self.embedding(tokens))
        return embedded

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        tokens, topics = batch
        embeddings = self(tokens)
        loss: Tensor = self.loss(embeddings, topics, self.miner(embeddings, topics))
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1)
    trainer = pl.Trainer(max_epochs=8, callbacks=[divide], accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(TextEmbedder(), DataLoader(Sentences(), batch_size=48, shuffle=True, collate_fn=padded))
    return divide


if __name__ == "__main__":
    main()
