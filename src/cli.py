"""The command line of `train.py`: which keys there are, what links data to model, and errors of one line."""

import argparse
import json
import logging
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Literal

import torch
import yaml
from pytorch_lightning import Trainer as LightningTrainer
from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar, Timer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from src import classifier, data  # noqa: F401  (their classes are named in configs)
from src.callbacks import AtomicCheckpointIO, Checkpoints, EpochLog, Stop, read_metrics
from src.errors import ArgumentParser, InputError
from src.explain import one_line, refuse_nulls
from src.runs import find_run, flatten, load_checkpoint, lock_run, new_run, take_up, write_atomically

ROOT = Path(__file__).parents[1]
DEFAULT_CONFIG = "configs/mnist.yaml"
DESCRIPTION = """Train a Vision Transformer from scratch on small images. The keys of a model or dataset are listed by
`python train.py --model.help ViT` and `python train.py --data.help CIFAR10DataModule`."""
JOINED_RUN = "VIT_JOINED_RUN"  # tells the processes of one training, one a device, the run directory of the first
LEAST = {
    "seed_everything": 0, "patience": 1, "checkpoint_every_n_steps": 1, "trainer.max_epochs": 1,
    "trainer.accumulate_grad_batches": 1, "trainer.check_val_every_n_epoch": 1, "trainer.gradient_clip_val": 0,
}  # fmt: skip


class Trainer(LightningTrainer):
    """Lightning's Trainer, with precision `auto`: bf16-mixed on a CUDA device that has it, 32 bit elsewhere."""

    def __init__(
        self,
        *args,
        precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto",
        **kwargs,
    ):
        if precision == "auto":
            on_cuda = kwargs.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
            precision = "bf16-mixed" if on_cuda and torch.cuda.is_bf16_supported(False) else "32-true"
        super().__init__(*args, precision=precision, **kwargs)


class Parser(LightningArgumentParser):
    """Takes whole keys alone, and raises InputError in place of printing a page of usage."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, allow_abbrev=False)

    def error(self, message: str, ex: Exception | None = None) -> None:
        raise InputError(one_line(message, [a.dest for a in self._actions])) from None


class CLI(LightningCLI):
    """Parse, then build: `datamodule`, `model`, `trainer`, and the run directory `run`."""

    def __init__(self, args: list[str]):
        known = _known_first(args)
        self.resumed_run, self.checkpoint = None, None
        base = known.config or DEFAULT_CONFIG
        if not Path(base).is_file() and (ROOT / base).is_file():  # started from another folder
            base = str(ROOT / base)
        if not Path(base).is_file():
            found = ", ".join(f"configs/{path.name}" for path in sorted((ROOT / "configs").glob("*.yaml")))
            raise InputError(f"{base}: there is no such config; choose one of {found}")
        self.name = _name_in(base) if known.name is None else known.name
        if not re.fullmatch(r"\w[\w.+=, -]*", self.name):
            raise InputError(f"--name {self.name}: a name is one folder; use letters, digits, spaces, and _ - . + = ,")
        if known.resume == "":
            raise InputError("--resume '': is no path; leave it out for the newest run of the name")
        if known.resume is not None:
            resume = known.resume
            if resume is True:
                resume = (_is_joining() and os.environ.get(JOINED_RUN)) or ""
            self.resumed_run, self.checkpoint = find_run(resume, Path(known.runs), self.name)
            base, self.name = str(self.resumed_run / "config.yaml"), self.resumed_run.parent.name
            named = _name_in(base)  # which also sees that it can be read
            if known.config and not known.name and _name_in(known.config) != named:
                raise InputError(f"--config {known.config}: {self.resumed_run} is a run of {named!r}; leave --config "
                                 "out: a resumed run goes on with its own")  # fmt: skip
        super().__init__(
            classifier.Classifier, data.ImageDataModule, subclass_mode_model=True, subclass_mode_data=True,
            trainer_class=Trainer, parser_class=Parser, save_config_callback=None, auto_configure_optimizers=False,
            load_from_checkpoint_support=False, run=False, seed_everything_default=0,
            parser_kwargs={"default_config_files": [base], "prog": "train.py", "description": DESCRIPTION},
            trainer_defaults={"num_sanity_val_steps": 0, "use_distributed_sampler": False, "gradient_clip_val": 1.0,
                              "log_every_n_steps": 10, "max_epochs": 10},
            args=_without_config(args),
        )  # fmt: skip

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for action in parser._actions:
            if action.dest == "seed_everything":  # Lightning's help offers a random seed, which nobody could repeat
                action.help = "seed of all that is random: weights, split, order, augmentation; 0 or more"
        parser.add_argument("--name", type=str | None, default=None, help="name of the run; the config's unless given")
        parser.add_argument("--runs", type=str, default="data/runs", help="folder of all runs")
        parser.add_argument(
            "--resume", nargs="?", const="", default=None, metavar="PATH",
            help="go on with the newest run of that name, or with the run or checkpoint at PATH",
        )  # fmt: skip
        parser.add_argument(
            "--patience", type=int | None, default=None,
            help="stop early after so many epochs without a better validation accuracy; null never does",
        )  # fmt: skip
        parser.add_argument(
            "--checkpoint_every_n_steps", type=int | None, default=None,
            help="also write last.ckpt every so many steps within an epoch; null writes it at epoch ends alone",
        )  # fmt: skip
        parser.link_arguments("data", "model.init_args.dataset", lambda d: d.description, apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", int)

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        super().parse_arguments(parser, args)
        for key, least in LEAST.items():
            if (value := self.config[key]) is not None and (isinstance(value, bool) or value < least):
                raise InputError(f"{key} {value}: use a number, {least} or more")
        if self.config.trainer.limit_train_batches == 0:
            raise InputError("trainer.limit_train_batches 0: trains nothing; use 1 or more, or leave it out")
        if any(re.fullmatch(r"--data\.(init_args\.)?seed(=.*)?", arg) for arg in args):
            raise InputError("data.seed: follows from the seed of all that is random; use --seed_everything")
        for group in ("model", "data"):
            kind, values = self.config[group].class_path, self.config[group].init_args.as_dict()
            refuse_nulls(group, kind, {key: value for key, value in values.items() if key != "dataset"})  # linked later
        if self.config.trainer.max_steps != -1:
            raise InputError("trainer.max_steps: the schedule and --resume count epochs; use trainer.max_epochs, and "
                             "trainer.limit_train_batches to make them shorter")  # fmt: skip

    def instantiate_classes(self) -> None:
        self.init_from = self.config.model.init_args.get("init_from")
        if self.resumed_run and self.init_from:  # all weights come from the checkpoint; the file may be gone by now
            self.config.model.init_args.init_from = None
        try:
            super().instantiate_classes()
        except MisconfigurationException as error:  # Lightning's own word for a mistake in the settings
            raise InputError(f"trainer: {' '.join(str(error).split())}; see python train.py --help") from None
        except ValueError as error:  # jsonargparse wraps what a constructor raises in explanations of its own
            cause = error
            while not isinstance(cause, InputError) and (cause.__cause__ or cause.__context__):
                cause = cause.__cause__ or cause.__context__
            raise InputError(" ".join(str(cause).split())) from None

    def instantiate_trainer(self) -> Trainer:
        """Data, model and trainer stand, so the settings are sound: only now a run directory is made."""
        self.datamodule.prepare_data()
        settings = dict(self.config_init["trainer"])
        self.checkpoints = Checkpoints(self.config.checkpoint_every_n_steps)
        table = EpochLog(self.checkpoints)
        stop = Stop(self.checkpoints, Timer(duration=settings.pop("max_time")).time_remaining())
        callbacks = [stop, table, self.checkpoints]
        networks, batch_size = self.model.hparams.ensemble, self.datamodule.batch_size
        if networks > batch_size:
            raise InputError(f"model.ensemble {networks}: data.batch_size {batch_size} has no image for every network; "
                             "use a larger batch, or fewer networks")  # fmt: skip
        if self.config.patience and not self.datamodule.sets["val"]:
            raise InputError(f"patience {self.config.patience}: there are no validation images to stop by; set "
                             "data.val_fraction above 0, or leave patience out")  # fmt: skip
        if self.config.patience:
            callbacks.append(EarlyStopping("val_accuracy", mode="max", patience=self.config.patience))
        settings["enable_progress_bar"] = settings["enable_progress_bar"] is not False and sys.stdout.isatty()
        if settings["enable_progress_bar"]:
            callbacks.append(RichProgressBar(leave=False))
        settings["callbacks"] = (settings["callbacks"] or []) + callbacks
        settings |= {"logger": False, "plugins": [AtomicCheckpointIO()], "enable_model_summary": False}
        trainer = Trainer(**settings)

        self.run = self._claim_run()
        if self.checkpoint:
            take_up(self.run, self.checkpoint, yaml.safe_load(self._settings()), self.model, trainer)
        if not _is_joining():
            write_atomically(self.run / "config.yaml", self._settings().encode())
        self.checkpoints.folder, table.path = self.run / "checkpoints", self.run / "metrics.csv"
        if not trainer.fast_dev_run:
            trainer.logger = self._logger()
        return trainer

    def _claim_run(self) -> Path:
        """Make the run directory, or find the resumed one unchanged, and lock it.

        Lightning starts one process a device, with the environment of the first, which alone does this for all.
        """
        if _is_joining():
            if JOINED_RUN not in os.environ:
                raise InputError("start train.py itself: it starts a process for every device (--trainer.devices)")
            return Path(os.environ[JOINED_RUN])
        run = self.resumed_run or new_run(Path(self.config.runs), self.name)
        self.lock = lock_run(run)
        os.environ[JOINED_RUN] = str(run)
        return run

    def _settings(self) -> str:
        """The complete configuration, as config.yaml keeps it."""
        config = self.config.clone()
        for key in ("config", "resume"):
            config.pop(key, None)
        config["name"] = self.name
        if self.init_from:
            config.model.init_args.init_from = self.init_from
        return self.parser.dump(config, skip_none=False)

    def announce(self) -> None:
        """Say what is about to be trained, on what, and where it goes."""
        if not self.trainer.is_global_zero:
            return
        parameters = sum(p.numel() for p in self.model.net.parameters())
        info = self.model.hparams
        images = {split: len(images) for split, images in self.datamodule.sets.items() if images}
        what = "Resuming" if self.resumed_run else "Training"
        print(f"{what} {type(self.model).__name__} ({parameters:,} parameters) on {info.dataset['name']}, "
              f"{', '.join(f'{n:,} {s}' for s, n in images.items())} images; {self.trainer.accelerator.name()}, "
              f"{self.trainer.precision}; run {self.run}", flush=True)  # fmt: skip

    def test_and_report(self) -> None:
        """Test the chosen checkpoint once, write results.json, and say what to type next."""
        if self.trainer.fast_dev_run:
            return
        chosen = load_checkpoint(self.checkpoints.chosen_path)
        self.model.load_state_dict(chosen["state_dict"])
        test = {}
        if self.datamodule.sets["test"]:
            test = (self.trainer.test(self.model, datamodule=self.datamodule, verbose=False) or [{}])[0]
        if not self.trainer.is_global_zero:
            return
        results = self._results(chosen["epoch"], test)
        write_atomically(self.run / "results.json", (json.dumps(results, indent=2) + "\n").encode())
        metrics = {
            f"final/{k}": v for k in ("val_accuracy", "test_accuracy", "test_loss") if (v := results[k]) is not None
        }
        self.trainer.logger.log_hyperparams(flatten(dict(self.model.hparams)), metrics, self.trainer.global_step)
        self.trainer.logger.finalize("success")
        self._report(results)

    def _results(self, chosen_epoch: int, test: dict) -> dict:
        hp, seconds, datamodule = self.model.hparams, self.checkpoints.train_seconds, self.datamodule
        rows = {int(row["epoch"]): row for row in read_metrics(self.run / "metrics.csv")}
        val_accuracy = rows.get(chosen_epoch, {}).get("val_accuracy")
        world = self.trainer.world_size
        batch = min(datamodule.batch_size, len(datamodule.sets["train"]) // world)
        images_seen = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed * batch * world
        tested = sum(self.trainer.num_test_batches) * datamodule.eval_batch_size if test else 0  # by every device
        return {
            "dataset": hp.dataset["name"], "model": type(self.model).__name__,
            "parameters": sum(p.numel() for p in self.model.net.parameters()),
            "epochs": self.trainer.fit_loop.epoch_progress.current.processed, "images_seen": images_seen,
            "seed": datamodule.seed,
            "val_accuracy": float(val_accuracy) if val_accuracy else None,
            "test_accuracy": test.get("test_accuracy"), "test_loss": test.get("test_loss"),
            "test_images": min(tested, len(datamodule.sets["test"] or [])),
            "checkpoint": self.checkpoints.chosen_path.name, "checkpoint_epoch": chosen_epoch + 1,
            "train_seconds": round(seconds, 2), "images_per_second": round(images_seen / seconds, 1),
            "device": device_name(self.trainer), "precision": self.trainer.precision, "torch": torch.__version__,
        }  # fmt: skip

    def _report(self, results: dict) -> None:
        run = shlex.quote(str(self.run))
        epochs, tested, test = results["epochs"], results["test_images"], self.datamodule.sets["test"]
        print(f"\nTrained {epochs} epoch{'s' * (epochs != 1)}, {results['images_seen']:,} images in "
              f"{results['train_seconds']:,.0f} s ({results['images_per_second']:,.0f} images/s)")  # fmt: skip
        if results["test_accuracy"] is not None:
            part = f"; only {tested:,} of {len(test):,} images, maybe not of all classes" if tested < len(test) else ""
            print(f"Test accuracy {results['test_accuracy']:.4f}, test loss {results['test_loss']:.4f} "
                  f"({results['checkpoint']}, epoch {results['checkpoint_epoch']}{part})")  # fmt: skip
        elif results["val_accuracy"] is not None:
            print(f"Validation accuracy {results['val_accuracy']:.4f}; there are no test images")
        print(f"Written to {self.run}/ (results.json, metrics.csv, config.yaml, checkpoints/)\n\n"
              f"  python classify.py IMAGE --ckpt {run}        classify your own image\n"
              f"  tensorboard --logdir {shlex.quote(self.config.runs)}        see the curves\n"
              f"  python train.py --resume {run} --trainer.max_epochs {2 * epochs}        train longer",
              flush=True)  # fmt: skip

    def _logger(self) -> TensorBoardLogger:
        """Events beside the config; on resume, curves that a crash left beyond the checkpoint are taken back."""
        purge = {"purge_step": load_checkpoint(self.checkpoint)["global_step"]} if self.checkpoint else {}
        where = dict(save_dir=self.run.parent.parent, name=self.run.parent.name, version=self.run.name)
        return TensorBoardLogger(**where, default_hp_metric=False, **purge)


def _known_first(args: list[str]) -> argparse.Namespace:
    """The flags that decide which config is the base; all others are parsed over it."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c")
    parser.add_argument("--name")
    parser.add_argument("--runs", default="data/runs")
    parser.add_argument("--resume", nargs="?", const=True)
    return parser.parse_known_args(args)[0]


def _is_joining() -> bool:
    """Whether this process joins a training that another one, the first of them, has begun."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0


def _without_config(args: list[str]) -> list[str]:
    """Drop `--config PATH`: the config is the base already, and a resumed run goes on with its own."""
    kept, skip = [], False
    for arg in args:
        if not skip and not arg.startswith("--config=") and arg not in ("--config", "-c"):
            kept.append(arg)
        skip = arg in ("--config", "-c")
    return kept


def _name_in(config: str) -> str:
    """The config's own `name`, which a run's config.yaml has, or else its file's stem."""
    try:
        tree = yaml.safe_load(Path(config).read_text()) or {}
        if not isinstance(tree, dict):
            raise ValueError(f"it has no keys; {DEFAULT_CONFIG} shows what one looks like")
        json.dumps(tree, default=str)  # refuses what holds itself, by an alias
        return tree.get("name") or Path(config).stem
    except (OSError, ValueError, RecursionError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise InputError(f"{config}: is no config: {' '.join(str(error).split())}; mend its YAML") from None


def device_name(trainer: Trainer) -> str:
    """What the run was trained on, for results.json."""
    root = trainer.strategy.root_device
    return (
        torch.cuda.get_device_name(root) if root.type == "cuda" else f"{root.type}, {torch.get_num_threads()} threads"
    )


def quiet() -> None:
    """Silence advice that does not concern the user of this program."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (".*does not have many workers.*", ".*dataloader is not resumable.*", ".*isinstance.treespec.*",
                    ".*LightningCLI's args parameter.*", ".*Checkpoint directory.*", ".*in eval mode.*",
                    ".*callbacks used to create the checkpoint.*",
                    ".*smaller than the logging interval.*", ".*sync_dist=True.*",
                    ".*across ranks is zero.*", ".*Encountered `nan` values.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message)
