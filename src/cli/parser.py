"""The command line of `train.py`: which config is the base, which keys there are, and what links data to model."""

import argparse
import json
import re
from pathlib import Path

import pytorch_lightning
import yaml
from jsonargparse import ActionConfigFile, Namespace
from pytorch_lightning import seed_everything
from pytorch_lightning.cli import LightningArgumentParser

from src.cli.keys import check_keys, refuse_nulls
from src.cli.messages import one_line
from src.data.modules import ImageDataModule
from src.errors import ArgumentParser, InputError
from src.runs.directory import find_run
from src.training.build import Settings
from src.training.classifier import Classifier
from src.training.precision import automatic_precision
from src.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
DEFAULT_CONFIG = "configs/mnist.yaml"
DESCRIPTION = """Train a Vision Transformer from scratch on small images. The keys of a model or dataset are listed by
`python train.py --model.help ViT` and `python train.py --data.help CIFAR10DataModule`."""
MINIMUMS = {
    "seed_everything": 0,
    "patience": 1,
    "checkpoint_every_n_steps": 1,
    "trainer.max_epochs": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": 0,
}


class Parser(LightningArgumentParser):
    """Takes whole keys alone, and raises InputError in place of printing a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        raise InputError(one_line(message)) from None


def parse(args: list[str]) -> Settings:
    """The command line -> data, model and all other settings.

    Raises:
        InputError: something in it, or in the config, is wrong.
    """
    base, name, resumed_run, checkpoint = _base(args)
    args, parser = _without_config(args), _parser(base)
    known = [action.dest for action in parser._actions]
    check_keys(_read_yaml(base), args, known)
    config = parser.parse_args(args)
    _check_values(config, args)
    if (
        config.trainer.precision == "auto"
    ):  # decided now, once: a run that is resumed elsewhere keeps it
        config.trainer.precision = automatic_precision(config.trainer.accelerator)
    written = _as_written(parser, config, name)
    if resumed_run and "init_from" in config.model.init_args:
        config.model.init_args.init_from = (
            None  # all weights come from the checkpoint; the file may be gone by now
        )
    seed_everything(config.seed_everything, workers=True)
    try:
        objects = parser.instantiate(config)
    except ValueError as error:  # jsonargparse wraps what a constructor raises in words of its own
        cause = error
        while not isinstance(cause, InputError) and (cause.__cause__ or cause.__context__):
            cause = cause.__cause__ or cause.__context__
        raise (
            cause if isinstance(cause, InputError) else InputError(one_line(str(cause)))
        ) from None
    return Settings(
        config=written,
        data=objects.data,
        model=objects.model,
        trainer=dict(objects.trainer),
        name=name,
        runs=Path(config.runs),
        patience=config.patience,
        checkpoint_every_n_steps=config.checkpoint_every_n_steps,
        pictures=config.pictures,
        resumed_run=resumed_run,
        checkpoint=checkpoint,
    )


def _base(args: list[str]) -> tuple[str, str, Path | None, Path | None]:
    """The config that all flags are parsed over, the run's name, and what is resumed: a run and its checkpoint."""
    known = _known_first(args)
    base = known.config or DEFAULT_CONFIG
    if not Path(base).is_file() and (ROOT / base).is_file():  # started from another folder
        base = str(ROOT / base)
    if not Path(base).is_file():
        found = ", ".join(
            f"configs/{path.name}" for path in sorted((ROOT / "configs").glob("*.yaml"))
        )
        raise InputError(f"{base}: there is no such config; choose one of {found}")
    name = _name_in(base) if known.name is None else known.name
    if not re.fullmatch(r"\w[\w.+=, -]*", name):
        raise InputError(
            f"--name {name}: a name is one folder; use letters, digits, spaces, and _ - . + = ,"
        )
    if known.resume is None:
        return base, name, None, None
    if known.resume == "":
        raise InputError(
            "--resume '': not a valid path; leave it out for the newest run of the name"
        )
    run, checkpoint = find_run("" if known.resume is True else known.resume, Path(known.runs), name)
    base, name = str(run / "config.yaml"), run.parent.name
    named = _name_in(base)  # which also sees that it can be read
    if known.config and not known.name and _name_in(known.config) != named:
        why = f"{run} is a run of {named!r}; leave --config out: a resumed run goes on with its own"
        raise InputError(f"--config {known.config}: {why}")
    return base, name, run, checkpoint


def _known_first(args: list[str]) -> argparse.Namespace:
    """The flags that decide which config is the base; all others are parsed over it."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c")
    parser.add_argument("--name")
    parser.add_argument("--runs", default="data/runs")
    parser.add_argument("--resume", nargs="?", const=True)
    return parser.parse_known_args(args)[0]


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
    return _read_yaml(config).get("name") or Path(config).stem


def _read_yaml(config: str) -> dict:
    try:
        tree = yaml.safe_load(Path(config).read_text()) or {}
        if not isinstance(tree, dict):
            raise ValueError(f"it has no keys; {DEFAULT_CONFIG} shows what one looks like")
        json.dumps(tree, default=str)  # refuses what holds itself, by an alias
        return tree
    except (OSError, ValueError, RecursionError, yaml.YAMLError, TypeError) as error:
        raise InputError(
            f"{config}: not a config: {' '.join(str(error).split())}; fix its YAML"
        ) from None


def _parser(base: str) -> Parser:
    header = [f"pytorch_lightning=={pytorch_lightning.__version__}"]
    parser = Parser(
        prog="train.py",
        description=DESCRIPTION,
        default_config_files=[base],
        dump_header=header,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file of settings")
    parser.add_argument(
        "--seed_everything",
        type=int,
        default=0,
        help="seed of all that is random: weights, split, order, augmentation; 0 or more",
    )
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults(
        {
            "trainer.num_sanity_val_steps": 0,
            "trainer.use_distributed_sampler": False,
            "trainer.gradient_clip_val": 1.0,
            "trainer.log_every_n_steps": 10,
            "trainer.max_epochs": 10,
        }
    )
    parser.add_lightning_class_args(Classifier, "model", subclass_mode=True)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    _add_our_own(parser)
    parser.link_arguments(
        "data", "model.init_args.dataset", lambda d: d.description, apply_on="instantiate"
    )
    for group in ("model", "data"):
        parser.link_arguments("seed_everything", f"{group}.init_args.seed", int)
    return parser


def _add_our_own(parser: Parser) -> None:
    parser.add_argument(
        "--name", type=str | None, default=None, help="name of the run; the config's unless given"
    )
    parser.add_argument("--runs", type=str, default="data/runs", help="folder of all runs")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        default=None,
        metavar="PATH",
        help="go on with the newest run of that name, or with the run or checkpoint at PATH",
    )
    parser.add_argument(
        "--patience",
        type=int | None,
        default=None,
        help="stop early after so many epochs without a better validation accuracy; null never does",
    )
    parser.add_argument(
        "--checkpoint_every_n_steps",
        type=int | None,
        default=None,
        help="also write last.ckpt every so many steps within an epoch; null writes it at epoch ends alone",
    )
    parser.add_argument(
        "--pictures",
        type=bool,
        default=True,
        help="show in TensorBoard what is learned, and write a report after the test",
    )


def _check_values(config: Namespace, args: list[str]) -> None:
    for key, least in MINIMUMS.items():
        if (value := config[key]) is not None and (isinstance(value, bool) or value < least):
            raise InputError(f"{key} {value}: use a number, {least} or more")
    if config.trainer.limit_train_batches == 0:
        raise InputError(
            "trainer.limit_train_batches 0: trains nothing; use 1 or more, or leave it out"
        )
    if config.trainer.max_steps != -1:
        raise InputError(
            "trainer.max_steps: the schedule and --resume count epochs; use trainer.max_epochs, and "
            "trainer.limit_train_batches to make them shorter"
        )
    for arg in args:
        if found := re.fullmatch(r"--(model|data)\.(init_args\.)?seed(=.*)?", arg):
            raise InputError(
                f"{found[1]}.seed: follows from the seed of all that is random; use --seed_everything"
            )
    for group in ("model", "data"):
        values = config[group].init_args.as_dict()
        values.pop("dataset", None)  # linked later
        refuse_nulls(group, config[group].class_path, values)


def _as_written(parser: Parser, config: Namespace, name: str) -> str:
    """The complete configuration, as config.yaml keeps it."""
    config = config.clone()
    for key in ("config", "resume"):
        config.pop(key, None)
    config["name"] = name
    return parser.dump(config, skip_unset=False)
