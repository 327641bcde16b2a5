"""Start several `train.py` processes with the environment of torchrun, SLURM or Lightning."""

import os
import socket

from program import Ended, Running, each


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def torchrun(rank: int, processes: int, nodes: int = 1) -> dict[str, str]:
    """Return the environment variables that torchrun sets, with equally many ranks per node."""
    per_node = processes // nodes
    values = {
        "RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_RANK": rank % per_node,
        "LOCAL_WORLD_SIZE": per_node,
        "GROUP_RANK": rank // per_node,
        "TORCHELASTIC_RUN_ID": "none",
    }
    return {key: str(value) for key, value in values.items()}


def slurm(rank: int, processes: int, nodes: int = 1) -> dict[str, str]:
    """Return the environment variables that srun sets for a task."""
    per_node = processes // nodes
    values = {
        "SLURM_PROCID": rank,
        "SLURM_NTASKS": processes,
        "SLURM_LOCALID": rank % per_node,
        "SLURM_JOB_ID": 4711,
        "SLURM_STEP_NUM_TASKS": processes,
        "SLURM_NODEID": rank // per_node,
        "SLURM_NNODES": nodes,
        "SLURM_NTASKS_PER_NODE": per_node,
        "SLURM_JOB_NAME": "train",
    }
    return {key: str(value) for key, value in values.items()}


def start(args: list, environments: list[dict], prepare=None) -> list[Running]:
    """Start a process per environment; `prepare(rank)` returns its `prepare` argument."""
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank, environment in enumerate(environments):
        calls = [(_update_environment, environment | rendezvous)]
        if prepare and prepare(rank):
            calls.append(prepare(rank))
        processes.append(Running(*args, prepare=(each, *calls)))
    return processes


def _update_environment(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def launch(args: list, environments: list[dict], prepare=None) -> list[Ended]:
    """Start the processes, wait until all of them end, and return their results."""
    return [process.end(120) for process in start(args, environments, prepare)]
