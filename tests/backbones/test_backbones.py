from __future__ import annotations

import copy
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_metric_learning import losses
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models

from divconq_pl import DivideConquerModule
from divconq_pl.backbones import Backbone, resnet50, small, torchvision_backbone
from divconq_pl.errors import InputError

LITTLE = "shufflenet_v2_x0_5"  # the smallest of torchvision's with BatchNorm


def images(batch: int = 4, channels: int = 3, size: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def batchnorms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def statistics(module: nn.Module) -> list[Tensor]:
    return [value.clone() for layer in batchnorms(module) for value in (layer.running_mean, layer.running_var)]


def unchanged(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class OneStep(LightningModule):
    """A training loop that does nothing but pull features to zero."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def training_step(self, batch: Tensor) -> Tensor:
        return self.backbone(batch).square().mean()

    def validation_step(self, batch: Tensor) -> None:
        self.backbone(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("in_channels", "width", "size"), [(1, 32, 32), (3, 8, 32), (1, 4, 8), (1, 4, 45)])
def test_small_gives_its_features_for_any_image_size(in_channels: int, width: int, size: int) -> None:
    backbone = small(in_channels, width)
    assert backbone.out_features == 8 * width
    assert backbone(images(2, in_channels, size)).shape == (2, backbone.out_features)


def test_small_makes_the_same_of_an_image_in_any_batch_if_it_normalises_by_groups() -> None:
    backbone, images = small(width=8, norm="group").train(), torch.randn(4, 1, 16, 16)
    assert torch.allclose(backbone(images)[:1], backbone(images[:1]), atol=1e-6)
    assert not torch.allclose(small(width=8).train()(images)[:1], small(width=8).train()(images[:1]), atol=1e-2)
    with pytest.raises(InputError, match="norm='layer' is unknown; choose 'batch' or 'group'"):
        small(norm="layer")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="width=12 is no multiple of 8"):
        small(width=12, norm="group")


def test_small_learns_its_own_batchnorm_statistics() -> None:
    backbone = small(width=4).train()
    before = statistics(backbone)
    backbone(images(channels=1, size=32))
    assert not unchanged(before, statistics(backbone))


@pytest.mark.parametrize(
    ("name", "width", "size"),
    [
        ("resnet18", 512, 64),
        ("efficientnet_b0", 1280, 64),
        ("mobilenet_v3_small", 1024, 64),
        ("convnext_tiny", 768, 64),
        ("densenet121", 1024, 64),
        ("shufflenet_v2_x0_5", 1024, 64),
        ("squeezenet1_1", 512, 64),
        ("swin_t", 768, 64),
        ("vit_b_16", 768, 224),
        ("googlenet", 1024, 64),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_classifiers_are_cut_down_to_their_features(name: str, width: int, size: int) -> None:
    with torch.device("meta"):  # shapes without the arithmetic
        backbone = torchvision_backbone(name)
    assert backbone.out_features == width
    for mode in (True, False):
        assert backbone.train(mode)(images(2, size=size).to("meta")).shape == (2, width)


def test_features_are_what_the_classifier_would_have_seen() -> None:
    torch.manual_seed(0)
    original = models.resnet18().eval()
    backbone = torchvision_backbone("resnet18").eval()
    backbone.network.load_state_dict(original.state_dict(), strict=False)
    torch.testing.assert_close(original.fc(backbone(images())), original(images()))


def test_dropout_of_the_classifier_goes_with_it() -> None:
    backbone = torchvision_backbone("mobilenet_v2").train()
    assert not any(isinstance(layer, nn.Dropout) for layer in backbone.modules())


def test_one_channel_gives_what_three_equal_channels_gave() -> None:
    torch.manual_seed(0)
    colour = torchvision_backbone("resnet18").eval()
    torch.manual_seed(0)
    grey = torchvision_backbone("resnet18", in_channels=1).eval()
    batch = images(channels=1)
    torch.testing.assert_close(grey(batch), colour(batch.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_frozen_batchnorm_keeps_its_statistics_while_its_scale_trains() -> None:
    backbone = torchvision_backbone(LITTLE, freeze_batchnorm=True)
    before = statistics(backbone)
    for mode in (True, False, True):
        backbone.train(mode)(images()).sum().backward()
    assert unchanged(before, statistics(backbone))
    assert backbone.training
    assert backbone.network.stage2.training
    assert all(not layer.training for layer in batchnorms(backbone))
    assert all(layer.weight.grad is not None for layer in batchnorms(backbone))


def test_frozen_batchnorm_normalises_by_its_statistics_not_by_the_batch() -> None:
    backbone = torchvision_backbone(LITTLE, freeze_batchnorm=True).train()
    batch = images(8)
    torch.testing.assert_close(backbone(batch)[:2], backbone(batch[:2]), rtol=1e-4, atol=1e-4)


def test_batchnorm_that_is_not_frozen_follows_the_mode() -> None:
    backbone = torchvision_backbone(LITTLE, freeze_batchnorm=False).train()
    before = statistics(backbone)
    backbone(images())
    assert not unchanged(before, statistics(backbone))


def test_batchnorm_is_frozen_by_default_where_there_are_trained_weights(tmp_path: Path) -> None:
    torch.save(models.get_model(LITTLE).state_dict(), tmp_path / "weights.pth")
    trained = torchvision_backbone(LITTLE, str(tmp_path / "weights.pth")).train()
    assert all(not layer.training for layer in batchnorms(trained))
    assert all(layer.training for layer in batchnorms(torchvision_backbone(LITTLE).train()))


def test_a_copy_stays_frozen() -> None:
    backbone = copy.deepcopy(torchvision_backbone(LITTLE, freeze_batchnorm=True))
    before = statistics(backbone)
    nn.Sequential(backbone).train()(images())
    assert unchanged(before, statistics(backbone))


def test_frozen_batchnorm_survives_a_lightning_run() -> None:
    module = OneStep(torchvision_backbone("resnet18", freeze_batchnorm=True))
    before = statistics(module)
    scale = module.backbone.network.bn1.weight.detach().clone()
    loader = DataLoader(images(8, size=32), batch_size=4)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, loader)
    assert unchanged(before, statistics(module))
    assert not torch.equal(scale, module.backbone.network.bn1.weight)


@pytest.mark.parametrize(
    "saved",
    [
        "torchvision",
        "other classes",
        "stripped",
        "backbone",
        "data parallel",
        "state_dict of module.",
        "model",
        "our run",
    ],
)
def test_local_weights_load_however_they_were_saved(tmp_path: Path, saved: str) -> None:
    torch.manual_seed(0)
    source = torchvision_backbone(LITTLE).eval()
    original = models.get_model(LITTLE, num_classes=17 if saved == "other classes" else 1000)
    original.load_state_dict(source.network.state_dict(), strict=False)
    state = {
        "stripped": source.network.state_dict(),
        "backbone": source.state_dict(),
        "data parallel": {f"module.{key}": value for key, value in original.state_dict().items()},
        "state_dict of module.": {
            "epoch": 3,
            "state_dict": {f"module.{key}": value for key, value in original.state_dict().items()},
        },
        "model": {"model": original.state_dict(), "optimizer": {"state": {}}},
        "our run": {
            "epoch": 3,
            "state_dict": DivideConquerModule(source, 8, losses.ProxyAnchorLoss(5, 8)).state_dict(),
            "callbacks": {"DivideConquerCallback": {"assignment": torch.zeros(3)}},
        },
    }.get(saved, original.state_dict())
    torch.save(state, tmp_path / "weights.pth")
    loaded = torchvision_backbone(LITTLE, str(tmp_path / "weights.pth")).eval()
    assert torch.equal(loaded(images()), source(images()))


def test_weights_from_before_batch_counters_load(tmp_path: Path) -> None:
    state = {
        key: value for key, value in models.get_model(LITTLE).state_dict().items() if "num_batches_tracked" not in key
    }
    torch.save(state, tmp_path / "weights.pth")
    loaded = torchvision_backbone(LITTLE, str(tmp_path / "weights.pth"))
    assert torch.equal(loaded.network.conv1[0].weight, state["conv1.0.weight"])


def test_weights_of_another_network_are_refused_with_the_first_differences(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = models.get_model(LITTLE).state_dict()
    torch.save({**state, "stage5.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"weights\.pth .*: stage5\.weight is not part of it \(1 differences in all\)"):
        torchvision_backbone(LITTLE, str(path))
    torch.save({key: value for key, value in state.items() if key != "conv5.0.weight"}, path)
    with pytest.raises(InputError, match=r": conv5\.0\.weight is missing \(1 "):
        torchvision_backbone(LITTLE, str(path))
    torch.save({**state, "conv1.0.weight": torch.zeros(24, 1, 3, 3)}, path)
    with pytest.raises(InputError, match=r": conv1\.0\.weight is \(24, 1, 3, 3\), not \(24, 3, 3, 3\) \(1 "):
        torchvision_backbone(LITTLE, str(path))
    torch.save({"of_the_teacher": state, "epoch": 3}, path)
    with pytest.raises(InputError, match=r"conv1\.0\.weight is missing; .*; .* differences in all"):
        torchvision_backbone(LITTLE, str(path))


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_weights_are_refused(tmp_path: Path, kept: float, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(models.get_model(LITTLE).state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"weights\.pth is not a complete file"):
        torchvision_backbone(LITTLE, str(path))


def test_files_that_are_no_state_dict_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torch.zeros(3), path)
    with pytest.raises(InputError, match="holds a Tensor, not a state dict"):
        torchvision_backbone(LITTLE, str(path))
    path.write_text("<html>404 not found</html>")
    with pytest.raises(InputError, match="not a complete file"):
        torchvision_backbone(LITTLE, str(path))


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(models.get_model(LITTLE), path)
    with pytest.raises(InputError, match="not a complete file"):
        torchvision_backbone(LITTLE, str(path))


@pytest.mark.parametrize("weights", ["no_such_file.pth", "folder/no_such_file"])
def test_a_missing_weights_file_is_named(weights: str) -> None:
    with pytest.raises(InputError, match=f"weights='{weights}' does not exist"):
        torchvision_backbone(LITTLE, weights)


def test_unknown_names_come_with_close_ones() -> None:
    with pytest.raises(InputError, match=r"'resnet51'.*resnet50"):
        torchvision_backbone("resnet51")
    with pytest.raises(InputError, match=r"'xyzzy'.*efficientnet_b0"):
        torchvision_backbone("xyzzy")
    with pytest.raises(InputError, match=r"'IMAGENET1K_V9' for resnet50.*IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        resnet50("IMAGENET1K_V9")


def test_without_a_network_the_file_and_its_place_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(url: str, *arguments: object, **options: object) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(InputError) as caught:
        resnet50("IMAGENET1K_V1")
    for part in ("resnet50-0676ba61.pth", str(tmp_path / "hub" / "checkpoints"), "path", "name resolution"):
        assert part in str(caught.value)


def test_downloaded_weights_are_taken_from_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file_name = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rpartition("/")[2]
    path = tmp_path / "hub" / "checkpoints" / file_name
    path.parent.mkdir(parents=True)
    state = models.get_model(LITTLE).state_dict()
    torch.save(state, path)
    for weights in ("DEFAULT", "IMAGENET1K_V1"):
        loaded = torchvision_backbone(LITTLE, weights)
        assert torch.equal(loaded.network.conv1[0].weight, state["conv1.0.weight"])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=rf"could not be .* read .* {file_name}"):
        torchvision_backbone(LITTLE, "DEFAULT")


def test_resnet50_has_the_width_of_the_papers() -> None:
    assert resnet50().out_features == 2048
