"""Test both programs with a table of own images, in which one image is in two splits."""

import shutil

from photos import class_folders
from program import classify, tiny, train

OWN = """
--data FolderDataModule
--data.image_size 8
--data.batch_size 4
--data.folds 2
--data.fold 1
""".split()


def test_a_table_is_trained_on_tested_and_reopened(tmp_path):
    photos = class_folders(tmp_path / "photos", ("cat", "dog"), (20, 20), train=4, test=2)
    shutil.copy(photos / "train" / "cat" / "2.png", photos / "test" / "cat" / "1.png")
    table = photos / "pets.csv"
    paths = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
    rows = [f"{path},{path.parent.name},{path.parts[0]}" for path in paths]
    table.write_text("\n".join(["path,label,split", *rows]))
    ended = train(*tiny(tmp_path, *OWN, "--data.root", table, epochs=1))
    assert ended.code == 0, ended
    assert "on pets, 4 train, 4 val, 4 test images" in ended.out
    (folder,) = tmp_path.glob("digits/version_0")
    assert "note: identical images: 1 in several splits, 0 under several classes" in ended.out
    listed = (folder / "duplicates.csv").read_text().splitlines()
    assert listed[0] == "image,split,class,path"
    assert sorted(row.split(",", 3)[3] for row in listed[1:]) == [
        str(photos / "test" / "cat" / "1.png"),
        str(photos / "train" / "cat" / "2.png"),
    ]
    shown = classify("--ckpt", folder, "--index", 2)
    assert shown.code == 0, shown
    assert shown.out.startswith("pets test image 2: ")
    assert "(target: dog)" in shown.out
