"""Divide and conquer of sentences by an encoder with the calling convention of the transformers library.

The encoder takes ``input_ids`` and ``attention_mask`` by keyword and gives a mapping with ``last_hidden_state``, so one
of transformers (``AutoModel.from_pretrained(...)``) can stand in its place; this small one needs nothing that is not
installed with this package. The module has no ``forward``, and batches are dictionaries whose labels only the collate
function knows. The version without it lacks one callback and its import, nothing else.

python examples/transformer_encoder.py
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from divconq_pl import DivideConquerCallback

VOCABULARY, TOPICS, PER_TOPIC = 400, 30, 12


class Sentences(Dataset[list[int]]):
    """Random tokens, of which each topic prefers some; the first one gives the topic away."""

    def __init__(self) -> None:
        preference = torch.distributions.Dirichlet(torch.full((VOCABULARY - 1 - TOPICS,), 0.05)).sample((TOPICS,))
        self.sentences: list[list[int]] = [
            [1 + topic, *(1 + TOPICS + torch.multinomial(preference[topic], 4 + i % 9, replacement=True)).tolist()]
            for topic in range(TOPICS)
            for i in range(PER_TOPIC)
        ]

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.sentences)

    def __getitem__(self, index: int) -> list[int]:
        """Return the tokens of a sentence, its topic first."""
        return self.sentences[index]


def tokenised(sentences: list[list[int]]) -> dict[str, Any]:
    """Make a batch as a tokeniser does."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(tokens[1:]) for tokens in sentences], batch_first=True)
    topics = torch.tensor([tokens[0] - 1 for tokens in sentences])
    return {"text": {"input_ids": ids, "attention_mask": (ids > 0).long()}, "topic": topics}


class Encoder(nn.Module):
    """A transformer of two layers that is called as those of the library are."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(VOCABULARY, width, padding_idx=0)
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return the last hidden state, shape (B, T, width), by its name."""
        padding = attention_mask == 0
        return {"last_hidden_state": self.encoder(self.embeddings(input_ids), src_key_padding_mask=padding)}


class SentenceEmbedder(pl.LightningModule):
    """Embed a sentence by the mean of its tokens' states and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.projection = nn.Linear(32, 32)
        self.loss = losses.MultiSimilarityLoss()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        states = self.encoder(**batch["text"])["last_hidden_state"]
        mask = batch["text"]["attention_mask"][..., None]
        sentences = self.projection((states * mask).sum(1) / mask.sum(1))
        loss: Tensor = self.loss(sentences, batch["topic"])
        self.log("train_loss", loss, prog_bar=True, batch_size=len(states))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1)
    trainer = pl.Trainer(max_epochs=8, callbacks=[divide], accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(SentenceEmbedder(), DataLoader(Sentences(), batch_size=36, shuffle=True, collate_fn=tokenised))
    return divide


if __name__ == "__main__":
    main()
