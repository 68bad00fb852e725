"""bloomery: from raw text to an aligned, served language model, in one package."""

import os

__version__ = "0.1.0"

# OpenMP threads that wait by spinning take the cores from the thread they wait for: beside another busy process,
# training ran at 2,100 tokens/s with the default and at 13,300 with a short spin. Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
