"""Small tokenizers of the kinds real models have: their splitting, their marks for words, their control tokens."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = ["user assistant system model INST SYS Instruction Response", "the cat sat on the mat, it's a hut\n\nand 12 3",
         "Größe 你好 Ω\n \n\tx", "tool_response think []/<>|#:.{}\"'"] * 6
GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def by_bytes(special: list[str], plain: tuple[str, ...] = ()) -> Tokenizer:
    """Llama 3's and Qwen's: bytes, GPT-4's splitting. `plain` are added tokens that are not special."""
    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"),
                                                  pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False,
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made.add_tokens(list(plain))
    return made


def sentencepiece(kind: str, special: list[str]) -> Tokenizer:
    """Llama 2's, Mistral's and Gemma's: words begin with a mark, what is not in the vocabulary is bytes.

    Llama 2 marks the first word behind every control token, Mistral 3 that of the text alone, Gemma none.
    """
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if kind == "mistral":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        spaces = normalizers.Replace(" ", "▁")
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if kind == "llama2" else spaces
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    octets = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [mark + word for text in TEXTS for word in text.split() for mark in ("", " ")]
    made.train_from_iterator(words, trainers.BpeTrainer(vocab_size=560, show_progress=False,
                                                        special_tokens=["<unk>", *special, *octets]))
    told = json.loads(made.to_str())
    told["added_tokens"] = [token for token in told["added_tokens"] if token["content"] not in octets]
    return Tokenizer.from_str(json.dumps(told))


KINDS = {
    "llama2": lambda: (sentencepiece("llama2", ["<s>", "</s>"]), "<s>", "</s>"),
    "llama3": lambda: (by_bytes(LLAMA3), "<|begin_of_text|>", "<|end_of_text|>"),
    "mistral": lambda: (sentencepiece("mistral", ["<s>", "</s>", "[INST]", "[/INST]"]), "<s>", "</s>"),
    "gemma": lambda: (sentencepiece("gemma", ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]), "<bos>", "<eos>"),
    "qwen": lambda: (by_bytes(QWEN, ("<think>", "</think>", "<tool_call>", "</tool_call>")), None, "<|im_end|>"),
}


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """Folders of tokenizers, as they come from the hub: `real("llama3")`."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            backend, bos, eos = KINDS[kind]()
            backend.save(str(made[kind] / "tokenizer.json"))
            (made[kind] / "tokenizer_config.json").write_text(json.dumps({
                "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos,
                "clean_up_tokenization_spaces": False, "add_bos_token": True, "model_max_length": 64}))
        return made[kind]

    return folder
