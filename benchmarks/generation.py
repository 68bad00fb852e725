"""One side of a generation: ours, or a peer, from the same exported folder on the same prompts.

    python -m benchmarks.generation SIDE SPEC

SPEC is JSON: folder, precision, prompts and new (tokens of every request), rows (requests alive at once), n (samples
of each prompt), temperature, and for transformers cache and grouped.  Ids are random, so no two prompts share a prefix,
and lengths are forced: nothing ends before it has its tokens.  Every request is done three times with other ids: to
warm up, for one token each (`first`), and for all of them (`seconds`).  Useful tokens are counted, what a side computes
beyond a request's end is not.  A side imports nothing of the other.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import llama_cpp

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
Asked = list[tuple[list[int], int]]                             # prompt and tokens wanted
WARM, FIRST, ALL = range(3)                                     # which ids: never the same twice


def requests(spec: dict, vocabulary: int, seed: int) -> Asked:
    """Prompts of random ids and how many tokens each is continued by: the same on both sides."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [(torch.randint(vocabulary, (length,), generator=generator).tolist(), new)
            for length, new in zip(spec["prompts"], spec["new"], strict=True)]


def room(spec: dict) -> int:
    """Tokens of the longest prompt with its answer."""
    return max(prompt + new for prompt, new in zip(spec["prompts"], spec["new"], strict=True)) + 1


def answer(spec: dict, run: Callable[[Asked], list[list[dict]]], vocabulary: int) -> dict:
    """What a side says. `run` answers for every request its n samples, {"ids"} and what else it knows of them."""
    asked = {seed: requests(spec, vocabulary, seed) for seed in (WARM, FIRST, ALL)}
    asked[FIRST] = [(prompt, 1) for prompt, _ in asked[FIRST]]
    seconds = {}
    for seed, some in asked.items():
        start = time.perf_counter()
        done = run(some)
        seconds[seed] = time.perf_counter() - start
    count = sum(spec["new"]) * spec["n"]
    if [[len(one["ids"]) for one in each] for each in done] != [[new] * spec["n"] for new in spec["new"]]:
        raise ValueError("a completion does not have the length that was asked for")
    said = {"seconds": seconds[ALL], "rate": count / seconds[ALL], "first": seconds[FIRST] / len(done),
            "completions": len(done) * spec["n"] / seconds[ALL],
            "token": (seconds[ALL] - seconds[FIRST]) / max(count - len(done) * spec["n"], 1)}
    return said | ({"prompts": [prompt for prompt, _ in asked[ALL]], "done": done} if spec.get("gate") else {})


def ours(spec: dict) -> dict:
    from bloomery.decoding import decoding_threads

    decoding_threads()                                          # as `bloomery generate` and `serve` do

    import torch

    from bloomery.generate.engine import Engine
    from bloomery.generate.request import Request
    from bloomery.generate.sampling import Sampling
    from bloomery.model.store import load_model

    dtype = getattr(torch, DTYPES[spec["precision"]])
    model = load_model(Path(spec["folder"]), compute=dtype, dtype=dtype)
    engine = Engine(model, slots=spec["rows"] * spec["n"], context=min(room(spec), model.config.context), own=True)
    how = Sampling(temperature=spec["temperature"])

    def run(asked: Asked) -> list[list[dict]]:
        done = engine.generate([Request(tuple(prompt), new, how=how, n=spec["n"], min_tokens=new, seed=seed)
                                for seed, (prompt, new) in enumerate(asked)])
        return [[{"ids": one.ids, "logps": [token.raw for token in one.tokens]} for one in each] for each in done]

    return answer(spec, run, model.config.vocabulary)


def transformers_model(spec: dict):                                                      # noqa: ANN201
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    return AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=getattr(torch, DTYPES[spec["precision"]])).eval()


def transformers(spec: dict) -> dict:
    """`generate` on batches of `rows` padded prompts, each to its longest answer; `grouped` sorts prompts by length."""
    import torch

    model = transformers_model(spec)
    named = {"cache_implementation": "static"} if spec["cache"] == "static" else {}
    if spec["temperature"]:
        named |= {"do_sample": True, "temperature": spec["temperature"], "top_k": 0, "num_return_sequences": spec["n"]}
    else:
        named |= {"do_sample": False}

    def batch(some: Asked) -> list[list[dict]]:
        width, longest = (max(sizes) for sizes in zip(*((len(prompt), new) for prompt, new in some), strict=True))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in some])
        real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in some])
        done = model.generate(ids, attention_mask=real, max_new_tokens=longest, pad_token_id=0, **named)[:, width:]
        return [[{"ids": row[:new]} for row in rows]
                for (_, new), rows in zip(some, done.view(len(some), spec["n"], -1).tolist(), strict=True)]

    def run(asked: Asked) -> list[list[dict]]:
        order = sorted(range(len(asked)), key=lambda i: len(asked[i][0])) if spec.get("grouped") else range(len(asked))
        done: dict[int, list[dict]] = {}
        for at in range(0, len(asked), spec["rows"]):
            part = order[at:at + spec["rows"]]
            done |= zip(part, batch([asked[i] for i in part]), strict=True)
        return [done[i] for i in range(len(asked))]

    return answer(spec, run, model.config.vocab_size)


def judged(spec: dict) -> dict:
    """What transformers thinks of the completions in `file`, token by token: log p of each, its own choice, and by how
    many nats that leads its second."""
    import torch

    model = transformers_model(spec)
    given = json.loads(Path(spec["file"]).read_text())
    choices, logps, leads = [], [], []
    with torch.inference_mode():
        for prompt, samples in zip(given["prompts"], given["done"], strict=True):
            for one in samples:
                path = torch.tensor([prompt + one["ids"]])
                logits = model(path[:, :-1]).logits[0, len(prompt) - 1:].float()         # (C, V)
                best = logits.topk(2)
                choices += best.indices[:, 0].tolist()
                leads += (best.values[:, 0] - best.values[:, 1]).tolist()
                logps += logits.log_softmax(-1).gather(1, path[0, len(prompt):, None])[:, 0].tolist()
    return {"choices": choices, "logps": logps, "leads": leads}


def vllm(spec: dict) -> dict:
    from vllm import LLM, SamplingParams

    model = LLM(spec["folder"], skip_tokenizer_init=True, dtype=DTYPES[spec["precision"]], max_num_seqs=spec["rows"])

    def run(asked: Asked) -> list[list[dict]]:
        how = [SamplingParams(temperature=spec["temperature"], n=spec["n"], max_tokens=new, ignore_eos=True,
                              detokenize=False) for _, new in asked]
        done = model.generate([{"prompt_token_ids": prompt} for prompt, _ in asked], how, use_tqdm=False)
        return [[{"ids": list(one.token_ids)} for one in each.outputs] for each in done]

    return answer(spec, run, spec["vocabulary"])


def llama(spec: dict) -> dict:
    run = llama_cpp.runner(Path(spec["folder"]), slots=spec["rows"], context=room(spec),
                           threads=int(os.environ["OMP_NUM_THREADS"]))
    return answer(spec, lambda asked: run(asked, spec["n"], spec["temperature"]), spec["vocabulary"])


SIDES = {"ours": ours, "transformers": transformers, "judged": judged, "vllm": vllm, "llama.cpp": llama}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
