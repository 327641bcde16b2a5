"""Test the layouts of own images: class folders without train/, and tables of paths and labels."""

import json

import pytest
import torch
from photos import class_folders

from src.data.images import read_image
from src.data.modules import FolderDataModule
from src.data.splits import open_split
from src.errors import InputError

CLASSES = ("cat", "dog")
PATHS = [f"{name}/{index}.png" for name in CLASSES for index in range(4)]


def module_of(root, **options):
    data = FolderDataModule(str(root), **{"image_size": 16, "val_fraction": 0.25} | options)
    data.prepare_data()
    return data


def assert_reads(data, split, paths):
    """Check a split of the data module, and what `open_split` returns for a checkpoint."""
    expected = torch.stack([read_image(path, 16, 3) for path in paths])
    labels = [CLASSES.index(path.parent.name) for path in paths]
    for images in (data.sets[split], open_split(data.info, split)):
        pixels, found = images.__getitems__(torch.arange(len(images)))
        assert pixels.equal(expected)
        assert found.tolist() == labels


# Class folders without train/


@pytest.fixture
def flat(tmp_path):
    """Return `<root>/<class>/<index>.png`, four images of each class."""
    return class_folders(tmp_path, CLASSES, (20, 20), photos=4) / "photos"


def test_class_folders_without_train(flat):
    (flat / "notes.txt").write_text("hello")
    data = module_of(flat)
    assert data.info.classes == CLASSES
    assert len(data.sets["train"]) == 6
    assert data.sets["val"].labels.tolist() == [0, 1]
    assert data.sets["test"] is None
    assert_reads(module_of(flat, val_fraction=0), "train", [flat / path for path in PATHS])


def test_a_test_folder_next_to_class_folders(flat):
    class_folders(flat, CLASSES, (20, 20), test=2)
    data = module_of(flat)
    assert data.info.classes == CLASSES
    assert_reads(data, "test", [flat / "test" / p for p in PATHS if p[4] in "01"])


def test_folders_of_datasets_are_not_classes(flat):
    class_folders(flat.parent / "other", CLASSES, (20, 20), train=1)
    with pytest.raises(InputError, match="train: no such folder; put images in"):
        FolderDataModule(str(flat.parent))


def test_train_can_be_the_name_of_a_class(flat):
    class_folders(flat, ["test"], (20, 20), train=2)
    (flat / "train" / "cat").mkdir()
    (flat / "cat" / "0.png").rename(flat / "train" / "cat" / "0.png")
    assert module_of(flat, val_fraction=0).info.classes == ("cat", "test")


# Tables


def write_table(flat, name, rows):
    """Write rows, the first of which is the header, as CSV or JSON lines."""
    file = flat / name
    if file.suffix == ".csv":
        file.write_text("\n".join(map(",".join, rows)))
    else:
        records = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        file.write_text("\n".join(map(json.dumps, records)))
    return file


@pytest.mark.parametrize("name", ["pets.csv", "pets.jsonl"])
@pytest.mark.parametrize("columns", [("path", "label"), ("filename", "class"), ("Image", "Label")])
def test_tables_of_paths_and_labels(flat, name, columns):
    paths = [*PATHS[1:], str(flat / PATHS[0])]
    table = write_table(flat, name, [columns, *([path, path.split("/")[-2]] for path in paths)])
    data = module_of(table, val_fraction=0)
    assert data.info.classes == CLASSES
    assert data.info.name == "pets"
    assert_reads(data, "train", [flat / path for path in paths])
    assert len(module_of(table).sets["val"]) == 2
    assert data.sets["test"] is None


def test_tables_can_assign_splits(flat):
    splits = ["train", "TRAIN", "validation", "test"] * 2
    rows = [[path, path[:3], split] for path, split in zip(PATHS, splits, strict=True)]
    table = write_table(flat, "pets.csv", [("path", "label", "split"), *rows])
    for _ in ("decoded", "from the cache"):
        data = module_of(table)
        paths = [flat / path for path in PATHS]
        assert_reads(data, "train", [*paths[:2], *paths[4:6]])
        assert_reads(data, "val", [paths[2], paths[6]])
        assert_reads(data, "test", [paths[3], paths[7]])


def test_spreadsheets_write_other_separators(flat):
    table = flat / "pets.csv"
    rows = ["Path;Label", *(f"{path};{path[:3]}" for path in PATHS)]
    table.write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    assert len(module_of(table, val_fraction=0).sets["train"]) == 8


ROWS = "cat/0.png,cat\ndog/0.png,dog\n"
MISTAKES = {
    "": "at least two classes are needed, found none",
    "path,label\n": "a.csv: training images of at least two classes are needed, found none",
    "path,label\ncat/0.png,cat": "of at least two classes are needed, found 1 .cat.",
    f"name,label\n{ROWS}": "a.csv, line 2: no column named path or image .*; add or rename one",
    f"path,kind\n{ROWS}": "a.csv, line 2: no column named label or class",
    f"path,label\n{ROWS}cat/1.png,  \n": "a.csv, line 4: empty or invalid label",
    f"path,label\n{ROWS}cat/1.png\n": "a.csv, line 4: empty or invalid label",
    f"path,label\n{ROWS},cat\n": "a.csv, line 4: empty or invalid path",
    f"path,label\n{ROWS}cat/9.png,cat\n": "a.csv, line 4: cat/9.png: no such file; correct",
    f"path,label\n{ROWS}\0,cat\n": "a.csv, line 4: ",
    "path,label,split\ncat/0.png,cat,later": "a.csv, line 2: unknown split later; use train, val",
    "path,label,split\ncat/0.png,cat,": "a.csv, line 2: empty or invalid split",
    f"path,label\n{ROWS}{'x' * 200_000},cat\n": "a.csv, after line 3: field larger than",
    b"path,label\ncat/0.png,\xff": "a.csv, after line 0: .* can't decode byte 0xff",
}


@pytest.mark.parametrize("content", MISTAKES, ids=repr)
def test_mistakes_in_tables_name_the_line(flat, content):
    table = flat / "a.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=MISTAKES[content]) as error:
        module_of(table)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "after line 1: .*; correct the file"),
        ("[" * 100_000, "after line 1: .*; correct the file"),
        ("[]", "line 2: write one JSON object per line"),
        ('{"path": ["a"], "label": "cat"}', "line 2: empty or invalid path"),
        ('{"path": "cat/0.png", "label": null}', "line 2: empty or invalid label"),
    ],
    ids=lambda text: text[:20],
)
def test_mistakes_in_json_lines(flat, line, message):
    table = flat / "a.jsonl"
    table.write_text(f'{{"path": "cat/0.png", "label": "cat"}}\n{line}\n')
    with pytest.raises(InputError, match=f"a.jsonl, {message}"):
        module_of(table)


def test_test_images_need_training_classes(flat):
    table = flat / "a.csv"
    rows = "path,label,split\ncat/0.png,cat,train\ndog/0.png,dog,train\ncat/1.png,owl,test\n"
    table.write_text(rows)
    with pytest.raises(InputError, match="a.csv, line 4: owl is not a training class"):
        module_of(table, val_fraction=0)


def test_missing_tables(tmp_path):
    with pytest.raises(InputError, match="a.csv: no such file; check data.root"):
        FolderDataModule(str(tmp_path / "a.csv"))
