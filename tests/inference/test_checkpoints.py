"""A checkpoint is data: reading it runs no code of its own, and what does not fit is named."""

import random
import sys

import pytest
import torch
from torch import nn

from divconq_pl import DivideConquerModule, InputError
from divconq_pl.backbones import small
from divconq_pl.data import Glyphs, RetrievalDataModule
from divconq_pl.inference.checkpoints import CONFIG_KEY, load_embedder, read_checkpoint
from divconq_pl.inference.trust import build_trusted

MODULE = {
    "backbone": {"_target_": "divconq_pl.backbones.small", "in_channels": 1, "width": 4},
    "embedding_dim": 8,
    "recall_ks": [1, 3],
}
DATA = {
    "_target_": "divconq_pl.data.RetrievalDataModule",
    "dataset": {"_target_": "divconq_pl.data.Glyphs", "num_classes": 12, "size": 16},
    "test_transform": {"_target_": "divconq_pl.data.transforms.glyph_test", "channels": 3},
}


def checkpoint():
    """What a run with MODULE leaves; its loss has weights of its own."""
    module = DivideConquerModule(small(1, 4), 8, nn.Linear(8, 3))
    return {"state_dict": module.state_dict(), CONFIG_KEY: {"module": MODULE, "data": DATA}}, module.eval()


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported, and another one when it is called."""
    (tmp_path / "foreign.py").write_text(
        "from pathlib import Path\nPath('imported').touch()\n\ndef attack(**_):\n    Path('called').touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "called").exists()
    assert "foreign" not in sys.modules


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": "foreign.attack"},
        {**DATA, "dataset": {"_target_": "foreign.attack"}},
        {**DATA, "test_transform": [{"_target_": "foreign.attack"}]},
    ],
    ids=["itself", "inside", "in a list"],
)
@pytest.mark.usefixtures("foreign")
def test_a_checkpoint_cannot_name_code_of_others(config):
    with pytest.raises(InputError, match=r"names foreign\.attack for its dataset, .* with dataset=\.\.\."):
        build_trusted(config, "dataset")


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("divconq_pl.data.glyphs.os.mkdir", ["harmed"]),  # what a module of ours imports
        ("divconq_pl.data.glyphs.os", []),
        ("divconq_pl.app.results.write_json", ["harmed", {}]),  # ours, but it writes wherever it is told to
        ("divconq_pl.data.NoSuchThing", []),
    ],
)
def test_a_checkpoint_names_data_sets_and_backbones_only(tmp_path, target, arguments):
    with pytest.raises(InputError, match="not a part of divconq-pl"):
        build_trusted({"_target_": target, "_args_": arguments}, "dataset")
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_brings_its_own_data():
    data = build_trusted(DATA, "dataset")
    assert isinstance(data, RetrievalDataModule)
    assert isinstance(data.dataset, Glyphs)
    assert next(iter(data.test_dataloader()))[0].shape[1:] == (3, 16, 16)


class Attack:
    def __reduce__(self):
        return exec, ("from pathlib import Path; Path('harmed').touch()",)


def test_reading_a_checkpoint_runs_no_code(tmp_path):
    torch.save({**checkpoint()[0], "extra": Attack()}, tmp_path / "attack.ckpt")
    with pytest.raises(InputError, match=r"attack\.ckpt' is damaged or not a checkpoint of train.py"):
        read_checkpoint(tmp_path / "attack.ckpt")
    assert not (tmp_path / "harmed").exists()
    torch.load(tmp_path / "attack.ckpt", weights_only=False)
    assert (tmp_path / "harmed").exists()  # so it would have been


def damaged(content):
    """Files that are no whole checkpoints."""
    rng = random.Random(0)
    yield from (b"", b"text", content[:100], content[: len(content) // 2], content[:-1])
    yield from (b"\x80\x02" + rng.randbytes(40) for _ in range(60))
    start = content.index(b"data.pkl")
    for _ in range(20):  # in the pickled part
        spoilt = bytearray(content)
        for _ in range(20):
            spoilt[start + rng.randrange(1000)] = rng.randrange(256)
        yield bytes(spoilt)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_file_is_named_whatever_it_holds(tmp_path):
    path = tmp_path / "some.ckpt"
    torch.save(checkpoint()[0], path)
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"^checkpoint='.*some\.ckpt' (is damaged|holds no configuration)"):
            read_checkpoint(path)


ODD = {CONFIG_KEY: {"module": [{"embedding_dim": torch.zeros(2)}]}, "state_dict": {}}


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {CONFIG_KEY: {}}, torch.zeros(3), ODD])
def test_what_train_py_did_not_write_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="holds no configuration"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_missing_file_is_called_what_the_user_calls_it(tmp_path):
    for path in (tmp_path / "nowhere.ckpt", tmp_path):
        with pytest.raises(InputError, match=f"^ckpt_path='{path}' is not a file"):
            read_checkpoint(path, "ckpt_path")


def test_the_network_of_a_checkpoint_embeds_as_it_did(tmp_path):
    content, module = checkpoint()
    torch.save(content, tmp_path / "good.ckpt")
    loaded = load_embedder(read_checkpoint(tmp_path / "good.ckpt")).eval()
    images = torch.randn(3, 1, 16, 16)
    assert torch.equal(loaded(images), module(images))
    assert loaded.recall_ks == (1, 3)


def test_pretrained_weights_are_not_fetched_to_be_replaced():
    backbone = {"_target_": "divconq_pl.backbones.torchvision_backbone", "name": "squeezenet1_0", "weights": "nowhere/"}
    config = {"module": {**MODULE, "backbone": backbone}}
    with pytest.raises(InputError, match="is missing"):  # so the network was built
        load_embedder({"state_dict": {}, CONFIG_KEY: config})


def test_a_backbone_of_ones_own_is_given_not_named():
    content, module = checkpoint()
    content[CONFIG_KEY] = {"module": {**MODULE, "backbone": {"_target_": "mine.Network"}}}
    with pytest.raises(InputError, match=r"names mine\.Network for its backbone, .* with backbone="):
        load_embedder(content)
    images = torch.randn(3, 1, 16, 16)
    assert torch.equal(load_embedder(content, small(1, 4)).eval()(images), module(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("embedding.bias"), r"does not fit DivideConquerModule: embedding\.bias is missing$"),
        (lambda w: w.update({"embedding.gain": torch.ones(1)}), r"embedding\.gain is unknown$"),
        (
            lambda w: w.update({"embedding.weight": torch.ones(8, 16)}),
            r"embedding\.weight has shape \(8, 16\) instead of \(8, 32\)$",
        ),
        (lambda w: [w.pop(name) for name in list(w)[:5]], r"0\.weight is missing, .* missing, .* missing and 2 more$"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    content, _ = checkpoint()
    change(content["state_dict"])
    with pytest.raises(InputError, match=message):
        load_embedder(content)


def test_a_run_begins_with_the_backbone_of_an_earlier_one(tmp_path):
    content, module = checkpoint()
    torch.save(content, tmp_path / "last.ckpt")
    again = small(1, 4, weights=str(tmp_path / "last.ckpt")).eval()
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(again(images), module.backbone(images))
    with pytest.raises(InputError, match="does not hold the weights of this network"):
        small(3, 4, weights=str(tmp_path / "last.ckpt"))
