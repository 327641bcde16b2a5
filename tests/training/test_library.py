"""The modules with the stock Trainer, as somebody who knows Lightning and not this project uses them."""

import contextlib
import csv
import io
import json
import logging
import math
import re
import warnings

import pytest
import pytorch_lightning as pl
import torch
from program import ROOT, call, run, tiny, train
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import FSDPStrategy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from classify import main as classify
from src.data.datasets import read_digits
from src.data.modules import DigitsDataModule
from src.errors import InputError
from src.inference.predictor import Predictor
from src.training.classifier import CNN, ViT
from src.training.processes import check_strategy
from src.transforms.patchify import normalize, patchify

OWN = dict(classes=10, image_size=8, channels=1, patch_size=2)
SMALL = dict(width=16, depth=2, heads=2, lr=1e-2)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Lightning's own files go to a folder that is thrown away, and what it says of itself is not shown."""
    monkeypatch.chdir(tmp_path)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*(num_workers|many workers|LeafSpec|logging interval|treespec).*"
        )
        yield


def trainer(**settings):
    settings = (
        dict(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False) | settings
    )
    return pl.Trainer(**settings, enable_progress_bar=False, enable_model_summary=False)


def pairs(split="train", count=256, inputs=None, targets=None):
    """The first of scikit-learn's digits: a dataset of (image, label)."""
    images, labels = (part[:count] for part in read_digits(split))
    return TensorDataset(
        inputs(images) if inputs else images, targets(labels) if targets else labels
    )


def loader(**changes):
    return DataLoader(pairs(**changes), 64)


def small(**changes):
    return ViT(OWN, **SMALL | changes)


# Any DataLoader --------------------------------------------------------------------------------------------------


def test_what_someone_who_knows_lightning_writes(tmp_path):
    pl.seed_everything(0)
    train, val, test = (
        DataLoader(pairs(*part), 64) for part in (("train", 1024), ("test", 180), ("test", 359))
    )
    model = ViT(OWN, width=32, depth=2, heads=4, lr=5e-3)
    best = ModelCheckpoint(monitor="val_accuracy", mode="max")
    fit = trainer(
        max_epochs=12,
        logger=CSVLogger(tmp_path),
        enable_checkpointing=True,
        callbacks=[EarlyStopping("val_loss", patience=4), best],
    )
    fit.fit(model, train, val)
    (tested,) = fit.test(model, test, ckpt_path="best", weights_only=True, verbose=False)
    assert tested["test_accuracy"] > 0.6
    again = ViT.load_from_checkpoint(best.best_model_path)
    probabilities = torch.cat(trainer().predict(again, test))
    images, labels = test.dataset.tensors
    assert float((probabilities.argmax(1) == labels).double().mean()) == pytest.approx(
        tested["test_accuracy"], abs=1e-6
    )
    assert (
        probabilities - Predictor(best.best_model_path, "cpu").probabilities(images)
    ).abs().max() < 1e-6
    (row, *_) = csv.DictReader(open(tmp_path / "lightning_logs" / "version_0" / "metrics.csv"))
    assert {"val_accuracy", "train_loss", "images_per_second"} <= row.keys()
    assert "width: 32" in (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()


def scaled(images):
    return images / 255.0


def test_images_and_patches_of_any_kind_are_the_same_to_it():
    """mean 0 and std 1, the default, make of uint8 images what torchvision's ToTensor does."""
    model, accuracies = small(), []
    torch.nn.init.normal_(model.net.head.weight)
    kinds = (
        None,
        scaled,
        lambda images: scaled(images).double(),
        lambda images: patchify(scaled(images), 2),
    )
    for inputs in kinds:
        (found,) = trainer().validate(model, loader(inputs=inputs), verbose=False)
        accuracies.append(found)
    for found in accuracies[1:]:
        assert found == pytest.approx(accuracies[0], abs=1e-6)


def test_uint8_images_are_normalized_as_the_dataset_says():
    model = ViT(OWN | dict(mean=[0.3], std=[0.4]), **SMALL)
    torch.nn.init.normal_(model.net.head.weight)
    found = [
        trainer().validate(model, loader(inputs=inputs), verbose=False)[0]["val_loss"]
        for inputs in (None, lambda images: normalize(images, [0.3], [0.4]), scaled)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-6) and abs(found[0] - found[2]) > 1e-3


def test_soft_labels_train_and_are_validated():
    soft = loader(targets=lambda labels: torch.nn.functional.one_hot(labels, 10).float())
    losses = []
    for data in (loader(), soft):
        pl.seed_everything(0)
        model, fit = small(), trainer()
        fit.fit(model, data, data)
        losses.append(
            [float(fit.callback_metrics[key]) for key in ("train_loss", "val_loss", "val_accuracy")]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_predict_takes_inputs_without_labels():
    model = small()
    torch.nn.init.normal_(model.net.head.weight)
    images, _ = pairs().tensors
    expected = torch.cat(trainer().predict(model, loader()))
    assert torch.allclose(expected.sum(1), torch.ones(256)) and expected.shape == (256, 10)
    for data in (TensorDataset(images), images):
        assert torch.equal(torch.cat(trainer().predict(model, DataLoader(data, 64))), expected)


class Named(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": torch.zeros(1, 8, 8), "label": 0}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: loader(inputs=lambda x: x.repeat(1, 3, 1, 1)),
         "uint8 or float images [B, 1, 8, 8] or float patches [B, 16, 4], not torch.uint8 [64, 3, 8, 8]"),
        (lambda: loader(inputs=lambda x: x[:, :, :7]), "not torch.uint8 [64, 1, 7, 8]"),
        (lambda: loader(inputs=lambda x: x.int()), "not torch.int32 [64, 1, 8, 8]"),
        (lambda: loader(inputs=lambda x: patchify(x.float(), 4)), "not torch.float32 [64, 4, 16]"),
        (lambda: loader(targets=lambda y: y.float()),
         "labels must be int64 [64], or probabilities [64, 10], not torch.float32 [64]"),
        (lambda: loader(targets=lambda y: y[:, None]), "not torch.int64 [64, 1]"),
        (lambda: DataLoader(Named(), 2), "not a dict"),
        (lambda: DataLoader(pairs().tensors[0], 64), "a batch must be a pair (inputs, labels), not torch.uint8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(data, said):
    with pytest.raises(InputError, match=re.escape(said)):
        trainer().fit(small(), data())


def test_a_cnn_takes_images_alone():
    model = CNN(dict(classes=10, image_size=8, channels=1))
    trainer(fast_dev_run=True).fit(model, loader(), loader())
    with pytest.raises(
        InputError, match=re.escape("must be uint8 or float images [B, 1, 8, 8], not")
    ):
        trainer(fast_dev_run=True).fit(model, loader(inputs=lambda x: patchify(scaled(x), 2)))


# The constructor -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "said"),
    [(dict(classes=10), "dataset: image_size, channels is missing"), (OWN | dict(size=3), "dataset: size is unknown"),
     (OWN | dict(classes=1), "it takes two"), (OWN | dict(mean=[0, 0]), "give 1 values"),
     (OWN | dict(patch_size=3), "patch_size 3 does not divide")],
)  # fmt: skip
def test_a_dataset_that_is_no_dataset_is_said(dataset, said):
    with pytest.raises(InputError, match=said):
        ViT(dataset, **SMALL)


def test_an_argument_that_does_not_exist_is_an_error():
    with pytest.raises(TypeError, match="widht"):
        small(widht=3)


def test_the_seed_is_a_hyperparameter_and_decides_what_is_dropped():
    losses = []
    for seed in (0, 0, 1):
        pl.seed_everything(0)
        model, fit = small(dropout=0.5, seed=seed), trainer(max_epochs=1)
        fit.fit(model, loader())
        losses.append(float(fit.callback_metrics["train_loss"]))
    assert small().hparams.seed == 0 and losses[0] == losses[1] != losses[2]


# Data modules ----------------------------------------------------------------------------------------------------


@pytest.fixture
def digits():
    return DigitsDataModule(batch_size=128)


def test_a_data_module_serves_all_that_a_trainer_does(digits):
    model, fit = ViT(digits.description, **SMALL, warmup_epochs=0), trainer(max_epochs=3)
    fit.fit(model, datamodule=digits)
    assert fit.callback_metrics["val_accuracy"] > 0.15
    fresh = DigitsDataModule()  # each of them, as the first thing that is asked of it
    (validated,) = trainer().validate(model, datamodule=fresh, verbose=False)
    assert validated["val_accuracy"] == pytest.approx(
        float(fit.callback_metrics["val_accuracy"]), abs=1e-6
    )
    (tested,) = trainer().test(model, datamodule=DigitsDataModule(), verbose=False)
    probabilities = torch.cat(trainer().predict(model, datamodule=DigitsDataModule()))
    _, labels = read_digits("test")
    assert float((probabilities.argmax(1) == labels).double().mean()) == pytest.approx(
        tested["test_accuracy"], abs=1e-6
    )


def test_its_loaders_serve_by_themselves(digits):
    """Unlike the data module, a loader alone has nobody to normalize for it; the model does."""
    digits.setup("test")
    model = ViT(digits.description, **SMALL)
    torch.nn.init.normal_(model.net.head.weight)
    alone, whole = (trainer().test(model, verbose=False, **k) for k in ({"dataloaders": digits.test_dataloader()},
                                                                       {"datamodule": digits}))  # fmt: skip
    assert alone == whole
    digits = DigitsDataModule()
    digits.setup("fit")
    with pytest.raises(InputError, match="give Trainer.fit the data module itself"):
        digits.train_dataloader()


def test_predict_gives_what_classify_py_shows(digits_run, digits):
    model = ViT.load_from_checkpoint(digits_run / "checkpoints" / "best.ckpt")
    probabilities = torch.cat(trainer().predict(model, datamodule=digits))
    assert len(probabilities) == 359
    for index in (0, 17, 358):
        ended = call(
            classify,
            "--ckpt",
            digits_run,
            "--index",
            index,
            "--json",
            "--top-k",
            10,
            "--device",
            "cpu",
        )
        (row,) = json.loads(ended.out)
        shown = {p["index"]: p["probability"] for p in row["predictions"]}
        assert [shown[k] for k in range(10)] == pytest.approx(
            probabilities[index].tolist(), abs=1e-6
        )


# load_from_checkpoint --------------------------------------------------------------------------------------------


def saved(tmp_path, model, **changes):
    fit = trainer(max_epochs=1)
    fit.fit(model, loader())
    fit.save_checkpoint(tmp_path / "model.ckpt")
    if changes:
        content = torch.load(tmp_path / "model.ckpt", weights_only=True)
        content["hyper_parameters"] |= changes
        torch.save(content, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


@pytest.mark.parametrize(
    "options", [{}, {"ema_decay": 0.9}, {"ensemble": 2}, {"optimizer": "muon"}]
)
def test_a_checkpoint_gives_back_the_model(tmp_path, options):
    model = small(**options)
    path = saved(tmp_path, model)
    again = ViT.load_from_checkpoint(path)
    assert dict(again.hparams) == dict(model.hparams)
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    assert again.training, "as Lightning's own does, so that fit trains with dropout"


def test_a_run_of_train_py_gives_back_its_model(digits_run):
    model = ViT.load_from_checkpoint(str(digits_run / "checkpoints" / "last.ckpt"), lr=1e-4)
    assert model.hparams.lr == 1e-4 and model.hparams.network["width"] == 8
    trainer(max_epochs=1).fit(model, datamodule=DigitsDataModule())
    assert model.lr_now < 1e-4


def test_hyperparameters_that_shape_the_network_stay(tmp_path):
    path = saved(tmp_path, small())
    with pytest.raises(InputError, match=re.escape(f"{path}: does not fit this version of ViT (")):
        ViT.load_from_checkpoint(path, width=32)


def test_a_checkpoint_of_the_other_class_is_said(tmp_path):
    path = saved(tmp_path, CNN(dict(classes=10, image_size=8, channels=1)))
    assert isinstance(CNN.load_from_checkpoint(path), CNN)
    with pytest.raises(InputError, match="holds a cnn, not a vit"):
        ViT.load_from_checkpoint(path)


def test_a_checkpoint_cannot_make_it_read_another_file(tmp_path):
    path = saved(tmp_path, small(), init_from="torchvision:vit_b_16")
    with pytest.raises(InputError, match="unknown hyperparameters: init_from"):
        ViT.load_from_checkpoint(path)


def test_a_checkpoint_cannot_declare_a_network_that_fills_the_machine(tmp_path):
    path = saved(tmp_path, small())
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["network"]["depth"] = 10**9
    torch.save(content, path)
    with pytest.raises(InputError, match="does not fit this version"):
        ViT.load_from_checkpoint(path)


def test_a_file_with_code_in_it_is_refused(tmp_path):
    torch.save(
        {"state_dict": {}, "hyper_parameters": {"network": math.sqrt}}, tmp_path / "hostile.ckpt"
    )
    with pytest.raises(InputError, match="never code"):
        ViT.load_from_checkpoint(tmp_path / "hostile.ckpt")


def test_the_stock_trainer_goes_on_from_a_checkpoint(tmp_path):
    states = []
    for stops in ((4,), (2, 4)):
        pl.seed_everything(0)
        path = None
        for epochs in stops:
            model, fit = (
                small(dropout=0.2, warmup_epochs=0, min_lr=1e-2),
                trainer(max_epochs=epochs),
            )
            fit.fit(model, loader(), ckpt_path=path, weights_only=True)
            fit.save_checkpoint(path := tmp_path / f"{epochs}.ckpt")
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


# What Lightning's Trainer can do ---------------------------------------------------------------------------------


class Seen(Callback):
    """What was trained on: the first value of every batch, by epoch."""

    def __init__(self):
        self.epochs, self.validated = [], 0

    def on_train_epoch_start(self, trainer, module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, module, batch, index):
        self.epochs[-1].append(batch[1].tolist())

    def on_validation_batch_start(self, *args):
        self.validated += 1


def test_overfit_batches_trains_on_the_same_images_in_every_epoch(digits):
    seen = Seen()
    model, fit = (
        ViT(digits.description, **SMALL),
        trainer(max_epochs=3, overfit_batches=2, callbacks=[seen]),
    )
    fit.fit(model, datamodule=digits)
    first, *others = seen.epochs
    assert len(first) == 2 and all(other == first for other in others)
    seen = Seen()
    trainer(max_epochs=2, callbacks=[seen]).fit(model, datamodule=DigitsDataModule(batch_size=128))
    assert seen.epochs[0] != seen.epochs[1], "as is usual, they come in another order"


def test_fast_dev_run_and_limits_hold(digits):
    seen = Seen()
    model = ViT(digits.description, **SMALL)
    trainer(fast_dev_run=True, callbacks=[seen]).fit(model, datamodule=digits)
    assert [len(epoch) for epoch in seen.epochs] == [1] and seen.validated == 1
    digits, seen = DigitsDataModule(batch_size=64, eval_batch_size=20), Seen()
    limited = trainer(
        limit_train_batches=3, limit_val_batches=2, limit_predict_batches=4, callbacks=[seen]
    )
    limited.fit(model, datamodule=digits)
    assert [len(epoch) for epoch in seen.epochs] == [
        3,
        3,
    ] and seen.validated == 2 + 2 * 2  # with the sanity check
    assert len(torch.cat(limited.predict(model, datamodule=digits))) == 4 * 20


def test_several_loggers_and_a_profiler_at_once(tmp_path, digits):
    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "tensorboard")]
    fit = trainer(logger=loggers, profiler="simple", log_every_n_steps=1)
    fit.fit(ViT(digits.description, **SMALL), datamodule=digits)
    assert "run_training_batch" in fit.profiler.summary() and "val_accuracy" in (tmp_path / "csv" / "version_0" /
                                                                                "metrics.csv").read_text()  # fmt: skip
    for name in ("csv", "tensorboard"):
        assert "optimizer: adamw" in (tmp_path / name / "version_0" / "hparams.yaml").read_text()
    assert list((tmp_path / "tensorboard" / "version_0").glob("events.*"))


def test_max_steps_and_max_time_end_the_schedule_too():
    rates = []
    for epochs, steps in ((-1, 6), (2, 100), (100, 6)):
        model, fit = (
            small(warmup_epochs=0, min_lr=1e-5),
            trainer(max_epochs=epochs, max_steps=steps),
        )
        fit.fit(model, loader())
        rates.append((model.total_steps, model.lr_now))
    assert [steps for steps, _ in rates] == [6, 8, 6] and all(
        rate == pytest.approx(1e-5) for _, rate in rates
    )
    model, fit = small(warmup_epochs=0), trainer(max_epochs=-1, max_time={"seconds": 1})
    fit.fit(model, loader())
    assert model.total_steps == math.inf and model.lr_now == pytest.approx(1e-2), (
        "it cannot know when to fall"
    )


def test_a_warm_up_in_steps_does_not_know_of_epochs():
    class Rates(Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            rates.append(module.lr_now)

    for epochs in (2, 3):  # of 4 steps
        rates = []
        trainer(max_epochs=epochs, callbacks=[Rates()]).fit(
            small(warmup_steps=3, warmup_epochs=9), loader()
        )
        assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01]) and rates[4] < 0.01


class Endless(IterableDataset):
    def __iter__(self):
        return iter(pairs())


def test_data_without_a_length_needs_a_limit():
    with pytest.raises(InputError, match="set limit_train_batches"):
        trainer().fit(small(), DataLoader(Endless(), 64))
    model = small()
    trainer(limit_train_batches=3).fit(model, DataLoader(Endless(), 64))
    assert model.total_steps == 6


def test_gradients_are_clipped_as_the_trainer_says():
    class Largest(Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            gradients = [p.grad for p in module.net.parameters()]
            self.norm = torch.stack([g.norm() for g in gradients]).norm()
            self.value = max(g.abs().max() for g in gradients)

    largest = Largest()
    clip = trainer(gradient_clip_val=1e-3, callbacks=[largest])
    clip.fit(small(), loader())
    assert largest.norm == pytest.approx(1e-3, rel=1e-3)
    trainer(gradient_clip_val=1e-5, gradient_clip_algorithm="value", callbacks=[largest]).fit(
        small(), loader()
    )
    assert largest.value == pytest.approx(1e-5, rel=1e-3) and largest.norm > 1e-4


def test_a_strategy_that_shards_is_refused():
    class OnCPU(FSDPStrategy):
        """Lightning refuses its own on a CPU."""

    sharded = trainer(devices=2, strategy=OnCPU())
    with pytest.raises(InputError, match="trainer.strategy OnCPU: networks are not sharded here"):
        check_strategy(sharded)


# train.py --------------------------------------------------------------------------------------------------------

LOGGER = "--trainer.logger CSVLogger --trainer.logger.save_dir".split()


def test_loggers_of_the_user_come_after_ours(tmp_path):
    made = run(tmp_path / "runs", *LOGGER, tmp_path / "logs", epochs=2)
    assert list(made.glob("events.*"))
    (theirs,) = (tmp_path / "logs" / "lightning_logs").iterdir()
    with open(theirs / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    with open(made / "metrics.csv") as file:
        ours = [float(row["val_accuracy"]) for row in csv.DictReader(file)]
    assert [float(row["val_accuracy"]) for row in rows if row["val_accuracy"]] == pytest.approx(
        ours, abs=1e-4
    )
    assert [row["test_accuracy"] for row in rows if row["test_accuracy"]]
    assert "width: 8" in (theirs / "hparams.yaml").read_text()


def test_no_logger_means_none(tmp_path):
    made = run(tmp_path, "--trainer.logger", "false", epochs=1)
    assert (
        not list(made.glob("events.*"))
        and (made / "results.json").is_file()
        and (made / "metrics.csv").is_file()
    )


def test_a_run_may_be_resumed_with_another_logger(tmp_path):
    made = run(tmp_path / "runs", epochs=1)
    flags = [*LOGGER, tmp_path / "logs", "--trainer.max_epochs", 2]
    assert train("--resume", made, *flags).code == 0
    assert (tmp_path / "logs" / "lightning_logs" / "version_0" / "metrics.csv").is_file()


def test_a_profiler_is_heard(tmp_path):
    ended = train(*tiny(tmp_path, "--trainer.profiler", "simple", epochs=1))
    assert (
        ended.code == 0 and "FIT Profiler Report" in ended.err and "run_training_batch" in ended.err
    )


def test_callbacks_of_the_user_are_called(tmp_path):
    callback = [
        "--trainer.callbacks",
        "LearningRateMonitor",
        "--trainer.callbacks.logging_interval",
        "step",
    ]
    made = run(tmp_path, *callback, *LOGGER, tmp_path / "logs", epochs=1)
    (theirs,) = (tmp_path / "logs" / "lightning_logs").iterdir()
    assert "learning_rate" in (theirs / "metrics.csv").read_text() and made.is_dir()


@pytest.mark.parametrize("key", ["data.seed", "model.seed"])
def test_there_is_one_seed(tmp_path, key):
    assert (
        f"error: {key}: follows from the seed of all" in train(*tiny(tmp_path, f"--{key}", 3)).error
    )
    made = run(tmp_path, "--seed_everything", 3, epochs=1)
    hparams = torch.load(made / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert hparams["seed"] == 3


def test_a_run_from_before_the_seed_was_a_hyperparameter_goes_on(tmp_path):
    made = run(tmp_path, epochs=1)
    content = torch.load(made / "checkpoints" / "last.ckpt", weights_only=True)
    del content["hyper_parameters"]["seed"]
    del (
        content["callbacks"]["Checkpoints"]["global_batch"],
        content["callbacks"]["Checkpoints"]["images"],
    )
    torch.save(content, made / "checkpoints" / "last.ckpt")
    assert train("--resume", made, "--trainer.max_epochs", 2).code == 0


# What the README and the example say -----------------------------------------------------------------------------

PYTHON = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_of_the_readme_runs(code, tmp_path, monkeypatch):
    """On a short budget: four batches an epoch."""
    usual = pl.Trainer.__init__
    few = dict(
        limit_train_batches=4, limit_val_batches=1, limit_test_batches=1, limit_predict_batches=1
    )
    monkeypatch.setattr(
        pl.Trainer, "__init__", lambda self, **settings: usual(self, **settings | few)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "README.md", "exec"), {})


def test_the_example_runs(tmp_path):
    from examples import own_training

    with contextlib.redirect_stdout(io.StringIO()) as said:
        own_training.main(["--epochs", "1", "--images", "256", "--folder", str(tmp_path)])
    assert (tmp_path / "learning.png").stat().st_size > 5000
    assert re.search(r"test accuracy 0\.\d+", said.getvalue()) and "probability" in said.getvalue()
