"""Runs a recipe under FSDP on CPU processes: `accelerate launch --config_file ... tests/fsdp_on_cpu.py RECIPE ...`.

Accelerate shards only where it has found GPUs, though torch does it with gloo as well. It is told here that it has
found them; all else is what runs on GPUs.
"""

import os
import runpy
import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
PartialState._prepare_backend = lambda *arguments: ("gloo", DistributedType.MULTI_GPU)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
