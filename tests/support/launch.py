"""Several processes of `train.py` at once, with the environment that torchrun, SLURM or Lightning gives each."""

import os
import socket

from program import Ended, Running, each


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def torchrun(rank: int, processes: int, nodes: int = 1) -> dict[str, str]:
    """What torchrun sets for process `rank` of all, when each node has the same number of processes."""
    local = processes // nodes
    numbers = {
        "RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_RANK": rank % local,
        "LOCAL_WORLD_SIZE": local,
    }
    return {key: str(value) for key, value in (numbers | {"GROUP_RANK": rank // local}).items()} | {
        "TORCHELASTIC_RUN_ID": "none"
    }


def slurm(rank: int, processes: int, nodes: int = 1) -> dict[str, str]:
    """What srun sets for task `rank` of all."""
    local = processes // nodes
    numbers = {
        "SLURM_PROCID": rank,
        "SLURM_NTASKS": processes,
        "SLURM_LOCALID": rank % local,
        "SLURM_JOB_ID": 4711,
    }
    numbers |= {
        "SLURM_STEP_NUM_TASKS": processes,
        "SLURM_NODEID": rank // local,
        "SLURM_NNODES": nodes,
        "SLURM_NTASKS_PER_NODE": local,
    }
    return {key: str(value) for key, value in numbers.items()} | {"SLURM_JOB_NAME": "train"}


def start(
    args: list, environments: list[dict], prepare=None, port: int | None = None
) -> list[Running]:
    """A process for each environment; `prepare(rank)` gives what `Running` is to call in it, or ()."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port())}
    processes = []
    for rank, environment in enumerate(environments):
        calls = [(_enter, environment | common), prepare(rank) if prepare else ()]
        processes.append(Running(*args, prepare=(each, *filter(None, calls))))
    return processes


def _enter(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def launch(args: list, environments: list[dict], prepare=None) -> list[Ended]:
    """Start them, and wait until all have ended."""
    return [process.end(120) for process in start(args, environments, prepare)]


def node(rank: int) -> dict[str, str]:
    """What one sets by hand on node `rank`, where Lightning then starts the processes."""
    return {"NODE_RANK": str(rank)}
