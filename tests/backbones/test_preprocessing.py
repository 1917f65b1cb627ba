"""Images are given to a network as its weights were evaluated."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import models

from divconq_pl import InputError
from divconq_pl.backbones import timm_preprocessing, torchvision_preprocessing
from divconq_pl.data import Preprocessing, image_test, image_train

TWO_LEVELS = 2 / 255 / 0.22  # of 256, after normalisation: resampling may round differently


def picture(height=300, width=420):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet50", "IMAGENET1K_V1"), ("resnet50", "IMAGENET1K_V2"), ("swin_v2_t", "DEFAULT")],
)
def test_the_test_transform_is_that_of_torchvisions_weights(name, weights):
    reference = models.get_model_weights(name)[weights].transforms()
    found = image_test(preprocessing=torchvision_preprocessing(name, weights))(picture())
    torch.testing.assert_close(found, reference(picture()), rtol=0, atol=TWO_LEVELS)


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_224.dino",  # 224 / 0.9, rounded down
        "tf_efficientnet_lite0.in1k",  # another mean and deviation
        "resnet10t.c3_in1k",  # smaller images
        "vit_base_patch16_siglip_224.v2_webli",
        "vit_base_patch16_clip_224.metaclip_2pt5b",
    ],
)
def test_the_test_transform_is_that_of_timms_weights(name):
    reference = create_transform(**resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()))
    found = image_test(preprocessing=timm_preprocessing(name))(picture())
    torch.testing.assert_close(found, reference(picture()), rtol=0, atol=TWO_LEVELS)


def test_without_weights_images_are_those_of_the_papers():
    for found in (torchvision_preprocessing("efficientnet_b4"), torchvision_preprocessing("resnet50", "IMAGENET1K_V1")):
        assert found == Preprocessing(
            (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", size=224, resize=256, squash=False
        )
    default, explicit = image_test(), image_test(preprocessing=Preprocessing())
    assert torch.equal(default(picture()), explicit(picture()))


def test_weights_are_known_by_their_tag_or_the_name_of_their_file():
    assert torchvision_preprocessing("resnet50", "there/resnet50-11ad3fa6.pth").resize == 232
    assert torchvision_preprocessing("resnet50", "there/resnet50-0676ba61.pth").resize == 256
    assert torchvision_preprocessing("resnet50", "mine.pth") == Preprocessing()
    own = timm_preprocessing("vit_small_patch16_224", "dino")
    assert own == timm_preprocessing("vit_small_patch16_224.dino")
    assert own == timm_preprocessing("vit_small_patch16_224.dino", "DEFAULT")
    assert own == timm_preprocessing("vit_small_patch16_224.dino", "there/mine.safetensors")
    assert own.mean != timm_preprocessing("vit_small_patch16_224").mean


def test_another_size_keeps_the_share_that_is_cut_out():
    expected = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, size=200, resize=250)
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3)))
    for size in (80, 200):
        found = image_test(size, preprocessing=expected)(ramp) * 255
        assert found.shape == (3, size, size)
        # Columns 20 to 180 are left of 200, four fifths; the outermost pixels show half a pixel less of them.
        inwards = 160 / size / 2
        assert found[0, 0, [0, -1]].tolist() == pytest.approx([19.5 + inwards, 179.5 - inwards], abs=1)


def test_training_follows_the_weights_too():
    expected = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="nearest", size=40)
    white = Image.new("RGB", (60, 50), "white")
    assert torch.equal(image_train(preprocessing=expected)(white), torch.full((3, 40, 40), 2.0))
    assert image_train(24, preprocessing=expected)(white).shape == (3, 24, 24)
    pixels = image_train(preprocessing=expected)(picture()) * 0.25 + 0.5
    sharp = (pixels * 255).round().to(torch.uint8).flatten(1).T.numpy()
    colours = {tuple(colour) for colour in np.asarray(picture()).reshape(-1, 3)}
    assert all(tuple(colour) in colours for colour in sharp)  # nearest invents none


def test_unknown_values_are_named():
    with pytest.raises(InputError, match=r"interpolation='cubic' is unknown; use one of .*bicubic"):
        Preprocessing(interpolation="cubic")
    with pytest.raises(InputError, match=r"'resnet51'.*resnet50"):
        torchvision_preprocessing("resnet51")
    with pytest.raises(InputError, match=r"'V9' for resnet50: use IMAGENET1K_V1"):
        torchvision_preprocessing("resnet50", "V9")
    with pytest.raises(InputError, match=r"'dinosaur' for vit_small_patch16_224: use .*dino, DEFAULT"):
        timm_preprocessing("vit_small_patch16_224.dinosaur")


@pytest.mark.parametrize(
    "interpolation", ["nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"]
)
def test_images_are_resampled_as_pillow_does(interpolation):
    expected = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, interpolation=interpolation, size=40, resize=50)
    how = Image.Resampling[interpolation.partition("-")[0].upper()]
    resized = np.asarray(picture().resize((70, 50), how), dtype=int)[5:45, 15:55]
    found = (image_test(preprocessing=expected)(picture()) * 255).round().int().permute(1, 2, 0).numpy()
    assert abs(found - resized).max() <= 1
    assert image_train(preprocessing=expected)(picture()).shape == (3, 40, 40)
