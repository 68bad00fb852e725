"""One side of learning from preferences: ours or TRL's, from the same weights on the same prompts and answers.

    python -m benchmarks.preferring SIDE SPEC

SPEC is JSON: task (dpo, reward, kto, orpo, cpo), folder, prompts, chosen and rejected (lengths; of kto `chosen` alone,
and every other answer is wanted), rows (examples a step), order (the examples of every step), precision, for TRL tuned,
workers, grouped and precompute, and where they are not as they come the `options` of our side and `theirs`.  Ids are
random; an answer ends with the end of text.  Instead, `file` holds prompts, chosen and rejected answers as ids, whose
answers end with `end`; the model is then written to the folder `save`.  What counts are pairs, or rated answers: never
rows, never padding.  Our side is that of the stages: their objective, their batches, `fit`.
"""

import json
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import WARMUP
from benchmarks.machine import status
from benchmarks.trainers import DTYPES, RATE, settings, watched

BETA = 0.1
EPOCHS = (1, 3)
PAD, END = 0, 1         # ids; those of texts are from 2 on
MICRO_TOKENS = 8192     # of our forests, the stages' default
LONGEST = 2**20         # tokens TRL is to leave as they are
Example = tuple[list[int], list[int], list[int]]                # prompt, chosen, rejected


def examples(spec: dict, vocabulary: int) -> list[Example]:
    """Prompts and answers of random ids, or of a file: the same on both sides."""
    import torch

    if "file" in spec:
        return json.loads(Path(spec["file"]).read_text())

    generator = torch.Generator().manual_seed(0)

    def drawn(length: int) -> list[int]:
        return torch.randint(END + 1, vocabulary, (length,), generator=generator).tolist()

    return [(drawn(prompt), [*drawn(good - 1), END], [*drawn(bad - 1), END])
            for prompt, good, bad in zip(spec["prompts"], spec["chosen"], spec["rejected"], strict=True)]


def order(spec: dict) -> list[list[int]]:
    """The examples of every step: as the stages draw them, or `grouped` by length, those steps in any order."""
    if not spec.get("grouped"):
        return spec["order"]
    paired = spec["task"] != "kto"

    def longest(i: int) -> int:
        return spec["prompts"][i] + (max(spec["chosen"][i], spec["rejected"][i]) if paired else spec["chosen"][i])

    drawn = sorted((i for step in spec["order"] for i in step), key=longest)
    steps = [drawn[at:at + spec["rows"]] for at in range(0, len(drawn), spec["rows"])]
    random.Random(0).shuffle(steps)
    return steps


def warm(spec: dict) -> int:
    """Steps before the clock starts."""
    return min(WARMUP, len(spec["order"]) - 1)


def answer(spec: dict, *, reference: float, resident: int, ends: list[float], losses: list[float],
           grad_norms: list[float], figures: list[dict[str, float]]) -> dict:
    """What a side says: examples a second over 1 and 3 epochs, its reference included, and what must be equal.

    `reference` is what an example took in seconds before the first step, 0 where there was no such pass; an epoch after
    the first needs none.  `peak_bytes` is the most that was held beyond the `resident` bytes of a loaded model.
    """
    steps = len(ends) - warm(spec)
    seconds = (ends[-1] - ends[-1 - steps]) / steps
    rates = {f"rate {epochs}": epochs / (reference + epochs * seconds / spec["rows"]) for epochs in EPOCHS}
    told = {name: [each[name] for each in figures if name in each] for name in FIGURES[spec["task"]]}
    return {"seconds": seconds, "reference": reference, "losses": losses, "grad_norms": grad_norms, "figures": told,
            "peak_bytes": status("VmHWM") - resident} | rates


def settled() -> int:
    """Bytes this process holds now; its peak counts from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def ours(spec: dict) -> dict:
    import torch

    from bloomery.model.store import save_model
    from bloomery.train.loop import fit
    from bloomery.train.optim import OptimizerConfig
    from bloomery.train.state import Report, State, fresh

    made = our_rewards if spec["task"] == "reward" else our_preferences
    model, resident, stream, objective, reference = made(spec, getattr(torch, DTYPES[spec["precision"]]))
    seen: dict[str, list] = {"ends": [], "losses": [], "grad_norms": [], "figures": []}

    def watch(state: State, report: Report) -> None:
        seen["ends"].append(time.perf_counter())
        seen["losses"].append(report.metrics["loss"])
        seen["grad_norms"].append(report.grad_norm)
        seen["figures"].append(report.metrics)

    optimizer = OptimizerConfig(lr=RATE, schedule="constant", warmup=0, weight_decay=0.1, beta2=0.95)
    fit(fresh(model, optimizer, steps=len(spec["order"])), stream, objective, (watch,))
    if "save" in spec:
        save_model(model, Path(spec["save"]))
    return answer(spec, reference=reference, resident=resident, **seen)


def our_preferences(spec: dict, compute: Any) -> tuple:
    """A model, what it holds, the stream and the objective of the preference stage, and the reference's seconds."""
    import torch

    from bloomery.align.objectives import cached
    from bloomery.align.pairs import Pair, Rated
    from bloomery.align.preference import LearnConfig, made
    from bloomery.align.reference import score_pairs
    from bloomery.losses.preference import REFERENCE_FREE
    from bloomery.model.store import load_model

    model = load_model(Path(spec["folder"]), compute=compute)
    resident, task = settled(), spec["task"]
    found = examples(spec, model.config.vocabulary)
    if task == "kto":
        like, other = wanted(spec), mismatched(spec)
        items = [Rated(prompt, good, found[other[i]][1], like[i]) for i, (prompt, good, _) in enumerate(found)]
    else:
        items = [Pair(*example) for example in found]
    told, seconds = torch.zeros(len(items), 2), 0.0
    given = {"loss": task, "beta": BETA} | OPTIONS.get(task, {}) | spec.get("options", {})
    if given["loss"] not in REFERENCE_FREE:
        visited = [i for step in spec["order"] for i in step]
        for part in visited[:warm(spec) * spec["rows"]], visited[warm(spec) * spec["rows"]:]:
            start = time.perf_counter()
            told[part] = score_pairs(model, [items[i] for i in part], MICRO_TOKENS, tail=given.get("tail", 1.0))
            seconds = (time.perf_counter() - start) / len(part)
    config = LearnConfig(model=spec["folder"], steps=len(spec["order"]), pairs=spec["rows"], micro_tokens=MICRO_TOKENS,
                         **given)
    return model, resident, *made(config, items, told, cached), seconds


def our_rewards(spec: dict, compute: Any) -> tuple:
    """The same of the reward stage, which has no reference."""
    from bloomery.align.rankings import Ranked, ranked_stream
    from bloomery.align.reward_model import objective
    from bloomery.model.scalar import load_scalar

    model = load_scalar(Path(spec["folder"]), compute=compute)
    resident = settled()
    found = examples(spec, model.trunk.config.vocabulary)
    groups = [Ranked(prompt, [good, bad], (1, 2)) for prompt, good, bad in found]
    stream = ranked_stream(groups, size=spec["rows"], micro_tokens=MICRO_TOKENS, seed=0)
    return model, resident, stream, objective(**spec.get("options", {})), 0.0


def wanted(spec: dict) -> dict[int, bool]:
    """Whether a rated answer is desirable: every other one of a step is."""
    return {i: place % 2 == 0 for step in order(spec) for place, i in enumerate(step)}


def mismatched(spec: dict) -> dict[int, int]:
    """Whose answer estimates the KL at each example's prompt: that of the example before it in its step, as in TRL."""
    return {i: step[place - 1] for step in order(spec) for place, i in enumerate(step)}


def trl(spec: dict) -> dict:
    import tempfile

    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    task = spec["task"]
    kind = AutoModelForSequenceClassification if task == "reward" else AutoModelForCausalLM
    model = kind.from_pretrained(spec["folder"], dtype=torch.float32)
    resident = settled()
    names = [str(i) for i in range(model.config.vocab_size)]    # a text is its ids, so that TRL reads what we read
    names[PAD], names[spec.get("end", END)] = "<pad>", "<eos>"
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    reader = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    found, like, steps = examples(spec, model.config.vocab_size), wanted(spec), order(spec)
    data = Dataset.from_list([row(task, found[i], like[i], names) for step in steps for i in step])
    reference: list[float] = []
    trainer, config = trainers()[task]

    class Timed(trainer):
        def compute_ref_log_probs(self, *given):                                         # noqa: ANN002
            told = super().compute_ref_log_probs(*given)
            reference.append(time.perf_counter())
            return told

    recording, watch, seen = watched(Timed, partial(logged, task))
    asked = settings(spec) | {"max_length": LONGEST}
    asked |= spec.get("theirs", {}) | ({"precompute_ref_log_probs": True} if reads_before(spec) else {})
    with tempfile.TemporaryDirectory() as folder:
        recording(model=model, args=config(folder, **asked), processing_class=reader, train_dataset=data,
                  callbacks=[watch]).train()
    if "save" in spec:
        model.save_pretrained(spec["save"])
    at = warm(spec)
    seconds = (reference[-1] - reference[at - 1]) / (len(steps) - at) / spec["rows"] if reference else 0.0
    return answer(spec, resident=resident, reference=seconds, **seen)


def reads_before(spec: dict) -> bool:
    """Whether TRL makes the reference's log-probabilities before the first step; otherwise it does so in each."""
    return spec["precompute"] and spec["task"] in ("dpo", "kto")


def row(task: str, example: Example, desirable: bool, names: list[str]) -> dict:
    """An example as TRL's trainers read it: a text is the names of its ids, and TRL adds the last."""
    prompt, chosen, rejected = example
    if task == "reward":
        return {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
    asked, good, bad = (" ".join(names[i] for i in ids) for ids in (prompt, chosen[:-1], rejected[:-1]))
    if task == "kto":
        return {"prompt": asked, "completion": " " + good, "label": desirable}
    return {"prompt": asked, "chosen": " " + good, "rejected": " " + bad}


def trainers() -> dict[str, tuple[type, type]]:
    """TRL's trainers with their settings."""
    import trl
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return {"dpo": (trl.DPOTrainer, trl.DPOConfig), "reward": (trl.RewardTrainer, trl.RewardConfig),
            "kto": (trl.KTOTrainer, trl.KTOConfig), "orpo": (ORPOTrainer, ORPOConfig),
            "cpo": (CPOTrainer, CPOConfig)}


def logged(task: str, trainer: Any) -> dict[str, float]:
    """What a trainer of TRL has just noted of a step."""
    noted = (trainer._stored_metrics if task in ("orpo", "cpo") else trainer._metrics)["train"]
    return {name: float(noted[name][-1]) for name in FIGURES[task] if noted[name]}


FIGURES = {"dpo": ("logps/chosen", "logps/rejected"), "reward": ("mean_reward", "margin"),
           "kto": ("logps/chosen", "logps/rejected"), "orpo": ("rewards/chosen", "rewards/rejected", "nll_loss"),
           "cpo": ("rewards/chosen", "rewards/rejected")}
OPTIONS = {"orpo": {"nll_on": "all"}}           # TRL's nll is of the prompt too
SIDES = {"ours": ours, "trl": trl}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
