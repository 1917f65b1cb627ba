"""What reaches each logger of conf/logger: settings, losses, test metrics, pictures and the table."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SETTINGS = [
    *("dataset=glyphs", "dataset.num_classes=24", "dataset.size=16", "data.batch_size=16", "trainer.max_epochs=2"),
    *("divide={warmup_epochs: 0, every_n_epochs: 1}", "trainer.enable_progress_bar=false", "hydra.run.dir=run"),
]
PICTURES = {"clusters", "curves", "gallery", "tree"}


@pytest.fixture
def train(call, tmp_path, monkeypatch):
    """Train a tiny run with a logger, without any network."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def train(logger):
        code, _, err = call("train.py", *SETTINGS, f"logger={logger}")
        assert code == 0, err
        return tmp_path / "run", json.loads((tmp_path / "run" / "results.json").read_text())

    return train


def test_tensorboard_has_settings_losses_metrics_pictures_and_the_table(train):
    folder, results = train("tensorboard")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"learner/0/loss", "learner/1/loss", "rate/backbone", "val/recall_at_1"} <= set(tags["scalars"])
    assert "hp_metric" not in tags["scalars"]
    assert events.Scalars("test/map_at_r")[-1].value == pytest.approx(results["test/map_at_r"])
    assert set(tags["images"]) == {f"pictures/{name}" for name in PICTURES}
    steps = [image.step for image in events.Images("pictures/tree")]  # after each of two divisions, and at the end
    assert [step > 0 for step in steps] == [False, True, True]
    assert steps == sorted(set(steps))
    assert b"MAP@R" in events.Tensors("results/text_summary")[0].tensor_proto.string_val[0]
    settings = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"module.embedding_dim" in settings
    assert "dataset.num_classes: 24" in (folder / "tensorboard" / "hparams.yaml").read_text()


def test_wandb_takes_them_offline(train):
    pytest.importorskip("wandb")
    folder, _ = train("wandb")
    (run,) = folder.glob("wandb/offline-run-*")
    assert {path.name.split("_")[0] for path in run.glob("files/media/images/pictures/*.png")} == PICTURES
    (table,) = run.glob("files/media/table/results_*.json")
    assert "MAP@R" in table.read_text()
    (record,) = run.glob("*.wandb")
    written = record.read_bytes()
    for said in (b"module.embedding_dim", b"learner/1/loss", b"test/map_at_r"):
        assert said in written


def test_mlflow_takes_them_into_a_file_of_the_run(train):
    pytest.importorskip("sqlalchemy")
    mlflow = pytest.importorskip("mlflow")
    folder, results = train("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("divconq-pl").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["dataset.num_classes"] == "24"
    assert run.data.metrics["test/map_at_r"] == pytest.approx(results["test/map_at_r"])
    assert "learner/1/loss" in run.data.metrics
    (artifacts,) = folder.glob("mlflow/*/artifacts")
    assert {path.stem for path in (artifacts / "pictures").iterdir()} == PICTURES | {"epoch 0", "epoch 1"}
    assert (artifacts / "pictures" / "epoch 0" / "tree.png").is_file()
    assert "MAP@R" in (artifacts / "results.txt").read_text()
