"""Answers drawn by a vLLM server, for policies that are trained where vLLM runs: it acts in our engine's place.

    VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode processed_logprobs
    bloomery grpo model=FOLDER rollout.backend=vllm rollout.url=http://localhost:8000/v1 ...

Prompts go there as ids and answers come back as ids, each with the log-probability it was drawn with: without the
option that is the model's at temperature 1.  Before a step the weights are written to a folder that both machines see,
the server reads them, and forgets the keys it has read with the old ones; two folders take turns, since a server may
keep open what it reads.  It rounds otherwise than the trainer: `importance_cap` weighs tokens by how much that matters.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bloomery.align.assistants import AssistantConfig, Server
from bloomery.core.config import Free, Settings
from bloomery.core.errors import InputError
from bloomery.generate.engine import Engine
from bloomery.generate.request import Completion, Request
from bloomery.generate.sampling import Token
from bloomery.model.adapt import merge
from bloomery.model.lora import changed_layers
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.text.tokenizer import Tokenizer
from bloomery.train.team import Team

SEEDS = 2**63           # vLLM's seeds are signed


class RolloutConfig(Settings):
    """Who draws."""

    backend: Literal["engine", "vllm"] = Field("engine", description="the engine in this process, or a vLLM server")
    url: Annotated[str, Free()] = Field("http://localhost:8000/v1", description="vllm: where it serves")
    weights: Annotated[str | None, Free()] = Field(None, description="vllm: folder for weights that the server sees "
                                                                     "under the same path; default: served/ in out")
    parallel: Annotated[int, Free()] = Field(32, gt=0, description="vllm: prompts under way at once")
    timeout: Annotated[float, Free()] = Field(600.0, gt=0, description="vllm: seconds an answer may take")


class Served:
    """A vLLM server as an engine: `load` weights, `generate` answers to requests."""

    def __init__(self, config: RolloutConfig, tokenizer: Tokenizer, folder: Path, *, context: int, team: Team):
        asked = {"timeout": config.timeout, "parallel": config.parallel}
        self.server = Server(AssistantConfig(url=config.url, **asked))
        self.control = Server(AssistantConfig(url=config.url.rstrip("/").removesuffix("/v1"), served=self.server.name,
                                              **asked))
        self.tokenizer, self.folder, self.context, self.team = tokenizer, folder.resolve(), context, team
        self._stamp: tuple = ()
        self._loads = 0

    def load(self, policy: Transformer) -> None:
        """Serve these weights from now on, an adapter as far as it is switched on; nothing is done where it does."""
        stamp = (*(layer.active for layer in changed_layers(policy)),
                 *((weight._version, weight.data_ptr()) for weight in policy.parameters()))
        if stamp == self._stamp:
            return
        if self.team.leads:
            place = self.folder / str(self._loads % 2)
            save_model(merge(policy), place, dtype=policy.compute)
            self._tell("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(place)}})
            self._tell("/reset_prefix_cache")
        self.team.barrier()
        self._stamp, self._loads = stamp, self._loads + 1

    def _tell(self, path: str, body: dict | None = None) -> None:
        status, _, text = self.control.send("POST", path, body)
        if status != 200:
            raise InputError("the server takes no new weights", where=self.control.config.url + path,
                             why=f"{status}: {text[:200]}" if status else text,
                             hint="start it with VLLM_SERVER_DEV_MODE=1, and let it see the folder rollout.weights")

    def generate(self, requests: Iterable[Request]) -> list[list[Completion]]:
        """Completions of all requests, in their order."""
        return self.server.side_by_side(self._answers, list(requests))

    def _answers(self, request: Request) -> list[Completion]:
        how = request.how
        told = self.server.request("POST", "/completions", {
            "model": self.server.name, "prompt": list(request.prompt), "n": request.n, "seed": request.seed % SEEDS,
            "max_tokens": request.max_tokens, "temperature": how.temperature, "top_k": how.top_k or -1,
            "top_p": how.top_p, "stop": list(request.stops), "stop_token_ids": sorted(request.ends),
            "ignore_eos": True, "logprobs": 0, "return_token_ids": True})
        choices = sorted(told.get("choices") or [], key=lambda choice: choice.get("index", 0))
        if len(choices) != request.n:
            raise InputError("the server's answer cannot be used", where=self.server.config.url,
                             why=f"{request.n} answers were asked for, {len(choices)} came")
        return [self._completion(choice, request) for choice in choices]

    def _completion(self, choice: dict, request: Request) -> Completion:
        ids, logps = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not ids or not logps or len(ids) != len(logps) or not all(p is not None and math.isfinite(p) for p in logps):
            raise InputError("the server's answer cannot be used", where=self.server.config.url,
                             why="it does not say which tokens it drew, or how likely they were",
                             hint="vLLM 0.10.2 or newer says so: return_token_ids, logprobs")
        matched = choice.get("stop_reason") if choice.get("stop_reason") in request.stops else None
        found = Completion([Token(id, logp, logp) for id, logp in zip(ids, logps, strict=True)],
                           finish="stop" if choice.get("finish_reason") == "stop" else "length", matched=matched)
        found.text = self.tokenizer.decode(found.ids)
        if matched is not None:
            found.text = found.text[:found.text.find(matched)]
        return found


def in_process(config: RolloutConfig, policy: Transformer, tokenizer: Tokenizer, folder: Path, *, slots: int,
               context: int, team: Team) -> Engine:
    return Engine(policy, tokenizer, slots=slots, context=context)


def by_vllm(config: RolloutConfig, policy: Transformer, tokenizer: Tokenizer, folder: Path, *, slots: int,
            context: int, team: Team) -> Served:
    return Served(config, tokenizer, Path(config.weights) if config.weights else folder, context=context, team=team)


BACKENDS: dict[str, Callable[..., Engine | Served]] = {"engine": in_process, "vllm": by_vllm}
