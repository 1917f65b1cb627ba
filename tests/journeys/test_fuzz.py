"""Whatever is broken, a program succeeds or says in one line what is wrong, and damages nothing."""

import os
import random
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import trees
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from programs import ROOT

pytestmark = pytest.mark.slow

MORE = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""How many examples to try of each test, new ones each time, as before a release; by default few, always the same."""


def fuzz(examples):
    return settings(
        max_examples=MORE or examples,
        derandomize=not MORE,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@contextmanager
def empty_folder():
    """Work in an empty folder, as every test does, for the time of an example."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as path:
        os.chdir(path)
        try:
            yield Path(path)
        finally:
            os.chdir(before)


QUICK = [
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.enable_progress_bar=false",
    "data.batch_size=8",
    "data.images_per_class=2",
    "divide={split_depth: 1, warmup_epochs: 0}",
    "logger=none",
    "hydra.run.dir=run",
]
GLYPHS = ["dataset=glyphs", "dataset.num_classes=14", "dataset.size=16", "dataset.images_per_class=6"]


def files(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def judge(outcome, place, before):
    """Check how a program ended, and that it left the files that were there, no half ones, and no temporary ones."""
    code, _, err = outcome
    assert code in (0, 2), err
    assert "Traceback" not in err
    if code == 2:
        assert err.splitlines()[-1].startswith("error: "), err
    after = files(place)
    assert {path: after.get(path) for path in before} == before
    for path in after.keys() - before.keys():
        assert path.suffix in (".ckpt", ".csv", ".html", ".json", ".log", ".npz", ".png", ".yaml"), path
        if path.suffix == ".ckpt":
            assert "state_dict" in torch.load(path, weights_only=True)


def keys(name, *choices):
    """Return all keys of a configuration, but those that name code: what that does is for its author to answer for."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(name, list(choices))
    found = []

    def visit(node, prefix):
        for key in node:
            found.append(f"{prefix}{key}")
            own = not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key)
            if own and isinstance(node[key], DictConfig):
                visit(node[key], f"{prefix}{key}.")

    visit(config, "")
    return [key for key in found if not key.endswith(("_target_", "_partial_", "devices"))]  # the last starts processes


TRAIN_KEYS = list(
    dict.fromkeys(
        [*keys("train", GLYPHS[0]), *keys("train", GLYPHS[0], "divide=learned"), "loss", "miner", "selection"]
    )
)
EVALUATE_KEYS = keys("evaluate")
VALUES = [
    *("-1", "0", "1", "2", "0.5", "-0.5", "1.5", "1e-30", "nan", "inf", "-inf", "0x10", "1_000", "true", "null"),
    *("''", "abc", "'a b'", '"quo\'te"', "é😀", "..", "a/b/c", "torch.optim.SGD", "none", "a=b", "???"),
    *("[]", "[1,2]", "[null]", "[abc]", "{}", "{a: 1}", "[", "'", "${nowhere}", "${seed}"),
]
HUGE = ["1e30", "99999999999999999999", "-99999999999999999999", "1000000", "2147483648"]
AT_GREAT_COST = (
    *("batch_size", "embedding_dim", "image_size", "max_epochs", "nmi_runs"),
    *("num_classes", "num_folds", "num_workers", "reid_draws", "dataset.size"),
)


@st.composite
def overrides(draw, keys):
    chosen = []
    for key in draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2)):
        values = VALUES if key.endswith(AT_GREAT_COST) else VALUES + HUGE
        how = draw(st.sampled_from(["", "", "", "+", "++", "~"]))
        chosen.append(f"{how}{key}={draw(st.sampled_from(values))}" if how != "~" else f"~{key}")
    return chosen


@fuzz(15)
@given(overrides(TRAIN_KEYS))
@example(["~trainer", "trainer=0x10"])
def test_any_value_of_any_key_in_training(call, given):
    with empty_folder() as place:
        judge(call("train.py", *GLYPHS, *QUICK, *given), place, {})


@pytest.fixture
def trained(call, workplace):
    """The checkpoint of a short run."""
    path = workplace / "trained" / "checkpoints" / "best.ckpt"
    if not path.exists():
        arguments = [*GLYPHS, *QUICK, "miner=none", f"hydra.run.dir={path.parent.parent}"]
        assert call("train.py", *arguments)[0] == 0
    return path


@fuzz(15)
@given(overrides(EVALUATE_KEYS))
def test_any_value_of_any_key_in_evaluation(call, trained, given):
    with empty_folder() as place:
        judge(call("evaluate.py", f"checkpoint={trained}", *given), place, {})


@fuzz(10)
@example(510)  # a tensor among the settings
@given(st.integers(0, 10**9))
def test_any_broken_checkpoint(call, trained, seed):
    rng = random.Random(seed)
    with empty_folder() as place:
        broken = place / "broken.ckpt"
        shutil.copyfile(trained, broken)
        damage = rng.choice([truncate, garbage, flip, exchange_for_folder, change_entries])
        damage(broken, rng)
        before = files(place)
        judge(call("evaluate.py", "checkpoint=broken.ckpt"), place, before)
        if damage is not change_entries:
            outcome = call("train.py", *GLYPHS, *QUICK, "miner=none", "ckpt_path=broken.ckpt")
            judge(outcome, place, before)
            assert outcome[0] == 2 or broken.read_bytes() == trained.read_bytes()


def change_entries(path, rng):
    """Write another checkpoint, as another version might have."""
    content = torch.load(path, weights_only=True)
    content = {key: content[key] for key in ("state_dict", "divconq_pl_config")}
    for _ in range(rng.choice([1, 1, 3])):
        change_entry(content, rng)
    torch.save(content, path)


def change_entry(content, rng):
    """Remove or exchange something in nested mappings."""
    *path, key = rng.choice(list(entries(content)))
    for step in path:
        content = content[step]
    if rng.random() < 0.3:
        del content[key]
    else:
        odd = [None, -1, 0, 7, 1.5, float("nan"), "x", "", [], [1, 2], {}, {"a": 1}, torch.zeros(2), True]
        content[key] = rng.choice(odd)


def entries(mapping, path=()):
    for key, value in mapping.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from entries(value, (*path, key))


@fuzz(15)
@given(st.data())
def test_any_broken_data_set(call, workplace, data):
    kind, write = data.draw(st.sampled_from(list(LAYOUTS.items())))
    whole = workplace / "data sets" / kind
    if not whole.exists():
        write(whole)
    with empty_folder() as place:
        shutil.copytree(whole, place / "data")
        rng = random.Random(data.draw(st.integers(0, 10**6)))
        done = [break_something(place / "data", rng) for _ in range(rng.choice([1, 1, 2, 5]))]
        data.draw(st.just(None).map(lambda _: done))
        before = files(place)
        dataset = kind.partition(" ")[0]
        options = [f"dataset.{o}" for o in ("on_bad_image=skip", "val_fraction=0") if rng.random() < 0.3]
        arguments = [f"dataset={dataset}", "dataset.root=data", "image_size=16", *QUICK, *options]
        judge(call("train.py", *arguments), place, before)


def write_folder(root, parts=("",), labels=range(1, 13)):
    for number, name in enumerate(parts):
        for c in labels if not name else list(labels)[6 * number : 6 * number + 6]:
            for i in range(4):
                trees.save(root / name / f"class {c}" / f"{i}.jpg", trees.colour(c, i))
    return root


def write_query_gallery(root):
    write_folder(root, ("train", "query"))
    shutil.copytree(root / "query", root / "gallery")


LAYOUTS = {
    "cub200": trees.write_cub,
    "cars196 all in one": trees.write_cars_all_in_one,
    "cars196 train and test": trees.write_cars_train_and_test,
    "cars196 folders": trees.write_cars_folders_of_classes,
    "cars196 parquet": trees.write_cars_parquet,
    "sop": trees.write_sop,
    "inshop": trees.write_inshop,
    "vehicle_id": trees.write_vehicle_id,
    "image_folder of classes": write_folder,
    "image_folder with train and test": lambda root: write_folder(root, ("train", "test")),
    "image_folder with query and gallery": write_query_gallery,
}


def break_something(root, rng):
    """Damage a file or folder, annotations more often than images; return what was done to what."""
    there = sorted(path for path in root.rglob("*") if not path.is_symlink())
    rare = [path for path in there if path.is_dir() or path.suffix.lower() != ".jpg"]
    if not there:
        return "nothing is left"
    path = rng.choice(rare if rare and rng.random() < 0.6 else there)
    if path.is_dir():
        damages = FOR_FOLDERS
    elif path.suffix.lower() == ".jpg":
        damages = FOR_FILES + FOR_IMAGES
    else:
        damages = FOR_LISTS if path.suffix in (".txt", ".csv") and rng.random() < 0.8 else FOR_FILES
    damage = rng.choice(damages)
    damage(path, rng)
    return f"{damage.__name__} {path.relative_to(root)}"


def remove(path, rng):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def truncate(path, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) or 1)])


def garbage(path, rng):
    path.write_bytes(rng.randbytes(rng.choice([0, 1, 100, 5000])))


def flip(path, rng):
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 20])):
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(bytes(content))


def exchange_for_folder(path, rng):
    path.unlink()
    path.mkdir()


def exchange_for_file(path, rng):
    shutil.rmtree(path)
    path.write_text("not a folder")


def dangle(path, rng):
    remove(path, rng)
    path.symlink_to("nowhere")


def circle(path, rng):
    (path / f"again {rng.random()}").symlink_to(path)


def rename(path, rng):
    name = rng.choice(["train", "test", "renamed", ".hidden", "é😀", "a" * 200, path.name + " "])
    if not path.with_name(name).exists():
        path.rename(path.with_name(name))


def empty(path, rng):
    shutil.rmtree(path)
    path.mkdir()


def change_lines(change):
    def damage(path, rng):
        lines = path.read_text(errors="replace").splitlines() or [""]
        change(lines, rng.randrange(len(lines)), rng)
        path.write_text("\n".join(lines) + rng.choice(["", "\n", "\n\n"]))

    damage.__name__ = change.__name__
    return damage


def swap_columns(lines, at, rng):
    lines[:] = [" ".join(reversed(line.split())) for line in lines]


def swap_fields(lines, at, rng):
    lines[at] = " ".join(reversed(lines[at].split()))


def wrong_number(lines, at, rng):
    lines[at] = "".join(rng.choice("0123456789-.x") if c.isdigit() and rng.random() < 0.3 else c for c in lines[at])


def drop_line(lines, at, rng):
    del lines[at]


def drop_most(lines, at, rng):
    del lines[rng.randrange(4) :]


def double_line(lines, at, rng):
    lines.insert(at, lines[at])


def odd_line(lines, at, rng):
    lines.insert(
        at, rng.choice(["", "x", "1", "1 2 3 4 5 6", "\0", "../../../etc/passwd 1", "1 ../x.jpg", '"', "-1 -1"])
    )


def odd_image(path, rng):
    mode = rng.choice(["L", "1", "P", "RGBA", "CMYK", "I;16", "F"])
    size = rng.choice([(1, 1), (1, 500), (40, 36)])
    path.unlink()
    Image.new(mode, size).save(path, "TIFF" if mode in ("F", "I;16") else "JPEG" if mode == "CMYK" else "TIFF")


def text_for_image(path, rng):
    path.write_text("<html>404</html>")


FOR_FILES = [remove, truncate, garbage, flip, exchange_for_folder, dangle, rename]
FOR_FOLDERS = [remove, exchange_for_file, dangle, circle, rename, empty]
FOR_IMAGES = [odd_image, text_for_image]
FOR_LISTS = [
    change_lines(change)
    for change in (swap_columns, swap_fields, wrong_number, drop_line, drop_most, double_line, odd_line)
]
