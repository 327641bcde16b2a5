"""Test the setting that says whether mirror images have the same class."""

from photos import class_folders
from program import tiny, train

from src.cli.parser import parse
from src.inference.predictor import Predictor

FLAGS = """
--data FolderDataModule
--data.image_size 8
--data.batch_size 8
--data.augment.flip true
--data.mirror_keeps_class false
--model.mirror true
--trainer.limit_test_batches 0
--data.root
""".split()


def test_one_setting_turns_all_mirroring_off(tmp_path):
    folder = class_folders(tmp_path / "photos", ("left", "right"), (8, 8), train=20)
    flags = list(map(str, tiny(tmp_path, *FLAGS, folder, epochs=1)))
    settings = parse(flags)
    assert not settings.data.augmentation.flip
    assert not settings.model.net.mirror
    ended = train(*flags)
    assert ended.code == 0, ended
    made = tmp_path / "digits" / "version_0"
    predictor = Predictor(made / "checkpoints" / "best.ckpt")
    assert not predictor.classifier.network.mirror
