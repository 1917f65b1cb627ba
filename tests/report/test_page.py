import re
import time
from html.parser import HTMLParser

import pytest
import torch
from reports import make_images, make_material

from divconq_pl.core.masks import LearnedSubspaces
from divconq_pl.report import Images, Material, write_page
from divconq_pl.report.page import render
from divconq_pl.report.sections import SECTIONS

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Reads a page, and notices tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], {}
        self.section, self.attributes = None, set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.attributes.update(attributes)
        self.tags.append(tag)
        self.links += [attributes[key] for key in ("src", "href") if key in attributes]
        if tag == "section":
            self.section = attributes["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes.update(dict(attributes))
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words[self.section] = self.words.get(self.section, "") + data


@pytest.fixture(scope="module")
def page():
    return Reader(render(make_material()))


def test_every_section_is_there_and_none_is_missing(page):
    assert set(page.words) >= {section.name for section in SECTIONS}
    assert "Not shown" not in " ".join(page.words.values())


def test_it_needs_no_other_file_and_no_network(page):
    assert not [link for link in page.links if not link.startswith(("#", "data:image/jpeg;base64,"))]
    text = render(make_material())
    assert not re.findall(r"https?://(?!www\.w3\.org)", text)
    assert "@import" not in text


def test_it_says_what_was_divided_and_whether_it_helped(page):
    assert "120 training images of 6 classes were divided 2 times, into up to 4 clusters" in page.words["result"]
    assert "each of 60 images of 6 classes" in page.words["result"]
    assert "It helped." in page.words["result"]
    assert "Recall@1" in page.words["result"]


def test_the_plain_loss_stands_beside_it():
    plain = {"name": "the-plain-run", "results": {"test/recall_at_1": 0.25}, "epochs": make_material().epochs}
    material = make_material(plain=plain, results={"test/recall_at_1": 0.5})
    words = Reader(render(material)).words
    assert "50.0 %25.0 %+25.0" in words["result"]
    assert "the-plain-run" in words["result"]
    assert "of the plain loss" in words["curves"]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", 'a" onload="x', "</script><b>", "a & b", "'; x='"])
def test_names_cannot_break_out_of_the_page(name):
    hostile = make_images(60, 6, [name] * 6)
    material = make_material(names=[name] * 6, title=name, verdict=name, command=name, settings={name: name})
    material.train.groups, material.train.group_names = material.train.labels % 2, [name, name]
    material.train.name = material.test.name = lambda i: name
    text = render(material)
    reader = Reader(text)
    assert reader.tags.count("script") == 2
    assert reader.tags.count("b") == 0
    assert not {name for name in reader.attributes if name.startswith("on")}
    assert hostile.classes[0] in " ".join(reader.words.values())


def test_images_that_have_gone_since_are_counted_and_left_out():
    words = Reader(render(make_material(picture="gone"))).words
    assert re.search(r"\d+ images could not be read", " ".join(words.values()))
    assert "Not shown" not in " ".join(words.values())


@pytest.mark.parametrize(
    ("changes", "sections"),
    [
        ({"divisions": [], "assignment": None, "subspaces": None}, {"tree", "clusters", "learners"}),
        ({"epochs": []}, {"curves", "cost"}),
        ({"test": None, "embeddings": [], "answers": None, "results": {}}, {"result", "errors", "map"}),
    ],
    ids=["plain", "without notes", "interrupted"],
)
def test_what_is_missing_is_said_in_its_place(changes, sections):
    material = make_material()
    for name, value in changes.items():
        setattr(material, name, value)
    words = Reader(render(material)).words
    assert {name for name, text in words.items() if name and "Not shown" in text} == sections


def test_a_report_of_nothing_is_a_report():
    assert "Not shown" in Reader(render(Material(title="nothing"))).words["result"]


@pytest.mark.parametrize("size", [{"classes": 1, "test": 5}, {"classes": 2, "test": 2}, {"test": 3, "classes": 3}])
def test_few_classes_and_images_are_no_obstacle(size):
    render(make_material(**size))


def test_a_gallery_apart_from_the_queries_is_searched():
    material = make_material()
    gallery = make_images(30, 6)
    embeddings = torch.nn.functional.normalize(torch.randn(30, 32))
    labels = torch.from_numpy(material.test.labels)
    from divconq_pl.metrics.retrieval import answer_queries

    material.answers = answer_queries(material.embeddings[0], labels, embeddings, torch.from_numpy(gallery.labels))
    material.gallery, material.embeddings = gallery, [material.embeddings[0], embeddings]
    assert "Not shown" not in Reader(render(material)).words["errors"]


def test_learned_masks_are_compared_with_one_another():
    masks = LearnedSubspaces(32, 2)
    masks.set_depth(2)
    with torch.no_grad():
        for k, mask in enumerate(masks.parameters()):
            mask.copy_((torch.arange(32) // 8 == k).float())  # disjoint
    said = Reader(render(make_material(subspaces=masks))).words["learners"]
    assert "weighted by their masks" in said
    assert "the cosine between two masks is 0.00 on average" in said


def test_a_hundred_learners_and_many_images_take_seconds_and_megabytes(tmp_path):
    material = make_material(train=20_000, test=20_000, classes=2000, depth=7, epochs=30)
    began = time.perf_counter()
    path = write_page(material, tmp_path / "report.html")
    assert time.perf_counter() - began < 60
    assert path.stat().st_size < 20 * 2**20


def test_a_tensor_is_shown_as_an_image_and_a_vector_is_not():
    data = [(torch.rand(3, 8, 8), 0), (torch.rand(12), 0)]
    images = Images.of_dataset(data, [0, 0])
    assert images.picture(0).shape == (8, 8, 3)
    with pytest.raises(Exception, match="no images"):
        images.picture(1)
