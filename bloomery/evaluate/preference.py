"""How often a model finds the preferred answer likelier: log pi(chosen|x) > log pi(rejected|x), turn-ends included."""

from collections import defaultdict

from bloomery.core.errors import InputError
from bloomery.core.records import Preference
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.train.objective import score_answers


def pair_accuracy(model: Transformer, pairs: list[Preference], renderer: Renderer) -> dict:
    """`preference_accuracy` over all pairs and by kind; pairs beyond the context are left out and counted."""
    rendered = [(renderer.prompt(p.prompt), [renderer.answer(p.chosen), renderer.answer(p.rejected)]) for p in pairs]
    fits = [len(prompt) + max(map(len, answers)) <= model.config.context for prompt, answers in rendered]
    kept = [row for row, ok in zip(rendered, fits, strict=True) if ok]
    if not kept:
        raise InputError("no preference pair fits the context", why=f"all {len(pairs)} are longer than "
                                                                    f"{model.config.context} tokens")
    scores = score_answers(model, [row[0] for row in kept], [row[1] for row in kept])
    hits: dict[str, list[float]] = defaultdict(list)
    for (chosen, rejected), pair in zip(scores, (p for p, ok in zip(pairs, fits, strict=True) if ok), strict=True):
        hits[pair.kind].append(float(chosen > rejected))
    total = [hit for kind in hits.values() for hit in kind]
    return {"preference_accuracy": sum(total) / len(total),
            "preference_accuracy_by_kind": {kind: sum(values) / len(values) for kind, values in sorted(hits.items())},
            "preference_pairs": len(total), "preference_pairs_too_long": len(pairs) - len(kept)}
