"""One side of reinforcement learning: ours or TRL's, from the same weights on the same prompts.

    python -m benchmarks.acting SIDE SPEC

SPEC is JSON: task (a verb of `stages.py`, for TRL grpo or rloo), folder, prompts (lengths of those of a step), samples
(answers to each), new (tokens of an answer), steps, epochs, precision, for TRL tuned, workers, rows (answers learned
from at once) and cache, and where they are not as they come the `options` of our side and `theirs`.  Prompts are random
ids, other ones in every step; nothing ends an answer before it has its tokens.  With `gate` answers are dictated, of
any length up to `new`, and what every update says is told.  What an answer earns depends on its ids alone.

Both sides make text of what they draw, as they do for a reward that reads it.  A step is drawing and learning, of which
`rollout` is the part that draws.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.trainers import DTYPES, RATE, settings, watched

PAD, END = "<pad>", "<end>"             # id 0, and one beyond those the model can say: no answer ends by itself
MICRO_TOKENS = 8192                     # of our forests, the stage's default
FIGURES = ("loss", "grad_norm")


def prompts(spec: dict, vocabulary: int) -> list[list[list[int]]]:
    """Prompts of random ids for every step: the same on both sides."""
    return [[random_ids(length, vocabulary, step, place) for place, length in enumerate(spec["prompts"])]
            for step in range(spec["steps"])]


def dictated(spec: dict, vocabulary: int, step: int) -> list[list[list[int]]]:
    """The answers of a step, `samples` to each prompt, from half as long as they may be to as long."""
    lengths = random_ids(len(spec["prompts"]) * spec["samples"], spec["new"] // 2, step, -1)
    answers = [random_ids(spec["new"] - less, vocabulary, step, -2 - i) for i, less in enumerate(lengths)]
    return [answers[at:at + spec["samples"]] for at in range(0, len(answers), spec["samples"])]


def random_ids(count: int, most: int, *named: int) -> list[int]:
    """Numbers from 1 to `most` - 1 that belong to these."""
    return random.Random(repr(named)).choices(range(1, most), k=count)


def worth(ids: list[int]) -> float:
    """What an answer earns: nothing one could learn, and hardly ever what another one does."""
    return sum(ids) % 101 / 100


def vocabulary_of(size: int) -> Any:
    """A tokenizer whose texts are ids, for both sides."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = [PAD, *map(str, range(1, size)), END]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, PAD))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def answer(spec: dict, *, steps: list[float], rollouts: list[float], figures: list[dict[str, float]],
           drawn: list[list[int]], logps: list[float], asked: list[list[int]]) -> dict:
    """What a side says: completions a second, what drawing and learning took, and of a gate all that must be equal.

    `steps` and `rollouts` are seconds of every step; `asked` the last step's prompts, `drawn` the answers to them,
    `samples` to each, with the log-probabilities they were drawn with as far as a side knows them.
    """
    at, samples = min(1, len(steps) - 1), spec["samples"]       # steps take half a minute: one is enough to warm up
    step, rollout = (sum(each[at:]) / (len(each) - at) for each in (steps, rollouts))
    told = {name: [each[name] for each in figures] for name in FIGURES} if figures else {}
    done = [[{"ids": ids} for ids in drawn[i * samples:(i + 1) * samples]] for i in range(len(asked))]
    return {"rate": len(drawn) / step, "seconds": step, "rollout": rollout, "update": step - rollout,
            "figures": told, "prompts": asked, "done": done, "logps": logps}


def our_options(spec: dict) -> Any:
    """The stage's options, as the spec wants them."""
    from bloomery.align.rl_config import LearnerConfig
    from bloomery.stages import REINFORCEMENTS

    optimizer = {"lr": RATE, "schedule": "constant", "warmup": 0, "weight_decay": 0.1, "beta2": 0.95}
    return LearnerConfig(**REINFORCEMENTS[spec["task"]][1] | {
        "model": spec["folder"], "steps": spec["steps"], "prompts": len(spec["prompts"]), "samples": spec["samples"],
        "epochs": spec["epochs"], "sampling": {"max_tokens": spec["new"]}, "optimizer": optimizer, "kl": {"beta": 0},
        "micro_tokens": MICRO_TOKENS} | spec.get("options", {}))


def our_sources(spec: dict, model: Any, config: Any) -> Callable[[int], Any]:
    """What acts in a step: our engine, or, in a gate, who dictates."""
    from bloomery.align.rollout import Actor, Forced
    from bloomery.generate.engine import Engine
    from bloomery.text.tokenizer import Tokenizer

    class Ids:
        """What acting asks of a renderer, where prompts are ids already."""

        def __init__(self, tokenizer: Tokenizer):
            self.tokenizer, self.ends = tokenizer, frozenset((tokenizer.eos,))

    size, how = model.config.vocabulary, config.sampling.how
    renderer = Ids(Tokenizer(vocabulary_of(size), {"eos_token": END, "pad_token": PAD}))
    engine = Engine(model, renderer.tokenizer, slots=config.slots, context=max(spec["prompts"]) + spec["new"])
    actor = Actor(engine, renderer, how, samples=config.samples, max_tokens=spec["new"])

    def source(step: int) -> Any:
        if not spec.get("gate"):
            return actor
        said = dictated(spec, size, step)
        return Forced(renderer, lambda problem, step: said[int(problem.id)], how=how)

    return source


def ours(spec: dict) -> dict:
    import torch

    from bloomery.align.control import Control
    from bloomery.align.policy_objective import Terms, objective
    from bloomery.align.rl import Learner
    from bloomery.align.rollout import Asked, Group
    from bloomery.core.records import Message, Problem
    from bloomery.model.store import load_model
    from bloomery.train.state import fresh

    config = our_options(spec)
    model = load_model(Path(spec["folder"]), compute=getattr(torch, DTYPES[spec["precision"]]))
    asked = [[Asked(Problem((Message("user", "?"),), "", id=str(place)), ids, place)
              for place, ids in enumerate(step)] for step in prompts(spec, model.config.vocabulary)]
    state = fresh(model, config.optimizer, steps=config.steps * config.updates)
    reference = load_model(Path(spec["folder"])).requires_grad_(False) if config.kl.needs_reference else None
    source = our_sources(spec, model, config)
    seen: dict[str, list] = {"steps": [], "rollouts": [], "figures": [], "drawn": [], "logps": []}

    def act(policy: Any, given: list[Asked], *, step: int) -> list[Group]:
        """Those of this step, drawn or dictated, and paid for what they are."""
        groups = source(step)(policy, asked[step], step=step)
        every = [one for group in groups for one in group.trajectories]
        for one in every:
            one.reward = worth(one.ids)
        seen["drawn"], seen["logps"] = [one.ids for one in every], [logp for one in every for logp in one.logps]
        return groups

    class Noting(Learner):
        """Notes what every update says."""

        def learn(self, found: Any, step: int) -> list:
            reports = super().learn(found, step)
            seen["figures"] += [{"loss": each.metrics["loss"], "grad_norm": each.grad_norm} for each in reports]
            return reports

    terms = Terms(config, config.kl.estimator, config.kl.corrected, config.kl.place == "loss", config.sampling.how,
                  config.updates == 1)
    learner = Noting(config, state, Control(config.kl, config.alarms, patience=config.patience), act, None,
                     objective(terms, reference), asked[0], reference)
    for step in range(spec["steps"]):
        figures = learner.run(step)
        seen["steps"].append(figures["step_time"])
        seen["rollouts"].append(figures["rollout_time"])
    return answer(spec, asked=[one.prompt for one in asked[-1]], **seen)


def trl(spec: dict) -> dict:
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=torch.float32)
    size = model.config.vocab_size
    reader = PreTrainedTokenizerFast(tokenizer_object=vocabulary_of(size), pad_token=PAD, eos_token=END)
    steps = prompts(spec, size)
    data = Dataset.from_dict({"prompt": [" ".join(map(str, ids)) for step in steps for ids in step]})
    seen: dict[str, list] = {"rollouts": [], "drawn": []}
    kind, config = trainers()[spec["task"]]

    class Timed(kind):
        def _generate(self, asked: list):                                                # noqa: ANN202
            start = time.perf_counter()
            found = super()._generate(asked)
            seen["rollouts"].append(time.perf_counter() - start)
            return found

        def _generate_single_turn(self, prompt_ids: list, *given):                       # noqa: ANN002, ANN202
            if spec.get("gate"):
                ids = [said for group in dictated(spec, size, len(seen["rollouts"])) for said in group]
                found = (ids, None) if spec["task"] == "grpo" else ids
            else:
                found = super()._generate_single_turn(prompt_ids, *given)
            seen["drawn"] = found[0] if spec["task"] == "grpo" else found
            return found

    def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
        return [worth(ids) for ids in completion_ids]

    recording, watch, noted = watched(Timed)
    count = len(spec["prompts"]) * spec["samples"]
    asked = settings(spec) | {
        "gradient_accumulation_steps": count // spec["rows"], "num_generations": spec["samples"], "beta": 0.0,
        "max_completion_length": spec["new"], "num_iterations": spec["epochs"], "shuffle_dataset": False,
        "cache_implementation": spec["cache"]} | TOLD[spec["task"]] | spec.get("theirs", {})
    asked = {name: value for name, value in asked.items() if name != "train_sampling_strategy"}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        recording(model=model, args=config(folder, **asked), processing_class=reader, train_dataset=data,
                  reward_funcs=reward, callbacks=[watch]).train()
    ends = noted["ends"][spec["epochs"] - 1::spec["epochs"]]
    figures = [{"loss": loss, "grad_norm": norm}
               for loss, norm in zip(noted["losses"], noted["grad_norms"], strict=False)]
    return answer(spec, asked=steps[-1], logps=[], figures=figures,
                  steps=[end - begin for begin, end in zip([start, *ends], ends, strict=False)], **seen)


def trainers() -> dict[str, tuple[type, type]]:
    """TRL's trainers with their settings."""
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    return {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


TOLD = {"grpo": {"loss_type": "grpo"}, "rloo": {}}              # TRL's default is DAPO's denominator
SIDES = {"ours": ours, "trl": trl}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
