"""What divconq-export writes embeds as the checkpoint does, is whole or not there, and says what it is."""

import json
import re

import pytest
import torch
import yaml
from checkpoints import GLYPHS, write_checkpoint
from PIL import Image
from programs import ROOT, contents, refusal

import divconq_pl
from divconq_pl.app import export_network


@pytest.fixture
def export(call):
    """Run the program in this process, with its configuration in the repository."""
    return lambda *arguments: call("divconq-export", *map(str, arguments))


def run_onnx(path, images):
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.shape[0] for value in (*session.get_inputs(), *session.get_outputs())] == ["batch", "batch"]
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def test_every_file_gives_the_checkpoints_embeddings_and_neighbours(export, tmp_path):
    pytest.importorskip("onnxscript")
    run = tmp_path / "run"
    path = write_checkpoint(run / "checkpoints" / "best.ckpt", transform=GLYPHS, channels=1, image_size=16)
    figures = {"epoch": 3, "test/recall_at_1": 0.775, "test/images": 20, "test/classes": 5, "selection": "validation"}
    figures["protocol"] = "closed"
    (run / "results.json").write_text(json.dumps(figures))
    code, out, err = export(f"checkpoint={run}")
    assert code == 0, err
    names = ["README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors", "preprocessing.json"]
    assert sorted(file.name for file in (run / "export").iterdir()) == names
    assert [file.name for file in run.iterdir() if file.name.startswith(".")] == []
    assert all(f"{run / 'export' / name}: differs by " in out for name in names[2:5])

    embedder = divconq_pl.load(path, "cpu")
    program = torch.export.load(run / "export" / "model.pt2").module()
    again = divconq_pl.load(run / "export", "cpu")
    assert again.fingerprint == embedder.fingerprint
    for number in (1, 2, 7, 40):
        images = torch.randn(number, 1, 16, 16)
        expected = embedder.module(images).detach()
        for rows in (run_onnx(run / "export" / "model.onnx", images), program(images), again.module(images).detach()):
            torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)
            assert torch.equal((rows @ rows.T).argsort()[:, -2:], (expected @ expected.T).argsort()[:, -2:])

    described = json.loads((run / "export" / "preprocessing.json").read_text())
    assert described["input"] == {"layout": "NCHW", "dtype": "float32", "channels": 1, "height": 16, "width": 16}
    assert described["steps"][1:] == [{"divide_by": 255}, {"normalize": {"mean": [0.12], "std": [0.29]}}]
    _, front, card = (run / "export" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "unknown"
    assert yaml.safe_load(front)["model-index"][0]["results"][0]["metrics"] == [{"type": "recall_at_1", "value": 0.775}]
    assert "New images of classes that were trained on: 20 images of 5 classes; best epoch by validation" in card
    assert "| recall_at_1 | 77.5 % |" in card
    assert "Trained from a random start" in card
    assert str(tmp_path) not in card

    names = {"__name__": "page"}  # what the page does with these files
    for code in re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "take-away.md").read_text(), re.DOTALL):
        exec(compile(code, "take-away.md", "exec"), names)
    assert names["embeddings"].shape == (5, 8)


@pytest.mark.parametrize(
    "backbone",
    [
        {"_target_": "torchvision_backbone", "name": "squeezenet1_1", "weights": None, "grad_checkpointing": True},
        {"_target_": "small", "in_channels": 3, "width": 8, "norm": "group"},
    ],
    ids=["grad_checkpointing", "group norm"],
)
def test_other_networks_are_traced_too(export, tmp_path, backbone):
    backbone = {**backbone, "_target_": f"divconq_pl.backbones.{backbone['_target_']}"}
    path = write_checkpoint(tmp_path / "net.ckpt", backbone)
    images = torch.randint(0, 256, (3, 3, 40, 30), dtype=torch.uint8)
    code, _, err = export(f"checkpoint={path}", "formats=[torch_export,safetensors]", f"folder={tmp_path / 'model'}")
    assert code == 0, err
    embedder = divconq_pl.load(path, "cpu")
    seen = torch.stack([embedder.preprocess(image) for image in images])
    program = torch.export.load(tmp_path / "model" / "model.pt2").module()
    torch.testing.assert_close(program(seen), embedder.embed(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        divconq_pl.load(tmp_path / "model", "cpu").embed(images), embedder.embed(images), rtol=0, atol=1e-6
    )


def test_what_differs_is_not_written(export, tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "net.ckpt")
    right = export_network.write_torch_export

    def wrong(*arguments):
        run = right(*arguments)
        return lambda images: run(images) + 0.01

    monkeypatch.setattr(export_network, "write_torch_export", wrong)
    before = contents(tmp_path)
    said = refusal(export(f"checkpoint={path}", "formats=[torch_export]"))
    assert "model.pt2 gives embeddings that differ by 1.0e-02 from the checkpoint's, more than 1e-04" in said
    assert contents(tmp_path).keys() == before.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no checkpoint given; use checkpoint=PATH"),
        (["checkpoint=nowhere"], "checkpoint='nowhere' is not a file"),
        (["checkpoint=net.ckpt", "formats=onx"], "formats=onx is unknown; choose of onnx, torch_export, safetensors"),
        (["checkpoint=net.ckpt", "formats=[]"], "formats=[] writes nothing"),
        (["checkpoint=net.ckpt", "folder=full"], "folder='full' exists, and nothing is overwritten"),
        (["checkpoint=net.ckpt", "folder=/proc/x"], "folder='/proc/x' cannot be written (No such file or directory)"),
        (["checkpoint=net.ckpt", "images=empty"], "'empty' holds no image"),
        (["checkpoint=net.ckpt", "images=full"], "cannot read the image 'full/text.png'"),
    ],
)
def test_wrong_input_is_said_in_one_line(export, tmp_path, arguments, said):
    write_checkpoint(tmp_path / "net.ckpt")
    for name in ("full", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "text.png").write_text("no image")
    before = contents(tmp_path)
    line = refusal(export(*arguments))
    assert said in line
    assert "on_bad_image" not in line
    assert contents(tmp_path) == before


def test_a_folder_of_few_images_is_enough(export, tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "net.ckpt")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20), "red").save(tmp_path / "images" / "one.png")
    compared = []
    right = export_network.write_files
    monkeypatch.setattr(export_network, "write_files", lambda *given: compared.append(given[-1]) or right(*given))
    code, out, err = export(f"checkpoint={path}", "formats=safetensors", "images=images")
    assert code == 0, err
    assert "Compared on images of images, in batches of 1, 2, 5" in out
    assert compared[0].shape == (5, 3, 24, 24)


def test_a_damaged_folder_is_named(export, tmp_path):
    path = write_checkpoint(tmp_path / "net.ckpt")
    assert export(f"checkpoint={path}", "formats=[safetensors]")[0] == 0
    weights = tmp_path / "export" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(divconq_pl.InputError, match=r"^path='.*export' is damaged: "):
        divconq_pl.load(tmp_path / "export")
