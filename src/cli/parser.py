"""Parse the command line of `train.py` into settings.

jsonargparse applies the flags to a base configuration, as in LightningCLI.
"""

from typing import Any, Literal, NoReturn

import pytorch_lightning
from jsonargparse import ActionConfigFile, Namespace
from pytorch_lightning import seed_everything
from pytorch_lightning.cli import LightningArgumentParser

from src.cli.mistakes import check_keys, refuse_nulls, shorten
from src.cli.options import Base, read_base
from src.cli.pretrained import use_pretrained_shape
from src.data.image_data import ImageDataModule
from src.errors import InputError
from src.training.build import Settings
from src.training.classifier import Classifier
from src.training.precision import automatic_precision
from src.training.trainer import Trainer

DESCRIPTION = """Train a Vision Transformer from scratch on small images. To list the keys of a
model or dataset, use `--model.help ViT` or `--data.help CIFAR10DataModule`."""

MINIMUMS = {
    "seed_everything": 0,
    "patience": 1,
    "checkpoint_every_n_steps": 1,
    "threads": 1,
    "trainer.max_epochs": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": 0,
}


class Parser(LightningArgumentParser):
    """A parser that raises a one-line InputError instead of printing a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(shorten(message)) from None


def parse(args: list[str]) -> Settings:
    """Parse a command line into settings: data, model and everything else.

    Raises:
        InputError: a flag or a config key is invalid.
    """
    base = read_base(args)
    parser = _parser(base)
    check_keys(base, [action.dest for action in parser._actions])
    config = parser.parse_args(base.flags)
    _check_values(config)
    if not base.resumed:  # config.yaml of a run already contains these settings
        use_pretrained_shape(config, base.flags)
    if config.trainer.precision == "auto":  # resolved once; resumed runs keep the result
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
        threads=config.threads,
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
    _add_base_options(parser)
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


def _add_base_options(parser: Parser) -> None:
    """Add the options that `read_base` has already parsed, for --help and config.yaml."""
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML config file")
    parser.add_argument(
        "--name",
        type=str | None,
        help="run name (default: the name of the config)",
    )
    parser.add_argument(
        "--runs", type=str, default="data/runs", help="parent directory of all runs"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="resume the run or checkpoint at PATH, or without PATH the newest run of this name",
    )


def _add_program_options(parser: Parser) -> None:
    parser.add_argument(
        "--seed_everything",
        type=int,
        default=0,
        help="seed for the weights, the validation split, shuffling and augmentation",
    )
    parser.add_argument(
        "--patience",
        type=int | None,
        help="number of epochs without improvement in validation accuracy before early stopping; "
        "null disables early stopping",
    )
    parser.add_argument(
        "--checkpoint_every_n_steps",
        type=int | None,
        help="also write last.ckpt within an epoch, after this number of steps",
    )
    parser.add_argument(
        "--threads",
        type=int | Literal["auto"],
        default="auto",
        help="number of CPU threads; auto measures which number is fastest when a run starts",
    )
    parser.add_argument(
        "--pictures",
        type=bool,
        default=True,
        help="write images to TensorBoard, and a report after testing",
    )


def _check_values(config: Namespace) -> None:
    for key, least in MINIMUMS.items():
        value = config[key]
        is_missing = value is None and key == "trainer.max_epochs"
        if is_missing or (value not in (None, "auto") and value < least):
            raise InputError(f"{key} must be a number >= {least}, got {value}")
    if config.seed_everything >= 2**32:  # Lightning and NumPy accept no larger seeds
        raise InputError(f"seed_everything must be below 2**32, got {config.seed_everything}")
    if config.trainer.limit_train_batches == 0:
        raise InputError("trainer.limit_train_batches must be above 0, got 0")
    if config.trainer.max_steps != -1:
        raise InputError(
            "trainer.max_steps is not supported, because the schedule and --resume count epochs; "
            "use trainer.max_epochs, and trainer.limit_train_batches for shorter epochs"
        )
    for group in ("model", "data"):
        refuse_nulls(group, config[group])


def _instantiate(parser: Parser, config: Namespace) -> Namespace:
    try:
        return parser.instantiate(config)
    except ValueError as error:  # jsonargparse wraps exceptions from constructors
        cause = error.__cause__ or error
        raise cause if isinstance(cause, InputError) else InputError(shorten(str(cause))) from None
