"""What a tokenizer costs whom: how many tokens a word takes, by domain and by language.

    fertility   tokens a word (Rust et al. 2021, section 3.2); 1 is the least for a language that writes spaces
    coverage    share of words that are one token, and of tokens that are not the unknown one

A language in which a text takes three times the tokens has a third of the context and pays three times the price.
"""

from collections.abc import Iterator, Mapping
from heapq import nsmallest
from pathlib import Path

import pyarrow.parquet as pq

from bloomery.core.records import unit_hash
from bloomery.pretrain.shards import ROWS, corpus
from bloomery.text.tokenizer import Tokenizer

SAMPLE = 200                            # documents of a group that are looked at
EXCERPT = 20_000                        # characters of each


def groups(folders: Mapping[str, str], out: Path) -> dict[str, list[str]]:
    """Some documents of each domain that has a name, and of each language that curation has written beside them."""
    kept: dict[str, list[tuple[float, str]]] = {}
    for domain, source in folders.items():
        for language, name, text in labelled(source, out):
            for group in filter(None, (domain and f"domain {domain}", language and f"language {language}")):
                kept.setdefault(group, []).append((unit_hash(name, "fertility"), text[:EXCERPT]))
                if len(kept[group]) > 4 * SAMPLE:
                    kept[group] = nsmallest(SAMPLE, kept[group])
    return {group: [text for _, text in nsmallest(SAMPLE, found)] for group, found in sorted(kept.items())}


def labelled(source: str, out: Path) -> Iterator[tuple[str, str, str]]:
    """Language, id and text of each document; no language where nobody has looked."""
    path = Path(source) / "documents.parquet"
    if path.is_file() and "language" in pq.read_schema(path).names:
        for batch in pq.ParquetFile(path).iter_batches(ROWS, columns=["language", "id", "text"]):
            yield from zip(*(batch[name].to_pylist() for name in ("language", "id", "text")), strict=True)
    else:
        yield from (("", name, text) for batch in corpus(source, out) for name, text in batch)


def fertility(tokenizer: Tokenizer, texts: list[str]) -> dict[str, float]:
    """What tokens and words of some texts say."""
    ids = tokenizer.encode_batch(texts)
    words = [f" {word}" for text in texts for word in text.split()]
    pieces = tokenizer.encode_batch(words) or [[]]
    tokens = max(sum(map(len, ids)), 1)
    unknown = tokenizer.backend.token_to_id(tokenizer._unknown) if tokenizer._unknown else None
    return {"documents": len(texts), "bytes_per_token": sum(len(text.encode()) for text in texts) / tokens,
            "tokens_per_word": sum(map(len, pieces)) / len(pieces),
            "words_of_one_token": sum(len(own) == 1 for own in pieces) / len(pieces),
            "known": 1 - sum(own.count(unknown) for own in ids) / tokens if unknown is not None else 1.0,
            "share_of_ids_used": len({one for own in ids for one in own}) / tokenizer.size}
