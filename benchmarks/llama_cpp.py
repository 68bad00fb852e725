"""llama.cpp as a side of `generation.py`: the exported folder written as GGUF in bf16, served inside this process.

Through the packages `xllamacpp` and `gguf`.  Prompts go in and completions come back as ids; the words of the
vocabulary are place-holders that nobody reads.
"""

import json
import tempfile
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FIRST_TYPES = (2, 3, 3)                 # GGUF's kinds of token: unknown, control, control; 1 is an ordinary one


def paired(weight, heads: int):                                                          # noqa: ANN001, ANN201
    """Rows (H E, D) with the two dimensions that rotary positions turn together side by side, as llama.cpp has them."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def write_gguf(folder: Path, out: Path) -> None:
    """A Llama folder in llama.cpp's own format, matrices in bf16."""
    import gguf
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(size := config["vocab_size"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"w{place}" for place in range(size)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([*FIRST_TYPES, *[1] * (size - len(FIRST_TYPES))])
    for file in sorted(folder.glob("*.safetensors")):
        for name, weight in load_file(file).items():
            if turned := next((count for part, count in heads.items() if part in name), None):
                weight = paired(weight, turned)
            kind = gguf.GGMLQuantizationType.BF16 if weight.dim() > 1 else gguf.GGMLQuantizationType.F32
            data = weight.float().contiguous().numpy()
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), gguf.quantize(data, kind),
                              raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def runner(folder: Path, *, slots: int, context: int, threads: int) -> Callable[..., list[list[dict]]]:
    """What does requests: `run(asked, n, temperature)` with pairs of prompt and tokens wanted."""
    import xllamacpp

    place = tempfile.TemporaryDirectory()
    write_gguf(folder, file := Path(place.name) / "model.gguf")
    params = xllamacpp.CommonParams()
    params.model.path, params.n_parallel, params.n_ctx = str(file), slots, slots * context
    params.kv_unified = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    pool = ThreadPoolExecutor(slots)

    def one(prompt: list[int], new: int, temperature: float) -> dict:
        body = {"prompt": prompt, "n_predict": new, "temperature": temperature, "ignore_eos": True, "top_k": 0,
                "top_p": 1.0, "min_p": 0.0, "return_tokens": True}
        asked = urllib.request.Request(f"{server.listening_address}/completion", json.dumps(body).encode(),
                                       {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked) as answer:
            return {"ids": json.load(answer)["tokens"]}

    def run(asked: list[tuple[list[int], int]], n: int, temperature: float) -> list[list[dict]]:
        sent = [[pool.submit(one, prompt, new, temperature) for _ in range(n)] for prompt, new in asked]
        return [[each.result() for each in samples] for samples in sent]

    run.place = place                                           # the file is there as long as it is read
    return run
