"""Images a second of one Vision Transformer from several libraries, in training and in inference, by turns.

    python -m benchmarks.throughput                              all sizes; 32 bit, and bf16 where it is fast
    python -m benchmarks.throughput --sizes Ti S --compile       eager against eager, compiled against compiled
    python -m benchmarks.throughput --device cuda --precision bf16 --batch 512
    python -m benchmarks.throughput --peers timm torchvision --json out.json

Prints a table, a row for each network: its parameters and counted flops, images a second (medians of the rounds), their
ratio to ours (median of the ratios within a round), and the share of the peak. A training step is forward, loss,
backward, clipping, and AdamW, fused for all alike, on one random batch that stays on the device. Flops are counted as
in `benchmarks.flops`; the peak is what the fastest of some large matrix products reaches on this device at this
precision. Peers are those of `benchmarks/peers.py`: all with a class token, and of the same sizes.
"""

import functools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import PACKAGES, PEERS, Shape, installed
from benchmarks.training import positive
from benchmarks.turns import arguments, header, take_turns, write
from src.errors import InputError, exit_on_input_error
from src.training.precision import cpu_multiplies_bf16

SIZES = {  # and images of a batch
    "mnist-tiny": (
        Shape(28, 1, 7, width=96, depth=4, heads=4, mlp_ratio=2),
        128,
    ),  # configs/mnist.yaml
    "32px": (Shape(32, 3, 4, width=192, depth=6, heads=3, mlp_ratio=2), 64),
    "Ti": (Shape(32, 3, 4, width=192, depth=12, heads=3), 64),
    "S": (Shape(32, 3, 4, width=384, depth=12, heads=6), 32),
    "B/16": (Shape(224, 3, 16, width=768, depth=12, heads=12), 4),
}
DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}
PRODUCTS = {
    "cpu": ((1024,) * 3, (2048,) * 3, (4096, 1024, 1024), (8192, 768, 3072)),
    "cuda": ((4096,) * 3, (8192,) * 3),
}
CLIP = 1.0  # as train.py does
COLUMNS = ("parameters", "MFLOP_an_image", "train_images/s", "train_of_ours", "train_of_peak")
COLUMNS += ("inference_images/s", "inference_of_ours", "inference_of_peak")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--peers", nargs="+", choices=[p for p in PEERS if p != "ours"], default=list(PEERS)[1:]
    )
    parser.add_argument("--precision", nargs="+", choices=DTYPES)
    parser.add_argument("--compile", action="store_true", help="also all of them compiled")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=positive, help="images of a batch, for all sizes alike")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, roughly")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no CUDA device here; use --device cpu")
    torch.set_num_threads(options.threads)
    peers = ["ours", *installed(options.peers)]
    lines, rows = [header(*(p for p in PACKAGES if p in peers), device=options.device)], {}
    fast_bf16 = options.device == "cuda" or cpu_multiplies_bf16()
    for precision in options.precision or (["32", "bf16"] if fast_bf16 else ["32"]):
        peak = measure_peak(options.device, DTYPES[precision])
        lines.append(f"peak, {precision}: {peak / 1e9:,.0f} GFLOP/s")
        for size in options.sizes:
            for compiled in (False, True) if options.compile else (False,):
                what = f"{size}, {precision}, {'compiled' if compiled else 'eager'}"
                found = measure(size, peers, precision, compiled, peak, options)
                rows |= {f"{what}: {peer}": row for peer, row in found.items()}
    for size in options.sizes:
        shape, batch = SIZES[size]
        sizes = ", ".join(f"{name} {value}" for name, value in shape._asdict().items())
        lines.append(f"{size}: batch {options.batch or batch}, {sizes}")
    write(lines, rows, COLUMNS, options.json)


def measure(
    size: str, peers: list[str], precision: str, compiled: bool, peak: float, options
) -> dict[str, dict]:
    """-> the rows of a size, by peer"""
    torch.compiler.reset()  # it gives up on code that it has compiled too often
    shape, batch = SIZES[size][0], options.batch or SIZES[size][1]
    contenders = {
        p: Contender(p, shape, batch, DTYPES[precision], compiled, options) for p in peers
    }
    trained = take_turns(
        {p: contender.train for p, contender in contenders.items()}, options.rounds
    )
    inferred = take_turns(
        {p: contender.infer for p, contender in contenders.items()}, options.rounds
    )
    rows = {}
    for p, contender in contenders.items():
        flops, forward = count(p, shape)
        parameters = sum(w.numel() for w in contender.network.parameters())
        row = {
            "parameters": parameters,
            "MFLOP_an_image": flops / 1e6,
            "forward_MFLOP": forward / 1e6,
        }
        for what, found, cost in (("train", trained, flops), ("inference", inferred, forward)):
            ratios = [a / b for a, b in zip(found[p], found["ours"], strict=True)]
            row[f"{what}_images/s"] = statistics.median(found[p])
            row[f"{what}_of_ours"] = statistics.median(ratios)
            row[f"{what}_of_peak"] = row[f"{what}_images/s"] * cost / peak
            row[f"{what}_rounds"] = found[p]
        rows[p] = row
    return rows


class Contender:
    """One network; its gradients and moments are there in its own turn alone, so that large ones fit side by side."""

    def __init__(
        self, peer: str, shape: Shape, batch: int, dtype: torch.dtype, compiled: bool, options
    ):
        torch.manual_seed(0)
        self.device, self.dtype, self.seconds = options.device, dtype, options.seconds
        self.images = torch.randn(
            batch, shape.channels, shape.image_size, shape.image_size, device=self.device
        )
        self.labels = torch.arange(batch, device=self.device) % shape.classes
        self.network = PEERS[peer](shape).to(self.device)
        self.run = torch.compile(self.network) if compiled else self.network
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, fused=True)
        self.steps: dict[str, int] = {}

    def train(self) -> float:
        """Images a second of a turn of training steps."""
        self.network.train()
        speed = self.turn("train", self.train_step)
        self.optimizer.zero_grad()
        self.optimizer.state.clear()
        return speed

    @torch.inference_mode()
    def infer(self) -> float:
        self.network.eval()
        return self.turn("inference", self.logits)

    def train_step(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.logits(), self.labels).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()

    def logits(self) -> torch.Tensor:
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            return self.run(self.images)

    def turn(self, kind: str, step: Callable[[], object]) -> float:
        step()
        if kind not in self.steps:
            self.steps[kind] = max(1, round(self.seconds / time_of(step, 1, self.device)))
        return len(self.images) / time_of(step, self.steps[kind], self.device)


def time_of(step: Callable[[], object], steps: int, device: str) -> float:
    """Seconds of one step, the mean of so many."""
    wait_for(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait_for(device)
    return (time.perf_counter() - start) / steps


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def measure_peak(device: str, dtype: torch.dtype) -> float:
    """Flops a second of the fastest of the large matrix products, each the median of seven."""
    speeds = []
    for m, k, n in PRODUCTS[device]:
        a, b = (
            torch.randn(m, k, dtype=dtype, device=device),
            torch.randn(k, n, dtype=dtype, device=device),
        )
        times = [time_of(lambda a=a, b=b: a @ b, 1, device) for _ in range(9)][
            2:
        ]  # the first two warm up
        speeds.append(2 * m * k * n / statistics.median(times))
    return max(speeds)


@functools.cache
def count(peer: str, shape: Shape) -> tuple[float, float]:
    """Flops of an image: forward and backward, and forward alone."""
    network = (
        PEERS[peer](shape).train().to("meta")
    )  # not made there: older versions of timm read values meanwhile
    with torch.device("meta"):
        image = torch.zeros(1, shape.channels, shape.image_size, shape.image_size)
        with FlopCounterMode(display=False) as forward:
            logits = network(image)
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
    return forward.get_total_flops() + backward.get_total_flops(), forward.get_total_flops()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
