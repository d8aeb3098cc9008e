"""Writes blocks.txt: random blocks of each quantised format and what the Python `gguf` package reads in them.

Run by hand with `python3 blocks.py > blocks.txt` where gguf 0.19 and numpy are installed; tests need only the output.
"""

import numpy as np
from gguf import GGMLQuantizationType, quants

rng = np.random.default_rng(20261122)
# Where the half floats of a block stand: random bits there would often be infinite.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
SIZES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}

for name, size in SIZES.items():
    block = rng.integers(0, 256, size, dtype=np.uint8)
    for at in HALVES[name]:
        block[at : at + 2] = np.array([rng.uniform(-0.1, 0.1)], dtype=np.float16).view(np.uint8)
    values = quants.dequantize(block, GGMLQuantizationType[name])
    print(name)
    print(block.tobytes().hex())
    print(" ".join(np.format_float_positional(v, unique=True, trim="-") for v in values.astype(np.float32)))
