"""One side of supervised fine-tuning: ours or TRL's, from the same weights on the same prompts and completions.

    python -m benchmarks.tuning SIDE SPEC

SPEC is JSON: folder, adapter (a folder of PEFT's files, or null), prompts and completions (lengths, `rows` of them a
step), rows, precision, and for TRL tuned, workers and grouped.  Ids are random, completions are trained, and tokens
that count are a prompt's or a completion's, never padding.  `borrowed` is our side around transformers' own forward.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import WARMUP
from benchmarks.trainers import DTYPES, RATE, settings, watched

MICRO_TOKENS = 8192     # of our flat micro-batches


def examples(spec: dict, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """Prompts and completions of random ids, in order: the same on both sides."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def drawn(length: int) -> list[int]:
        return torch.randint(vocabulary, (length,), generator=generator).tolist()

    return [(drawn(prompt), drawn(answer)) for prompt, answer in zip(spec["prompts"], spec["completions"], strict=True)]


def order(spec: dict) -> list[list[int]]:
    """Which examples every step takes: as they come, or `grouped` by length, the steps in any order."""
    lengths = [prompt + answer for prompt, answer in zip(spec["prompts"], spec["completions"], strict=True)]
    places = sorted(range(len(lengths)), key=lengths.__getitem__) if spec.get("grouped") else range(len(lengths))
    steps = [list(places[at:at + spec["rows"]]) for at in range(0, len(lengths), spec["rows"])]
    if spec.get("grouped"):
        random.Random(0).shuffle(steps)
    return steps


def timed(spec: dict) -> list[list[int]]:
    """The examples of the steps on the clock: all but those of the warm-up."""
    steps = order(spec)
    return steps[min(WARMUP, len(steps) - 1):]


def answer(spec: dict, ends: list[float], losses: list[float], norms: list[float]) -> dict:
    """What a side says: useful tokens a second after the warm-up, and what must be equal."""
    on_clock = timed(spec)
    seconds = ends[-1] - ends[-1 - len(on_clock)]
    tokens = sum(spec["prompts"][i] + spec["completions"][i] for step in on_clock for i in step)
    return {"rate": tokens / seconds, "seconds": seconds, "losses": losses, "grad_norms": norms}


def ours(spec: dict) -> dict:
    import torch

    from bloomery.model.peft_files import load_adapter
    from bloomery.model.store import load_model

    model = load_model(Path(spec["folder"]), compute=getattr(torch, DTYPES[spec["precision"]]))
    if spec["adapter"]:
        load_adapter(model, Path(spec["adapter"]), trainable=True)
    return steps_of(spec, model)


def steps_of(spec: dict, model: object) -> dict:
    """Our steps: completions alone through the head, examples best-fit into flat micro-batches; TRL's metrics."""
    from functools import partial

    from bloomery.data.batch import Batch, forest, sequence
    from bloomery.data.packing import best_fit_decreasing
    from bloomery.train.objective import causal_lm

    runs = [sequence(prompt + said, [False] * len(prompt) + [True] * len(said))
            for prompt, said in examples(spec, model.config.vocabulary)]
    steps = order(spec)

    def stream(step: int) -> list[Batch]:
        lengths = [len(runs[i].ids) for i in steps[step]]
        bins = best_fit_decreasing(lengths, max(MICRO_TOKENS, *lengths))
        return [forest([runs[steps[step][i]] for i in group]) for group in bins]

    return stepped(spec, model, stream, partial(causal_lm, entropy=True), steps=len(steps))


def stepped(spec: dict, model: object, stream: object, objective: object, *, steps: int) -> dict:
    """So many steps of our loop, and when each ended, with which loss and gradient norm."""
    from bloomery.train.loop import fit
    from bloomery.train.optim import OptimizerConfig
    from bloomery.train.state import Report, State, fresh

    optimizer = OptimizerConfig(lr=RATE, schedule="constant", warmup=0, weight_decay=0.1, beta2=0.95)
    ends, losses, norms = [], [], []

    def watch(state: State, report: Report) -> None:
        ends.append(time.perf_counter())
        losses.append(report.metrics["loss"])
        norms.append(report.grad_norm)

    fit(fresh(model, optimizer, steps=steps), stream, objective, (watch,))
    return answer(spec, ends, losses, norms)


def borrowed(spec: dict) -> dict:
    """Our steps around a model of transformers: its forward for every run alone, our head for what is trained.

    Lengths are rounded up, since a CPU compiles every new shape; on the right that needs no mask.  Weights are cast for
    every run: autocast's cache would add the gradients of all runs in bfloat16.
    """
    from types import SimpleNamespace

    import torch
    from torch.nn.functional import pad
    from transformers import AutoModelForCausalLM

    from bloomery.model.forest import Forest
    from bloomery.model.linear import Linear

    compute = getattr(torch, DTYPES[spec["precision"]])

    class Borrowed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=torch.float32)
            self.config = SimpleNamespace(vocabulary=whole.config.vocab_size, head_softcap=None, head_transform=False)
            self.trunk, self.head = whole.model, Linear(whole.config.hidden_size, whole.config.vocab_size)
            self.head.weight = whole.lm_head.weight
            self.embedding = self.trunk.embed_tokens

        def forward(self, ids: torch.Tensor, positions: torch.Tensor, memory: Forest) -> torch.Tensor:
            with torch.autocast("cpu", compute, enabled=compute != torch.float32, cache_enabled=False):
                states = [self.trunk(pad(ids[None, a:b], (0, (a - b) % 64)), use_cache=False).last_hidden_state[0]
                          for a, b in memory.segments.runs]
            return torch.cat([x[:b - a] for x, (a, b) in zip(states, memory.segments.runs, strict=True)]).to(compute)

    return steps_of(spec, Borrowed().train())


def trl(spec: dict) -> dict:
    import tempfile

    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=torch.float32)
    if spec["adapter"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, spec["adapter"], is_trainable=True)
    found = examples(spec, model.config.vocab_size)
    rows = [found[i] for step in order(spec) for i in step]
    data = Dataset.from_dict({"input_ids": [prompt + said for prompt, said in rows],
                              "labels": [[-100] * len(prompt) + said for prompt, said in rows]})
    recording, watch, seen = watched(SFTTrainer)
    with tempfile.TemporaryDirectory() as folder:
        blank = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>")),
                                        pad_token="<pad>", eos_token="<pad>")     # ids are given; it knows the padding
        recording(model=model, args=SFTConfig(folder, max_length=None, **settings(spec)), train_dataset=data,
                  processing_class=blank, callbacks=[watch]).train()
    return answer(spec, seen["ends"], seen["losses"], seen["grad_norms"])


SIDES: dict[str, Callable[[dict], dict]] = {"ours": ours, "borrowed": borrowed, "trl": trl}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
