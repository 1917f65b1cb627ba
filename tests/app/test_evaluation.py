"""The test images are embedded once, and measured as asked for."""

import numpy as np
import pytest
import torch
from torch import nn
from toys import trainer

from divconq_pl import DivideConquerModule, InputError
from divconq_pl.app.evaluation import check_channels, embed, measure
from divconq_pl.data import RetrievalDataModule
from divconq_pl.data.dataset import ArrayDataset, Splits
from divconq_pl.metrics.retrieval import retrieval_metrics


class Noise:
    """Four classes of six images for training, and as many for the test; or query and gallery of unequal size."""

    def __init__(self, two=False):
        pixels = np.random.default_rng(0).integers(0, 256, (24, 6, 6), dtype=np.uint8)
        labels, names = torch.arange(24) // 6, [""] * 24
        train, test = (ArrayDataset(pixels, labels, list(classes), names) for classes in ("abcd", "efgh"))
        few = ArrayDataset(pixels[::2], labels[::2], list("efgh"), names[::2])
        self._splits = Splits(train, None, (few, test) if two else test)

    def splits(self):
        return self._splits


def to_tensor(image):
    return torch.as_tensor(np.array(image)).float()[None] / 255


def parts(two=False):
    backbone = nn.Flatten()
    backbone.out_features = 36
    module = DivideConquerModule(backbone, 8, nn.Identity())
    options = {"batch_size": 8, "eval_batch_size": 10}
    return module, RetrievalDataModule(Noise(two), to_tensor, to_tensor, **options)


@pytest.mark.parametrize("two", [False, True], ids=["leave one out", "query and gallery"])
def test_embeddings_are_those_of_the_network_image_by_image(two):
    module, data = parts(two)
    embeddings = embed(trainer(), module, data)
    assert [len(rows) for rows in embeddings] == ([12, 24] if two else [24])
    for rows, images in zip(embeddings, data.tested, strict=True):
        for i, row in enumerate(rows):
            alone = module(to_tensor(images.image(i))[None])[0].detach()
            assert torch.allclose(row, alone / alone.norm(), atol=1e-6)


def test_embeddings_are_those_of_a_checkpoint_where_one_is_named(tmp_path):
    module, data = parts()
    fitted = trainer()
    fitted.strategy.connect(module)
    fitted.save_checkpoint(tmp_path / "best.ckpt")
    (before,) = embed(trainer(), module, data)
    nn.init.normal_(module.embedding.weight)
    (changed,) = embed(trainer(), module, data)
    (restored,) = embed(trainer(), module, data, tmp_path / "best.ckpt")
    assert torch.equal(restored, before)
    assert not torch.equal(changed, before)


@pytest.mark.parametrize("two", [False, True], ids=["leave one out", "query and gallery"])
def test_what_is_asked_for_is_measured(two):
    module, data = parts(two)
    embeddings = embed(trainer(), module, data)
    arguments = [x for rows, images in zip(embeddings, data.tested, strict=True) for x in (rows, images.targets)]
    expected = retrieval_metrics(*arguments, ks=(1, 3), nmi_runs=2, marp=True, reid_draws=3)
    found = measure(embeddings, data.tested, recall_ks=(1, 3), nmi_runs=2, marp=True, reid_draws=3)
    counts = {"images": 24, "classes": 4} | ({"queries": 12} if two else {})
    assert found == {f"test/{name}": value for name, value in (expected | counts).items()}
    assert {"test/nmi", "test/marp", "test/reid_recall_at_3"} < set(found)
    plain = {"test/recall_at_1", "test/map_at_r", "test/r_precision", *(f"test/{name}" for name in counts)}
    assert set(measure(embeddings, data.tested, recall_ks=(1,))) == plain


def test_images_that_were_left_out_are_not_measured():
    module, data = parts()
    embeddings = embed(trainer(limit_predict_batches=1), module, data)
    expected = retrieval_metrics(embeddings[0], data.tested[0].targets[:10], ks=(1,))
    assert measure(embeddings, data.tested, recall_ks=(1,))["test/recall_at_1"] == expected["recall_at_1"]
    with pytest.raises(InputError, match=r"no image to evaluate on; use trainer\.limit_test_batches=null"):
        embed(trainer(limit_predict_batches=0), module, data)


def test_images_that_a_network_cannot_take_are_refused():
    _, data = parts()
    check_channels(data, 1)
    with pytest.raises(InputError, match=r"have 1 channel\(s\), but the network of the checkpoint takes 3"):
        check_channels(data, 3)
