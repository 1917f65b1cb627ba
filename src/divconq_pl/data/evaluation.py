"""The data module of an evaluation without a training."""

from __future__ import annotations

from divconq_pl.data.datamodule import RetrievalDataModule
from divconq_pl.data.dataset import RetrievalDataset


class EvaluationDataModule(RetrievalDataModule):
    """Give all images of a data set that a network was not trained on, in order.

    Of a data set with a method ``evaluated()``, such as :class:`.ImageFolder`, these are the images
    that it returns; of any other its test part. The arguments are those of :class:`.RetrievalDataModule`.
    """

    _evaluated: tuple[RetrievalDataset, ...] | None = None

    @property
    def tested(self) -> tuple[RetrievalDataset, ...]:
        """The images as they are: one data set, or query and gallery; made when they are first asked for."""
        if self._evaluated is None:
            evaluated = getattr(self.dataset, "evaluated", None)
            test = self.splits.test if evaluated is None else evaluated()
            self._evaluated = test if isinstance(test, tuple) else (test,)
        return self._evaluated

    def prepare_data(self) -> None:
        """Make the images once per machine, which fills the caches."""
        _ = self.tested

    def setup(self, stage: str | None = None) -> None:
        """Make the images, if that has not happened yet."""
        _ = self.tested
