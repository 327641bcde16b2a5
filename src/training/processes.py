"""The processes of one training, one a device: how they meet, and in what order they start.

Lightning starts them by itself, each with the command line of the first; under torchrun and SLURM all of them run from
the first line. What one must know of another goes through their process group.
"""

import os
import socket
import time
from collections.abc import Callable

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor

from src.errors import InputError

PATIENCE = (
    30 * 60
)  # seconds that a process waits for the first, as long as PyTorch then waits for all others


def in_turns(trainer: Trainer, work: Callable[[], None]) -> None:
    """Call `work` in the first process, then in the first of each other node, and then in all others.

    So data is downloaded, and decoded, once a node. A mistake that one process finds ends all of them, and is said
    once. When this returns, the process group is up.
    """
    check_strategy(trainer)
    _check_numbers(trainer)
    turn = 0 if trainer.is_global_zero else 1 if trainer.local_rank == 0 else 2
    environment = getattr(trainer.strategy, "cluster_environment", None)
    begun = turn == 0 and not (environment and environment.creates_processes_externally)
    if begun:  # nobody else is there yet, and nobody need be started if this fails
        work()
    _meet(trainer)
    for now in range(3 if trainer.world_size > 1 else 1):
        error = None
        try:
            if now == turn and not begun:
                work()
        except InputError as caught:
            error = caught
        if trainer.strategy.reduce_boolean_decision(error is not None, all=False):
            raise error or SystemExit(2)


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies that shard a network: clipping, averages, Muon and checkpoints need whole tensors here."""
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        name = type(trainer.strategy).__name__
        raise InputError(
            f"trainer.strategy {name}: networks are not sharded here, each fits a device; use ddp"
        )


def _check_numbers(trainer: Trainer) -> None:
    """Refuse processes that the trainer does not count on: each of them would train a run of its own."""
    if TorchElasticEnvironment.detect():
        started = TorchElasticEnvironment().world_size()
    else:
        ranks = [int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "SLURM_PROCID")]
        started = max(1 + max(ranks), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)))
    if started > trainer.world_size:
        raise InputError(
            f"{started} processes were started, but trainer.devices times trainer.num_nodes is "
            f"{trainer.world_size}; give --trainer.devices the processes of a node, and --trainer.num_nodes the nodes"
        )
    if isinstance(trainer.strategy, DDPStrategy):
        try:
            trainer.strategy.cluster_environment.validate_settings(
                trainer.num_devices, trainer.num_nodes
            )
        except (
            ValueError
        ) as error:  # Lightning's word for numbers that do not fit those of the launcher
            raise InputError(
                f"trainer: {' '.join(str(error).split())}; see python train.py --help"
            ) from None
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputError("trainer.strategy: this program starts its processes as scripts; use ddp")


def _meet(trainer: Trainer) -> None:
    """Start the other processes, if that is left to us, and wait until all have joined the process group."""
    strategy = trainer.strategy
    try:
        if trainer.global_rank:
            _reach(
                strategy.cluster_environment.main_address, strategy.cluster_environment.main_port
            )
        if strategy.launcher:
            strategy.launcher.launch(strategy.setup_environment)
        else:
            strategy.setup_environment()
    except (OSError, torch.distributed.DistError) as error:
        environment, reason = strategy.cluster_environment, " ".join(str(error).split())[:200]
        raise InputError(
            f"process {trainer.global_rank} of {trainer.world_size} did not meet the others at "
            f"{environment.main_address}:{environment.main_port} ({reason}); "
            "check MASTER_ADDR and MASTER_PORT, and that all were started"
        ) from None


def _reach(address: str, port: int) -> None:
    """Wait until the first process listens; PyTorch would do the same, but fail with a page of its own frames.

    Raises:
        OSError: it does not.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection((address, port), timeout=10).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def mean_over_processes(trainer: Trainer, value: Tensor) -> Tensor:
    """The mean of all processes' values. Lightning's `sync_dist` would have them wait for each other first."""
    if trainer.world_size > 1:
        value = value / trainer.world_size
        torch.distributed.all_reduce(value)
    return value
