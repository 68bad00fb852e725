"""Answers of which the best are kept: best-of-n under a reward model or the model's own judgement, and beam search.

A reward sees what a person would: the conversation and each candidate's text.  What was not kept is reported too, and
how far keeping the best has moved the answer from the model (`generate/best_of.py`).
"""

import math
from collections.abc import Generator
from typing import Any

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.generate.beam import Beam, beam_steps
from bloomery.generate.best_of import combine, kl_bound, kl_estimate, ranking
from bloomery.generate.engine import Engine
from bloomery.generate.request import Request, Ticket
from bloomery.serve.asking import dialogue
from bloomery.serve.chunks import Said
from bloomery.serve.models import Models, Served
from bloomery.serve.reading import ApiError, refused
from bloomery.serve.schema import ChatRequest, CompletionRequest
from bloomery.serve.worker import Worker

LOGP = "logp"               # the reward of its own: mean log-probability of a token


async def best_of(models: Models, worker: Worker, served: Served, body: ChatRequest | CompletionRequest,
                  ticket: Ticket) -> tuple[list[Said], dict[str, Any]]:
    """The `n` best of a request's candidates, best first, and what they were chosen from."""
    said = [Said.of(one) for one in ticket.completions]
    judges = judged_by(body)
    asked = dialogue(body.messages) if isinstance(body, ChatRequest) else \
        (Message("user", served.tokenizer.decode(ticket.request.prompt)),)
    members = [[mean_logp(one) for one in said] if name == LOGP else
               await rewarded(models.table[name], worker, served, asked, [one.text for one in said]) for name in judges]
    scores = combine(members, body.combine) if len(judges) > 1 else members[0]
    for one, score in zip(said, scores, strict=True):
        one.score = score
    order = ranking(scores)
    kept = said[order[0]]
    told = {"n": len(said), "reward": judges[0] if len(judges) == 1 else f"{body.combine} of {', '.join(judges)}",
            "kl_bound": kl_bound(len(said)), "kl": kl_estimate(sum(token.logp for token in kept.tokens), len(said)),
            "scores": [{"text": said[i].text, "score": said[i].score, "finish_reason": said[i].finish,
                        **({"rewards": dict(zip(judges, (row[i] for row in members), strict=True))}
                           if len(judges) > 1 else {})} for i in order]}
    return [said[i] for i in order[:body.n]], told


def judged_by(body: ChatRequest | CompletionRequest) -> list[str]:
    """The ids of what judges, each once."""
    return list(dict.fromkeys([body.reward] if isinstance(body.reward, str) else body.reward or [LOGP]))


def mean_logp(said: Said) -> float:
    return math.fsum(token.raw for token in said.tokens) / max(len(said.tokens), 1)


async def rewarded(judge: Served, worker: Worker, served: Served, asked: tuple[Message, ...],
                   texts: list[str]) -> list[float]:
    """Scores of answers, computed in the engines' thread."""
    try:
        found = await worker.call(served.id, lambda engine: judge.reward([asked], [texts])[0])
    except InputError as error:
        raise refused(error, "reward") from None
    if not all(math.isfinite(score) for score in found):
        raise ApiError(500, f"{judge.id} gave a score that is no number", kind="server_error", code="reward_failed")
    return found


def beams(request: Request, body: ChatRequest | CompletionRequest) -> Any:
    """A search for the engine's thread, advanced a step at a time beside what else it does."""
    def search(engine: Engine) -> Generator[None, None, list[Beam]]:
        best: list[Beam] = []
        for found in beam_steps(engine.model, list(request.prompt), beams=body.num_beams, ends=request.ends,
                                max_tokens=request.max_tokens, length_penalty=body.length_penalty):
            best = found
            yield
        return best[:body.n]
    return search


def spoken(served: Served, beam: Beam) -> Said:
    ids = [*beam.ids, *([] if beam.end is None else [beam.end])]
    return Said(served.tokenizer.decode(beam.ids), beam.finish, ids=ids, score=beam.score)
