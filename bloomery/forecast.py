"""What a recipe will cost, said before it runs: parameters, tokens, memory and time of every stage still missing.

A stage is told what the stages before it have foretold of their folders, so that a plan from nothing knows the shape of
every model.  Time is FLOPs at the matmul rate measured here, as far as training reaches it.
"""

from bloomery.core.errors import InputError
from bloomery.doctor import memory_gb
from bloomery.pipeline import Step
from bloomery.train.precision import choose, matmul_rate

UTILIZATION = 0.35              # of the matmul rate, what training small models reaches: attention, norms, optimizer
SHOWN = ("parameters", "tokens", "flops", "memory_gb", "seconds", "note")


def forecast(steps: list[Step]) -> dict:
    """One row a stage and the totals. A stage that cannot tell yet, its inputs being unmade, gives what it can."""
    planned: dict[str, dict] = {}
    rows, rates = [], {}
    for step in steps:
        found = planned[str(step.folder)] = {} if step.is_done else told(step, planned)
        row = {"stage": step.task.name, "verb": step.task.verb, "hash": step.hash, "folder": str(step.folder),
               "state": "done" if step.is_done else "to run", **{key: found[key] for key in SHOWN if key in found}}
        if "flops" in row and "seconds" not in row:
            asked = precision, device = (getattr(step.config, name, "auto") for name in ("precision", "device"))
            rates[asked] = rates.get(asked) or UTILIZATION * matmul_rate(choose(precision, device=device)[0],
                                                                         device=device)
            row["seconds"] = row["flops"] / rates[asked]
        rows.append(row)
    unknown = [row["stage"] for row in rows if row["state"] == "to run" and "seconds" not in row]
    needed, (_, available) = max((row.get("memory_gb", 0.0) for row in rows), default=0.0), memory_gb()
    warnings = [f"{needed:.1f} GB of memory are needed, {available:.1f} GB are available"] if needed > available else []
    return {"stages": rows, "seconds": sum(row.get("seconds", 0.0) for row in rows), "memory_gb": needed,
            "without_forecast": unknown, "warnings": warnings}


def told(step: Step, planned: dict[str, dict]) -> dict:
    """What a stage says of its own cost."""
    if step.task.forecast is None:
        return {}
    try:
        return step.task.forecast(step.config, planned)
    except (InputError, FileNotFoundError):
        return {"note": "known once its inputs are made"}
