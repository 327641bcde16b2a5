"""Start the processes of a distributed run, one per device, in a defined order.

Lightning's own launcher starts the other processes with the command line of the first one. Under
torchrun and SLURM, all processes run the program from the beginning.
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from src.errors import InputError, one_line

TIMEOUT = 30 * 60  # seconds to wait for rank 0; PyTorch's timeout for the other ranks is the same
Result = TypeVar("Result")


def rank_zero_first(trainer: Trainer, work: Callable[[], Result]) -> Result:
    """Call `work` on rank 0, then on the first rank of every other node, then on all other ranks.

    This way, each node downloads and decodes the data only once. An error in one process ends
    all of them and is printed once. The process group is initialized when this function returns.
    """
    _check_process_count(trainer)
    turn = 0 if trainer.is_global_zero else 1 if trainer.local_rank == 0 else 2
    environment = getattr(trainer.strategy, "cluster_environment", None)
    is_launcher = turn == 0 and not (environment and environment.creates_processes_externally)
    results = []
    if is_launcher:  # the other processes are not started if this fails
        results.append(work())
    _join(trainer)
    for now in range(3 if trainer.world_size > 1 else 1):
        error: BaseException | None = None
        try:
            if now == turn and not results:
                results.append(work())
        except (InputError, OSError) as caught:
            error = caught
        if trainer.strategy.reduce_boolean_decision(error is not None, all=False):
            raise error or SystemExit(2)
    return results[0]


def check_strategy(trainer: Trainer) -> None:
    """Reject strategies that shard the network: clipping, averaging and Muon need whole tensors."""
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        name = type(trainer.strategy).__name__
        raise InputError(f"trainer.strategy {name}: sharded networks are not supported; use ddp")


def _check_process_count(trainer: Trainer) -> None:
    """Reject more processes than the trainer expects; each would train a separate run."""
    if TorchElasticEnvironment.detect():
        started = TorchElasticEnvironment().world_size()
    else:
        ranks = [int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "SLURM_PROCID")]
        started = max(1 + max(ranks), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)))
    if started > trainer.world_size:
        raise InputError(
            f"{started} processes were started, but trainer.devices times trainer.num_nodes is "
            f"{trainer.world_size}; set --trainer.devices to the number of processes per node, and "
            "--trainer.num_nodes to the number of nodes"
        )
    if environment := getattr(trainer.strategy, "cluster_environment", None):
        try:
            environment.validate_settings(trainer.num_devices, trainer.num_nodes)
        except ValueError as error:
            raise InputError(f"trainer: {one_line(error)}; see --help") from None


def _join(trainer: Trainer) -> None:
    """Launch the other processes if necessary, and wait until all processes have joined."""
    strategy = trainer.strategy
    environment: Any = getattr(strategy, "cluster_environment", None)
    try:
        if trainer.global_rank:
            _wait_for(environment.main_address, environment.main_port)
        if strategy.launcher:
            strategy.launcher.launch(strategy.setup_environment)
        else:
            strategy.setup_environment()
    except (OSError, torch.distributed.DistError) as error:
        raise InputError(
            f"process {trainer.global_rank} of {trainer.world_size} could not reach the others at "
            f"{environment.main_address}:{environment.main_port} ({one_line(error)}); check "
            "MASTER_ADDR and MASTER_PORT, and that all processes were started"
        ) from None


def _wait_for(address: str, port: int) -> None:
    """Wait until rank 0 accepts connections; PyTorch's own error would be a long stack trace."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return socket.create_connection((address, port), timeout=10).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def mean_over_processes(trainer: Trainer, value: Tensor) -> Tensor:
    """Return the mean over all processes, without the barrier in Lightning's `sync_dist`."""
    if trainer.world_size > 1:
        value = value / trainer.world_size
        torch.distributed.all_reduce(value)
    return value
