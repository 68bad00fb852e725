"""What a recipe will cost, said before it runs: parameters, tokens, memory and time of every stage still missing."""

import torch

from bloomery.core.errors import InputError
from bloomery.doctor import matmul_rate, memory_gb
from bloomery.pipeline import Step

UTILIZATION = 0.35              # of the matmul rate, what training small models reaches: attention, norms, optimizer


def forecast(steps: list[Step]) -> dict:
    """One row a stage and the totals. A stage that cannot tell yet, its inputs being unmade, gives what it can."""
    rows = [{"stage": step.task.name, "verb": step.task.verb, "hash": step.hash, "folder": str(step.folder),
             "state": "done" if step.is_done else "to run", **({} if step.is_done else told(step))} for step in steps]
    if any("flops" in row and "seconds" not in row for row in rows):
        rate = max(matmul_rate(torch.float32), matmul_rate(torch.bfloat16)) * UTILIZATION
        rows = [{**row, "seconds": row["flops"] / rate} if "flops" in row and "seconds" not in row else row
                for row in rows]
    unknown = [row["stage"] for row in rows if row["state"] == "to run" and "seconds" not in row]
    needed, (_, available) = max((row.get("memory_gb", 0.0) for row in rows), default=0.0), memory_gb()
    warnings = [f"{needed:.1f} GB of memory are needed, {available:.1f} GB are available"] if needed > available else []
    return {"stages": rows, "seconds": sum(row.get("seconds", 0.0) for row in rows), "memory_gb": needed,
            "without_forecast": unknown, "warnings": warnings}


def told(step: Step) -> dict:
    """What a stage says of its own cost."""
    if step.task.forecast is None:
        return {}
    try:
        return step.task.forecast(step.config)
    except (InputError, FileNotFoundError):
        return {"note": "known once its inputs are made"}
