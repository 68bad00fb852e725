"""What this machine is: interpreter, torch, speed, memory, disk, and which optional parts are installed."""

import os
import platform
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from bloomery import __version__
from bloomery.train.precision import matmul_rate

EXTRAS = {"report": ("plotly",), "serve": ("fastapi", "uvicorn"), "hub": ("huggingface_hub",),
          "text": ("scipy", "sacrebleu"), "curate": ("numba", "xxhash", "zstandard"), "ray": ("ray",),
          "vllm": ("vllm",), "track": ("tensorboard", "wandb", "trackio"),
          "test": ("pytest", "hypothesis", "ruff", "transformers")}


def examine(folder: Path = Path()) -> list[tuple[str, str, str]]:
    """Rows of (what, finding, what to do about it); the last column is empty where nothing needs doing."""
    total, available = memory_gb()
    free = shutil.disk_usage(folder).free / 1e9
    rows = [("bloomery", __version__, ""),
            ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", ""),
            ("torch", torch.__version__, ""),
            ("device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", ""),
            ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors", ""),
            ("fp32 matmul", f"{matmul_rate(torch.float32) / 1e9:.0f} GFLOP/s", ""),
            ("bf16 matmul", f"{matmul_rate(torch.bfloat16) / 1e9:.0f} GFLOP/s", ""),
            ("memory", f"{available:.1f} of {total:.1f} GB available", "" if available > 2 else "end other programs"),
            ("disk here", f"{free:.1f} GB free", "" if free > 2 else "free some space, or use --out on another disk")]
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if not find_spec(name)]
        found = ", ".join(f"{name} {version(name)}" for name in modules if name not in missing)
        rows.append((f"[{extra}]", found or "not installed", f"pip install 'bloomery[{extra}]'" if missing else ""))
    return rows


def memory_gb() -> tuple[float, float]:
    """Memory of this machine in GB (10^9 bytes): all of it, and what a new program may still take."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():                                # macOS counts no available pages here
        return total / 1e9, total / 1e9
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return total / 1e9, int(lines["MemAvailable"].split()[0]) * 1024 / 1e9
