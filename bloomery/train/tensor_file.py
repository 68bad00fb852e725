"""A safetensors file written and hashed in one pass, straight from the tensors' memory.

    8 bytes: length of the header | header: JSON, name -> dtype, shape, offsets | the tensors end to end

The library's writer first copies every tensor into a bytes object and holds the interpreter while it does; a checkpoint
written beside training may do neither.  Reading is left to the library.
"""

import hashlib
import json
import os
import struct
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
CHUNK = 2**24           # bytes hashed and written at a time


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> tuple[int, str]:
    """Write contiguous tensors, sync them to disk; size and SHA-256 of the file."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))         # widest first: aligned
    header, offset = {}, 0
    for name in order:
        end = offset + tensors[name].nbytes
        header[name] = {"dtype": DTYPES[tensors[name].dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [offset, end]}
        offset = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in (struct.pack("<Q", len(text)), text, *(memory(tensors[name]) for name in order)):
            for start in range(0, len(part), CHUNK):
                digest.update(part[start:start + CHUNK])        # both let other threads run
                file.write(part[start:start + CHUNK])
        file.flush()
        os.fsync(file.fileno())
    return 8 + len(text) + offset, digest.hexdigest()


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, not copied where it is the CPU's."""
    return memoryview(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
