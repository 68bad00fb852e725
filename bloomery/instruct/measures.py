"""What fine-tuning has done: losses on held-out examples and tasks, whether answers end, answers beside the base's."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from bloomery.core.metrics import say
from bloomery.core.records import Conversation
from bloomery.data.batch import Run
from bloomery.data.likelihood import token_logps
from bloomery.data.stream import MicroBatches
from bloomery.data.tasks import Example, micro_batches
from bloomery.data.validation import batches as in_order
from bloomery.generate.decode import complete
from bloomery.instruct.examples import rendered_runs
from bloomery.instruct.heldout import few_shot
from bloomery.losses.token import perplexity
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.train.objective import Metrics, causal_lm

objective = partial(causal_lm, entropy=True)
TOLD = ("loss", "mean_token_accuracy", "entropy")
ENDS = 256                      # examples in which the end of an answer is looked for


@dataclass(frozen=True)
class HeldOut:
    """Packed examples that are measured under one prefix: `val_`, `heldout_0shot_`."""

    prefix: str
    batches: MicroBatches

    @torch.no_grad()
    def __call__(self, model: Transformer) -> Metrics:
        """Loss, accuracy, entropy and perplexity a trained token, and the loss of each task where there are several."""
        sums = Counter()
        for index in range(len(self.batches)):
            sums.update(objective(model, self.batches[index].beside(model))[1])
        means = {name: value / self.batches.count for name, value in sums.items() if name.startswith(TOLD)}
        means["perplexity"] = perplexity(means["loss"], 1)
        return {f"{self.prefix}{name}": value for name, value in means.items()}


def unseen_tasks(tasks: dict[str, list[Conversation]], renderer: Renderer, context: int, *, shots: Sequence[int],
                 limit: int, micro_tokens: int, seed: int, where: str) -> list[HeldOut]:
    """Tasks that are not trained on, each example behind so many others; only those that fit the context count."""
    found = []
    for count in shots if tasks else ():
        asked = [row for own in tasks.values() for row in few_shot(own, count, seed=seed, limit=limit)]
        examples, counts = rendered_runs(asked, renderer, context, where=f"{where}, {count} shots", weighted=False)
        found.append(HeldOut(f"heldout_{count}shot_", micro_batches(examples, micro_tokens)))
        if counts["dropped_examples"]:
            say(f"  held-out tasks, {count} shots: {counts['dropped_examples']} of {len(asked)} examples do not fit")
    return found


@torch.no_grad()
def ending(model: Transformer, examples: Sequence[Example], end: int, micro_tokens: int) -> Metrics:
    """Mean probability of the turn-end where trained answers end: near 0 the model talks on for ever."""
    only = [replace(e, weights=[float(w > 0 and t == end) for w, t in zip(e.weights, e.targets, strict=True)])
            for e in examples[:ENDS]]
    runs: list[Run] = [e for e in only if any(e.weights)]
    if not runs:
        return {}
    logp = torch.cat([token_logps(model, batch.beside(model))[0] for batch in in_order(runs, micro_tokens)])
    return {"turn_end_probability": float(logp.double().exp().mean())}


def side_by_side(models: dict[str, Transformer], rows: Sequence[Conversation], renderer: Renderer, *, count: int,
                 max_tokens: int) -> list[dict]:
    """The first `count` rows that end with the assistant and leave room, answered greedily by every model."""
    context = min(model.config.context for model in models.values())
    asked = []
    for row in rows:
        *before, last = row.messages
        if before and last.role == "assistant" and len(asked) < count:
            prompt = renderer.prompt(tuple(before), tools=row.tools)
            if len(prompt) + max_tokens <= context:
                asked.append((prompt, {"prompt": before[-1].content, "expected": last.content.strip(), "answers": {}}))
    answer = partial(complete, prompts=[prompt for prompt, _ in asked], ends=renderer.ends, max_tokens=max_tokens)
    for name, model in models.items():
        for (_, row), said in zip(asked, answer(model), strict=True):
            row["answers"][name] = renderer.tokenizer.decode(said.ids).strip()
    return [row for _, row in asked]
