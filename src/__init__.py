"""Set before PyTorch is imported: its waiting threads sleep rather than spin.

On two busy cores spinning threads kept a small training from the processor: five epochs of configs/digits.yaml ran at
444 to 946 images a second with it and at 1,268 to 1,650 without, in turn, beside another program.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
