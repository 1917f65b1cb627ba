"""Person re-identification: identity and camera from the file's name; junk is left out, distractors stay."""

import warnings

import pytest
import torch
import trees
from PIL import Image

from divconq_pl.app.evaluation import measure
from divconq_pl.data import FileDataset, ImageFolder, Market1501, image_test, image_train
from divconq_pl.errors import InputError
from divconq_pl.inference.network import MeanOfFlips


def test_the_camera_is_known_of_each_image_and_junk_is_left_out(tmp_path):
    expected = trees.write_market(tmp_path)
    query, gallery = Market1501(tmp_path, val_fraction=0).splits().test
    assert query.classes == gallery.classes == expected["gallery"].classes
    assert [query.group_names[g] for g in query.groups] == ["camera 1"] * 4
    assert query.group_names == gallery.group_names
    seen = {gallery.name_of(i).rpartition("/")[2]: i for i in range(len(gallery))}
    assert not any(name.startswith("-1") for name in seen)
    distractor = seen["0000_c2s1_000777_01.jpg"]
    assert gallery.classes[gallery.targets[distractor]] == "distractors"
    assert gallery.group_names[gallery.groups[distractor]] == "camera 2"
    assert len(gallery) == 13


def test_a_file_with_another_name_is_named(tmp_path):
    trees.write_market(tmp_path)
    trees.save(tmp_path / "Market-1501-v15.09.15" / "query" / "person.jpg", (0, 0, 0))
    with pytest.raises(InputError, match=r"1 files of .*query' are not named as .*: person\.jpg"):
        Market1501(tmp_path).splits()


def test_a_match_of_the_same_camera_does_not_count():
    """The nearest image is of the same person by the same camera, the next of another, the last of the same person."""
    names = ["front", "back"]
    query = FileDataset(["q"], [0], ["a", "b"], groups=[0], group_names=names)
    gallery = FileDataset(["1", "2", "3"], [0, 1, 0], ["a", "b"], groups=[0, 0, 1], group_names=names)
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.3], [1.0, 0.5], [1.0, 0.0]]))
    found = measure([rows[3:], rows[:3]], [query, gallery], recall_ks=(1, 2), cross_camera=True)
    assert found["test/recall_at_1"] == 1.0
    assert found["test/cross_camera_map"] == 0.5
    assert (found["test/cross_camera_cmc_1"], found["test/cross_camera_cmc_2"]) == (0.0, 1.0)
    with_reranking = measure([rows[3:], rows[:3]], [query, gallery], recall_ks=(1,), rerank=True)
    assert with_reranking["test/reranked_cmc_1"] == 1.0  # no camera is left out, since that was not asked for
    with pytest.raises(InputError, match="needs the camera of each image"):
        measure([rows[3:], rows[:3]], [FileDataset(["q"], [0], ["a"]), gallery], cross_camera=True)


def test_no_image_finds_itself_where_the_test_set_is_its_own_gallery():
    data = FileDataset(list("abcd"), [0, 0, 1, 1], ["a", "b"])
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]]))
    assert measure([rows], [data], recall_ks=(1,), rerank=True)["test/reranked_cmc_1"] == 0.0


def test_images_of_people_are_twice_as_high_as_wide():
    person = Image.new("RGB", (64, 128), "white")
    person.paste("black", (0, 0, 64, 32))
    assert image_train([256, 128])(person).shape == (3, 256, 128)
    seen = image_test([256, 128])(person)
    assert seen.shape == (3, 256, 128)
    assert float((seen[0, :, 64] < 0).float().mean()) == pytest.approx(0.25, abs=0.01)  # nothing is cut off
    with pytest.raises(InputError, match=r"image_size=\[256, 128, 3\] is no size"):
        image_test([256, 128, 3])


def test_an_image_and_its_mirror_image_are_embedded_alike():
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images = torch.rand(2, 3, 2, 2)
    mean = MeanOfFlips(backbone)
    assert torch.allclose(mean(images), mean(images.flip(3)))
    assert torch.allclose(mean(images), (backbone(images) + backbone(images.flip(3))) / 2)


@pytest.mark.parametrize("ask", ["splits", "evaluated"])
def test_an_image_folder_that_is_laid_out_so_is_told_what_to_type(tmp_path, ask):
    trees.write_market(tmp_path)
    for root in (tmp_path, tmp_path / "Market-1501-v15.09.15"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first holds a single folder
            with pytest.raises(InputError, match=r"laid out as Market-1501, .* use dataset=market1501"):
                getattr(ImageFolder(root), ask)()
