"""Compare the training speed of the same Vision Transformer in several libraries, on the CPU.

    python -m benchmarks.throughput                              all sizes; takes half an hour
    python -m benchmarks.throughput --sizes Ti --seconds 0.2     takes a few minutes
    python -m benchmarks.throughput --sizes Ti S --compile       also compiled networks
    python -m benchmarks.throughput --peers timm torchvision     selected libraries

Prints a table with a row per network: parameters, counted FLOPs, images per second (medians over
interleaved rounds), their ratio to this project, and the fraction of the peak. A step consists of
forward, loss, backward, clipping and fused AdamW on one random batch. The peak is the speed of the
fastest of several large matrix products in the same precision. By default, it measures float32, and
bf16 if that is faster on this CPU.
"""

import functools
import statistics
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.interleaved import Timed, header, interleave, median_ratio, time_step, timing_parser
from benchmarks.peers import PACKAGES, PEERS, Shape, installed, parameters
from benchmarks.tables import Rows, table
from src.errors import exit_on_input_error
from src.training.precision import cpu_is_faster_in_bf16

SIZES = {  # name: (shape, batch size)
    "mnist-tiny": (Shape(28, 1, 7, width=96, depth=4, heads=4, mlp_ratio=2), 128),
    "32px": (Shape(32, 3, 4, width=192, depth=6, heads=3, mlp_ratio=2), 64),
    "Ti": (Shape(32, 3, 4, width=192, depth=12, heads=3), 64),
    "S": (Shape(32, 3, 4, width=384, depth=12, heads=6), 32),
    "B/16": (Shape(224, 3, 16, width=768, depth=12, heads=12), 4),
}
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
PRODUCTS = ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 1024), (8192, 768, 3072))
CLIP = 1.0  # gradient clipping norm, same as in the recipes
COLUMNS = ("parameters", "MFLOP_per_image", "images/s", "of_ours", "of_peak")


class Setting(NamedTuple):
    """Measurement settings."""

    device: str
    precision: str
    compiled: bool
    batch: int
    seconds: float  # approximate time per round and network


def main() -> None:
    parser = timing_parser(__doc__)
    others = [name for name in PEERS if name != "ours"]
    precisions = list(DTYPES) if cpu_is_faster_in_bf16() else ["32-true"]
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--peers", nargs="+", choices=others, default=others)
    parser.add_argument("--precision", nargs="+", choices=DTYPES, default=precisions)
    parser.add_argument("--compile", action="store_true", help="also measure compiled networks")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per round and network")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peers = ["ours", *installed(options.peers)]
    lines = [header(*(name for name in PACKAGES if name in peers))]
    rows: Rows = {}
    for precision in options.precision:
        peak = measure_peak(DTYPES[precision])
        lines.append(f"peak, {precision}: {peak / 1e9:,.0f} GFLOP/s")
        for size in options.sizes:
            shape, batch = SIZES[size]
            for compiled in (False, True) if options.compile else (False,):
                setting = Setting("cpu", precision, compiled, batch, options.seconds)
                found = measure(peers, shape, setting, options.rounds, peak)
                kind = "compiled" if compiled else "eager"
                rows |= {f"{size}, {precision}, {kind}: {peer}": row for peer, row in found.items()}
    for size in options.sizes:
        shape, batch = SIZES[size]
        lines.append(f"{size}: batch {batch}, {shape}")
    print(*lines, "", table(rows, COLUMNS), sep="\n")


def measure(peers: list[str], shape: Shape, setting: Setting, rounds: int, peak: float) -> Rows:
    """Measure all peers and return a table row for each."""
    torch.compiler.reset()  # earlier networks count toward the recompilation limit
    contenders = {peer: Contender(peer, shape, setting) for peer in peers}
    found = interleave(contenders, rounds)
    rows: Rows = {}
    for peer, speeds in found.items():
        flops, speed = count(peer, shape), statistics.median(speeds)
        rows[peer] = {
            "parameters": parameters(contenders[peer].network),
            "MFLOP_per_image": flops / 1e6,
            "images/s": speed,
            "of_ours": median_ratio(speeds, found["ours"]),
            "of_peak": speed * flops / peak,
        }
    return rows


class Contender:
    """A network that allocates gradients and optimizer state only while it is being timed."""

    def __init__(self, peer: str, shape: Shape, setting: Setting):
        torch.manual_seed(0)
        self.precision = setting.precision
        device, batch = setting.device, setting.batch
        size = (batch, shape.channels, shape.image_size, shape.image_size)
        self.images = torch.randn(size, device=device)
        self.labels = torch.arange(batch, device=device) % shape.classes
        self.network = PEERS[peer](shape).to(device).train()
        self.compiled = torch.compile(self.network) if setting.compiled else self.network
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, fused=True)
        self.turn = Timed(self._step, setting.seconds, device)

    def __call__(self) -> float:
        """Return the number of images per second."""
        seconds = self.turn()
        self.optimizer.zero_grad()
        self.optimizer.state.clear()
        return len(self.images) / seconds

    def _step(self) -> None:
        train_step(self.compiled, self.optimizer, self.images, self.labels, self.precision)


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    precision: str,
    label_smoothing: float = 0.0,
) -> None:
    """Run forward, loss, backward, gradient clipping and the optimizer."""
    optimizer.zero_grad()
    bf16 = precision == "bf16-mixed"
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
        loss = F.cross_entropy(network(inputs), labels, label_smoothing=label_smoothing)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()


@torch.no_grad()
def measure_peak(dtype: torch.dtype) -> float:
    """Return the FLOP/s of the fastest matrix product (median of seven timings for each)."""
    speeds = []
    for m, k, n in PRODUCTS:
        a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
        times = [time_step(functools.partial(torch.matmul, a, b)) for _ in range(9)]
        speeds.append(2 * m * k * n / statistics.median(times[2:]))  # the first two are warm-up
    return max(speeds)


@functools.cache
def count(peer: str, shape: Shape) -> float:
    """Return the FLOPs of the forward and backward pass for one image."""
    # Not created on the meta device, because older versions of timm read values in __init__.
    network = PEERS[peer](shape).train().to("meta")
    size = (1, shape.channels, shape.image_size, shape.image_size)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(size, device="meta")).sum().backward()
    return counter.get_total_flops()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
