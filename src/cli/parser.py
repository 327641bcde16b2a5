"""Parse the command line of `train.py` into settings.

A configuration is the base; flags are parsed over it by jsonargparse, as LightningCLI does.
"""

from typing import Any, NoReturn

import pytorch_lightning
from jsonargparse import ActionConfigFile, Namespace
from pytorch_lightning import seed_everything
from pytorch_lightning.cli import LightningArgumentParser

from src.cli.mistakes import check_keys, refuse_nulls, shorten
from src.cli.options import Base, read_base
from src.data.modules import ImageDataModule
from src.errors import InputError
from src.training.build import Settings
from src.training.classifier import Classifier
from src.training.precision import automatic_precision
from src.training.trainer import Trainer

DESCRIPTION = """Train a Vision Transformer from scratch on small images. The keys of a model or a
dataset are listed by `python train.py --model.help ViT` and `--data.help CIFAR10DataModule`."""

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
    """Raise InputError in one line instead of printing a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(shorten(message)) from None


def parse(args: list[str]) -> Settings:
    """Return the settings of a command line: data, model and everything else.

    Raises:
        InputError: a flag or a key of the config is wrong.
    """
    base = read_base(args)
    parser = _parser(base)
    check_keys(base, [action.dest for action in parser._actions])
    config = parser.parse_args(base.flags)
    _check_values(config)
    if config.trainer.precision == "auto":  # decided once: a run resumed elsewhere keeps it
        config.trainer.precision = automatic_precision(config.trainer.accelerator)
    written = config.clone()
    written.pop("config", None)
    written["name"], written["runs"] = base.name, str(base.runs)
    text = parser.dump(written, skip_unset=False)
    if base.resumed and "init_from" in config.model.init_args:
        config.model.init_args.init_from = None  # all weights come from the checkpoint
    seed_everything(config.seed_everything, workers=True)
    objects = _instantiate(parser, config)
    return Settings(
        config=text,
        data=objects.data,
        model=objects.model,
        trainer=dict(objects.trainer),
        name=base.name,
        runs=base.runs,
        patience=config.patience,
        checkpoint_every_n_steps=config.checkpoint_every_n_steps,
        pictures=config.pictures,
        resumed=base.resumed,
    )


def _parser(base: Base) -> Parser:
    parser = Parser(
        prog="train.py",
        description=DESCRIPTION,
        default_config_files=[base.config],
        dump_header=[f"pytorch_lightning=={pytorch_lightning.__version__}"],
        allow_abbrev=False,
    )
    _add_program_options(parser)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults(
        {
            "trainer.num_sanity_val_steps": 0,
            "trainer.use_distributed_sampler": False,
            "trainer.log_every_n_steps": 10,
        }
    )
    parser.add_lightning_class_args(Classifier, "model", subclass_mode=True)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    parser.link_arguments("data", "model.init_args.dataset", _info, apply_on="instantiate")
    for group in ("model", "data"):
        parser.link_arguments("seed_everything", f"{group}.init_args.seed", int)
    return parser


def _info(data: ImageDataModule) -> Any:
    return data.info


def _add_program_options(parser: Parser) -> None:
    # These four are read by `read_base`; here they are for --help and config.yaml.
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file of settings")
    parser.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="name of the run (default: that of the config)",
    )
    parser.add_argument("--runs", type=str, default="data/runs", help="folder of all runs")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        default=None,
        metavar="PATH",
        help="resume the newest run of that name, or the run or checkpoint at PATH",
    )
    parser.add_argument(
        "--seed_everything",
        type=int,
        default=0,
        help="seed of everything random: weights, split, order, augmentation",
    )
    parser.add_argument(
        "--patience",
        type=int | None,
        default=None,
        help="stop after so many epochs without a better validation accuracy; null never does",
    )
    parser.add_argument(
        "--checkpoint_every_n_steps",
        type=int | None,
        default=None,
        help="also write last.ckpt every so many steps within an epoch",
    )
    parser.add_argument(
        "--pictures",
        type=bool,
        default=True,
        help="write pictures to TensorBoard, and a report after the test",
    )


def _check_values(config: Namespace) -> None:
    for key, least in MINIMUMS.items():
        value = config[key]
        if value is not None and (isinstance(value, bool) or value < least):
            raise InputError(f"{key} must be a number of at least {least}, got {value}")
    if config.trainer.limit_train_batches == 0:
        raise InputError("trainer.limit_train_batches 0 trains nothing; use 1 or more")
    if config.trainer.max_steps != -1:
        raise InputError(
            "trainer.max_steps: the schedule and --resume count epochs; use trainer.max_epochs, "
            "and trainer.limit_train_batches to shorten them"
        )
    for group in ("model", "data"):
        refuse_nulls(group, config[group])


def _instantiate(parser: Parser, config: Namespace) -> Namespace:
    try:
        return parser.instantiate(config)
    except ValueError as error:  # jsonargparse wraps what a constructor raises
        cause: BaseException = error
        while not isinstance(cause, InputError):
            inner = cause.__cause__ or cause.__context__
            if inner is None:
                raise InputError(shorten(str(cause))) from None
            cause = inner
        raise cause from None
