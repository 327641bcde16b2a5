"""Set before PyTorch is imported: its waiting threads spin for microseconds, then sleep.

Spinning as long as GNU OpenMP does by default kept a small training from the processor beside another program on two
cores: five epochs of configs/digits.yaml ran at 444 to 946 images a second with it, and at 1,268 to 1,650 with the
passive policy, which does not spin. But no spinning at all costs a quiet machine: the model of configs/cifar10_cpu.yaml
trained on 383 images a second so, and on 435 with this compromise, which has not been measured beside other programs.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
