"""Texts that can be searched: by their terms, by their embeddings, or by both; kept in a folder or made on the spot.

A folder of an index holds the texts, BM25's postings, the embeddings if there are any, and `collection.json`, written
last.  All but the vocabulary is mapped: opening a large index costs nothing, a query reads what it needs.
"""

import json
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path

import numpy as np

from bloomery.classic.bm25 import BM25, build, open_index, write_array
from bloomery.classic.fusion import directions, rrf
from bloomery.classic.postag import load
from bloomery.classic.postings import best
from bloomery.classic.textrank import content, keywords, tagged
from bloomery.classic.tfidf import TfIdf
from bloomery.classic.words import STOP_WORDS, sentences, terms, words
from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import ConfigError, InputError
from bloomery.model.hub import is_hub_id
from bloomery.stages import load_module

ABOUT = "collection.json"
DEPTH = 100                             # places of each search that are fused
WIDTH = 160                             # of an excerpt


class Texts(Sequence):
    """Texts as they lie in an index: one mapped run of UTF-8 and where each ends."""

    def __init__(self, folder: Path):
        self.ends = np.load(folder / "ends.npy", mmap_mode="r")                                 # (N,) int64
        size = (folder / "texts.bin").stat().st_size
        self.bytes = np.memmap(folder / "texts.bin", np.uint8, "r") if size else np.zeros(0, np.uint8)
        if len(self.bytes) != (self.ends[-1] if len(self.ends) else 0):
            raise InputError("a damaged search index", where=str(folder), why="texts.bin has not the length it had",
                             hint="make it again")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> str:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self.bytes[self.ends[place - 1] if place else 0:self.ends[place]].tobytes().decode("utf-8")


class Collection:
    """Texts with their index, as they were made or opened. `plain`: every word counts and stands as it is.

    `vectors` (N, D) are the texts' directions from the `centre` (D,) of their embeddings.
    """

    def __init__(self, texts: Sequence[str], index: BM25, *, plain: bool = False, model: str = "",
                 pooling: str = "", vectors: np.ndarray | None = None, centre: np.ndarray | None = None):
        self.texts, self.index, self.plain, self.model, self.pooling = texts, index, plain, model, pooling
        self.vectors, self.centre = vectors, centre

    def terms(self, text: str) -> list[str]:
        return words(text) if self.plain else terms(text)

    @property
    def by(self) -> str:
        """The way to search where none is asked for."""
        return "bm25" if self.vectors is None else "hybrid"

    @cached_property
    def tfidf(self) -> TfIdf:
        return TfIdf((self.terms(text) for text in self.texts), tf="sublinear")

    @cached_property
    def embedder(self) -> Callable[[Sequence[str]], np.ndarray]:
        if self.vectors is None:
            raise ConfigError("these texts have no embeddings", hint="name a model folder with --model")
        return embedder(self.model, self.pooling)

    def by_terms(self, query: str, k: int) -> list[tuple[int, float]]:
        return self.index.search(self.terms(query), k)

    def by_tfidf(self, query: str, k: int) -> list[tuple[int, float]]:
        return self.tfidf.search(self.terms(query), k)

    def by_embedding(self, query: str, k: int) -> list[tuple[int, float]]:
        scores = self.vectors @ directions(self.embedder([query]), self.centre)[0]
        return [(int(place), float(scores[place])) for place in best(scores, k)]

    def search(self, query: str, k: int = 10, *, by: str = "", weights: Sequence[float] | None = None
               ) -> list[tuple[int, float]]:
        """The places of the k best texts with their scores; several searches are fused by reciprocal rank."""
        searches = WAYS.get(by or self.by)
        if searches is None:
            raise ConfigError(f"no way to search is called {by}", hint=f"one of {', '.join(WAYS)}")
        if weights and len(weights) != len(searches):
            raise ConfigError(f"{len(weights)} weights for {len(searches)} searches", where=by or self.by)
        if len(searches) == 1:
            return searches[0](self, query, k)
        rankings = [[place for place, _ in found(self, query, max(k, DEPTH))] for found in searches]
        return list(rrf(rankings, weights=weights).items())[:k]

    def save(self, folder: Path) -> None:
        """Write texts, postings and embeddings into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ABOUT).unlink(missing_ok=True)
        ends = np.zeros(len(self.texts), np.int64)
        with open(folder / "texts.part", "wb") as file:
            for place, text in enumerate(self.texts):
                file.write(text.encode("utf-8", "replace"))
                ends[place] = file.tell()
        os.replace(folder / "texts.part", folder / "texts.bin")
        write_array(folder / "ends.npy", ends)
        if self.vectors is not None:
            write_array(folder / "vectors.npy", self.vectors)
            write_array(folder / "centre.npy", self.centre)
        self.index.save(folder / "bm25")
        model = self.model if not self.model or is_hub_id(self.model) else str(Path(self.model).resolve())
        write_atomic(folder / ABOUT, json.dumps({"texts": len(ends), "plain": self.plain, "model": model,
                                                 "pooling": self.pooling}))


def collect(texts: Sequence[str], *, variant: str = "lucene", k1: float = 1.5, b: float = 0.75, plain: bool = False,
            model: str = "", pooling: str = "") -> Collection:
    """Index texts, and embed them where there is a model."""
    split = words if plain else terms
    try:
        index = build((split(text) for text in texts), variant=variant, k1=k1, b=b)
    except ValueError as error:
        raise ConfigError("no index can be made", why=str(error)) from error
    if not model:
        return Collection(texts, index, plain=plain)
    vectors = embedder(model, pooling)(texts)
    centre = vectors.mean(axis=0)
    return Collection(texts, index, plain=plain, model=model, pooling=pooling, vectors=directions(vectors, centre),
                      centre=centre)


def embedder(model: str, pooling: str) -> Callable[[Sequence[str]], np.ndarray]:
    """Texts -> vectors (N, D) by a model; who searches by words waits for no model."""
    return load_module("bloomery.embedding").Embedder(model, pooling)


def is_collection(folder: Path) -> bool:
    return (Path(folder) / ABOUT).is_file()


def open_collection(folder: Path) -> Collection:
    """Map what `save` wrote."""
    folder = Path(folder)
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    texts, index = Texts(folder), open_index(folder / "bm25")
    vectors, centre = (np.load(folder / f"{name}.npy", mmap_mode="r") if about["model"] else None
                       for name in ("vectors", "centre"))
    if not len(texts) == index.size == about["texts"] == (len(texts) if vectors is None else len(vectors)):
        raise InputError("a damaged search index", where=str(folder), why="its files do not belong together",
                         hint="delete the folder and make it again")
    return Collection(texts, index, plain=about["plain"], model=about["model"], pooling=about["pooling"],
                      vectors=vectors, centre=centre)


def opened(folder: Path, making: dict) -> Collection:
    """An index that was saved. Options that say how one is made cannot be given any more."""
    defaults = {name: parameter.default for name, parameter in signature(collect).parameters.items()} | {"unit": "text"}
    given = [name for name, value in making.items() if value != defaults[name]]
    if given:
        raise ConfigError("this index is made already", where=str(folder),
                          why=f"{', '.join('--' + name for name in given)} would have to be known before",
                          hint="search the texts themselves, with --save for a new index")
    return open_collection(folder)


def keywords_of(found: Sequence[str], k: int, *, by: str = "textrank", window: int = 2, tagger: str = ""
                ) -> list[list[tuple[str, float]]]:
    """The keywords of every text with their scores."""
    if by == "textrank":
        keep = tagged(load(Path(tagger))) if tagger else content
        return [keywords(text, k, window=window, keep=keep) for text in found]
    if by != "tfidf":
        raise ConfigError(f"no way to find keywords is called {by}", hint="textrank or tfidf")
    if len(found) < 2:
        raise InputError("TF-IDF compares a text with others, and there is one", hint="--by textrank needs no others")
    split = [[word for word in words(text) if word not in STOP_WORDS] for text in found]
    weights = TfIdf(split, tf="sublinear")
    return [weights.keywords(own, k) for own in split]


def excerpt(collection: Collection, place: int, query: str) -> str:
    """The sentence of a text that has most of the query's terms, as one line."""
    text, asked = collection.texts[place], set(collection.terms(query))
    found = max(sentences(text) or [text], key=lambda sentence: len(asked & set(collection.terms(sentence))))
    return textwrap.shorten(found, WIDTH, placeholder=" ...")


def parts(texts: Sequence[str], unit: str) -> list[str]:
    """The texts cut into what is to be found. An empty text keeps its number, an empty part of one is none."""
    if unit not in UNITS:
        raise ConfigError(f"{unit} is not a unit of text", hint=f"one of {', '.join(UNITS)}")
    return list(texts) if unit == "text" else [part.strip() for text in texts for part in UNITS[unit](text)
                                               if part.strip()]


WAYS = {"bm25": (Collection.by_terms,), "tfidf": (Collection.by_tfidf,), "embeddings": (Collection.by_embedding,),
        "rrf": (Collection.by_terms, Collection.by_tfidf), "hybrid": (Collection.by_terms, Collection.by_embedding)}
UNITS: dict[str, Callable[[str], list[str]]] = {
    "text": lambda text: [text], "paragraph": lambda text: re.split(r"\n\s*\n", text), "line": str.splitlines,
    "sentence": sentences}
