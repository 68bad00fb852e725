"""`bloomery text ...`: the classic tools on files or on what comes through a pipe. One command a tool.

A source is a file or folder of rows (any format `bloomery curate` reads: each row's `text`), or `-` for standard input.
stdout is the result, `--json` makes it one JSON object.  What a tool needs is imported when it runs.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine, rows
from bloomery.core.metrics import say
from bloomery.stages import load_module

app = typer.Typer(no_args_is_help=True, help="Classic language technology: n-grams, spelling, search, keywords, "
                                             "summaries, tagging, collocations.")

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="a file or folder of texts; - reads standard input")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def texts_of(source: str) -> list[str]:
    """The texts of a source; what could not be read is said, and nothing readable is an error."""
    if source == "-":
        found = [sys.stdin.read()]
    else:
        quarantine = Quarantine()
        found = []
        for row, where in rows(Path(source), quarantine):
            if isinstance(row.get("text"), str):
                found.append(row["text"])
            else:
                quarantine.add(where, "no field `text`")
        if len(quarantine):
            reasons = ", ".join(f"{count} {why}" for why, count in quarantine.reasons.items())
            say(f"not read: {reasons}; the first at {quarantine.entries[0]['where']}")
    if not any(text.strip() for text in found):
        raise InputError("there is no text to read", where="standard input" if source == "-" else source,
                         why="every text is empty" if found else "no row has a field `text`")
    return found


def answer(value: dict, lines: list[str], as_json: bool) -> None:
    """Write the result: one JSON object, or lines for a person."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n" if as_json else
                     "".join(line + "\n" for line in lines))


@app.command(epilog="example: bloomery text ngram train.txt --test test.txt --order 3 --arpa model.arpa")
def ngram(source: Annotated[str, typer.Argument(metavar="SOURCE", help="texts to count, - for standard input, or a "
                                                                       "model in an .arpa file")],
          test: Annotated[str, typer.Option(metavar="SOURCE", help="texts to score")] = "",
          order: Annotated[int, typer.Option("-n", "--order", min=1, help="symbols of a gram")] = 5,
          unit: Annotated[str, typer.Option(help="words, tokens or bytes")] = "words",
          tokenizer: Annotated[str, typer.Option(metavar="FOLDER", help="of whom the tokens are")] = "",
          smoothing: Annotated[str, typer.Option(help="mle, add_k, interpolated, witten_bell, absolute, kneser_ney or "
                                                      "modified_kneser_ney")] = "modified_kneser_ney",
          k: Annotated[float, typer.Option(help="of add_k")] = 1.0,
          held_out: Annotated[str, typer.Option(metavar="SOURCE", help="texts that teach interpolated its "
                                                                       "weights")] = "",
          minimum: Annotated[list[int] | None, typer.Option("--minimum", help="how often a gram must be counted to be "
                             "kept: one for each order, the last holds for longer ones")] = None,
          prune: Annotated[float, typer.Option(min=0, help="leave out grams without which perplexity rises by less "
                                                           "than this part of it; 1e-8 is little")] = 0.0,
          save: Annotated[str, typer.Option("--arpa", metavar="FILE", help="write the model as an ARPA file")] = "",
          sample: Annotated[int, typer.Option(min=0, help="texts to draw from the model")] = 0,
          history: Annotated[str, typer.Option(metavar="TEXT", help="what they begin with")] = "",
          length: Annotated[int, typer.Option(min=1, help="symbols of each at most")] = 40,
          seed: Annotated[int, typer.Option(help="of what is drawn")] = 0, as_json: AsJson = False) -> None:
    """Count an n-gram model; score texts with it, draw from it, write it for others."""
    counting = load_module("bloomery.counting")
    model = counting.opened(Path(source)) if source.endswith(".arpa") else counting.fit(
        texts_of(source), order=order, unit=unit, smoothing=smoothing, k=k, tokenizer=tokenizer, prune=prune,
        held_out=texts_of(held_out) if held_out else (), minimum=minimum or ())
    found = model.describe()
    lines = [f"order {found['order']}, {found['vocabulary']} symbols, {' + '.join(map(str, found['grams']))} grams"]
    if test:
        found["test"] = score = model.score(texts_of(test))
        shown = {name: "infinite" if value is None else f"{value:.6g}" for name, value in score.items()}
        lines.append(f"perplexity {shown['perplexity']}: {shown['bits']} bits or {shown['nats']} nats a symbol, "
                     f"{shown['bits_per_byte']} bits a byte; {score['symbols']} symbols, {score['unknown']} unknown")
    if sample:
        found["samples"] = model.sample(sample, history=history, length=length, seed=seed)
        lines += found["samples"]
    if save:
        say(f"{model.save(Path(save))} grams written to {save}")
    answer(found, lines, as_json)


@app.command(epilog="example: bloomery text spell letter.txt --words books/ > corrected.txt")
def spell(source: Source,
          words: Annotated[str, typer.Option(metavar="SOURCE", help="texts whose words are right; the more the better"
                                             )] = "",
          pairs: Annotated[str, typer.Option(metavar="FILE", help="misspellings that errors are learned from, a line "
                                                                  "each: beginning: begining biginning")] = "",
          listed: Annotated[bool, typer.Option("--list", help="list the corrections instead of making them")] = False,
          distance: Annotated[int, typer.Option(min=1, max=3, help="letters that may be wrong in a word")] = 2,
          context: Annotated[bool, typer.Option(help="weigh words with their neighbours")] = True,
          real_words: Annotated[float, typer.Option(min=0, max=0.5, help="the chance that a known word was typed for "
                                                                         "another")] = 0.0,
          names: Annotated[bool, typer.Option("--names", help="correct what has a capital inside a line, too")] = False,
          as_json: AsJson = False) -> None:
    """Correct the spelling of texts, or list what seems wrong."""
    counting, spelling = load_module("bloomery.counting"), load_module("bloomery.classic.spelling")
    texts = [spelling.text(text) for text in texts_of(source)]
    speller = counting.speller(texts, texts_of(words) if words else [], context=context, max_distance=distance,
                               pairs=counting.misspellings(Path(pairs)) if pairs else [])
    found = [speller.corrections(text, names=names, real_words=real_words) for text in texts]
    made = [spelling.corrected(text, own) for text, own in zip(texts, found)]
    unknown = sum(not correction.word for own in found for correction in own)
    say(f"{sum(map(len, found)) - unknown} corrected, {unknown} unknown words left")
    lines = [f"{place}:{text.count(chr(10), 0, one.start) + 1}: {one.typed} -> {one.word or '?'}"
             f"{' (' + ', '.join(one.others[:3]) + ')' if one.others else ''}"
             for place, (text, own) in enumerate(zip(texts, found)) for one in own] if listed else \
        [text.removesuffix("\n") for text in made]
    answer({"texts": [{"text": text, "corrections": [vars(one) for one in own]} for text, own in zip(made, found)]},
           lines, as_json)


@app.command(epilog="example: bloomery text pmi book.txt --measure log_likelihood -n 20")
def pmi(source: Source,
        count: Annotated[int, typer.Option("-n", "--count", min=1, help="collocations to show")] = 20,
        measure: Annotated[str, typer.Option(help="pmi, ppmi, npmi, log_likelihood or t_score")] = "npmi",
        triples: Annotated[bool, typer.Option("--triples", help="three neighbours, by PMI")] = False,
        window: Annotated[int, typer.Option(min=2, help="words less than this apart are a pair; 2: neighbours")] = 2,
        directed: Annotated[bool, typer.Option(help="whether it matters which comes first")] = True,
        min_count: Annotated[int, typer.Option(min=1, help="how often they must come together")] = 5,
        stop_words: Annotated[bool, typer.Option(help="whether pairs with `of`, `the` and their like count")] = False,
        as_json: AsJson = False) -> None:
    """Find words that come together more often than by chance."""
    found = load_module("bloomery.counting").collocations(
        texts_of(source), measure=measure, triples=triples, window=window, directed=directed, min_count=min_count,
        stop_words=stop_words)[:count]
    answer({"measure": "pmi" if triples else measure, "collocations": [vars(one) for one in found]},
           [f"{one.score:9.4f} {one.count:7d}  {' '.join(one.words)}" for one in found] or
           ["nothing comes together so often"], as_json)


@app.command(epilog="example: bloomery text search papers.jsonl 'boundary layer' --save papers.index")
def search(source: Annotated[str, typer.Argument(metavar="SOURCE", help="texts, - for standard input, or the folder of "
                                                                        "an index that was saved")],
           queries: Annotated[list[str] | None, typer.Argument(metavar="QUERY",
                                                                     help="what to look for; one or several")] = None,
           asked: Annotated[str, typer.Option("--queries", metavar="FILE", help="more queries, one a row")] = "",
           by: Annotated[str, typer.Option(help="bm25, tfidf, embeddings, rrf (bm25 and tfidf) or hybrid (bm25 and "
                                                "embeddings); by default hybrid where there are embeddings, else bm25"
                                           )] = "",
           count: Annotated[int, typer.Option("-n", "--count", min=1, help="texts to find")] = 10,
           weights: Annotated[list[float] | None, typer.Option("--weight", help="what each of two fused searches is "
                                                                                "worth; give it twice")] = None,
           save: Annotated[str, typer.Option(metavar="FOLDER", help="keep the index there")] = "",
           unit: Annotated[str, typer.Option(help="what is found: text, paragraph, line or sentence")] = "text",
           variant: Annotated[str, typer.Option(help="of BM25: lucene, robertson, atire, bm25l, bm25+, okapi, textbook "
                                                     "or odds")] = "lucene",
           k1: Annotated[float, typer.Option(help="how slowly a term's frequency saturates")] = 1.5,
           b: Annotated[float, typer.Option(help="how far a long text is discounted, from 0 to 1")] = 0.75,
           plain: Annotated[bool, typer.Option("--plain", help="no stop words, plurals as they are: for texts that are "
                                                               "not English")] = False,
           model: Annotated[str, typer.Option(metavar="MODEL", help="a model folder that embeds the texts")] = "",
           pooling: Annotated[str, typer.Option(help="where an embedding is read off a model: mean, last or first; by "
                                                     "default as its folder says, else mean")] = "",
           as_json: AsJson = False) -> None:
    """Find texts by their words (BM25, TF-IDF), by a model's embeddings, or by both."""
    searching = load_module("bloomery.searching")
    wanted = [*(queries or []), *(texts_of(asked) if asked else [])]
    if not wanted:
        raise ConfigError("nothing is asked", hint=f"bloomery text search {source} 'what to look for'")
    making = {"variant": variant, "k1": k1, "b": b, "plain": plain, "model": model, "pooling": pooling}
    found = searching.opened(source, making | {"unit": unit}) if searching.is_collection(source) else \
        searching.collect(searching.parts(texts_of(source), unit), **making)
    if save:
        found.save(Path(save))
        say(f"{len(found.texts)} texts indexed in {save}")
    results = [{"query": query, "found": [
        {"text": place, "score": score, "excerpt": searching.excerpt(found, place, query)}
        for place, score in found.search(query, count, by=by, weights=weights)]} for query in wanted]
    lines = []
    for result in results:
        lines += [result["query"]] * (len(results) > 1) + [
            f"{one['score']:9.4f}  text {one['text']:<6} {one['excerpt']}" for one in result["found"]] + \
            ["nothing found"] * (not result["found"])
    answer({"by": by or found.by, "texts": len(found.texts), "queries": results}, lines, as_json)


@app.command(epilog="example: bloomery text keywords article.txt -n 5")
def keywords(source: Source,
             count: Annotated[int, typer.Option("-n", "--count", min=1, help="keywords of each text")] = 10,
             by: Annotated[str, typer.Option(help="textrank, from each text alone, or tfidf, against all others")
                           ] = "textrank",
             window: Annotated[int, typer.Option(min=2, help="textrank: words less than this apart are linked")] = 2,
             tagger: Annotated[str, typer.Option(metavar="FILE", help="textrank: of a tagger that `bloomery text tag` "
                                                                      "saved, only nouns and adjectives count")] = "",
             as_json: AsJson = False) -> None:
    """Name what each text is about: phrases by TextRank, or words by TF-IDF."""
    found = load_module("bloomery.searching").keywords_of(texts_of(source), count, by=by, window=window,
                                                               tagger=tagger)
    shown = [{"text": place, "keywords": [{"keyword": word, "score": score} for word, score in own]}
             for place, own in enumerate(found)]
    lines = [f"{score:9.4f}  {word}" for word, score in found[0]] if len(found) == 1 else \
        [f"text {place}: {', '.join(word for word, _ in own)}" for place, own in enumerate(found)]
    answer({"by": by, "texts": shown}, lines, as_json)


@app.command(epilog="example: bloomery text summarise article.txt -n 3")
def summarise(source: Source,
              count: Annotated[int, typer.Option("-n", "--count", min=1, help="sentences of each text")] = 3,
              as_json: AsJson = False) -> None:
    """Pick the sentences of each text that say most of it (TextRank), in their order."""
    textrank = load_module("bloomery.classic.textrank")
    found = [textrank.summarise(text, count) for text in texts_of(source)]
    lines = [line for place, own in enumerate(found) for line in [""] * (place > 0) + own]
    answer({"texts": [{"text": place, "sentences": own} for place, own in enumerate(found)]}, lines, as_json)


@app.command(epilog="example: bloomery text tag letter.txt --train en_ewt-ud-dev.conllu --save tagger.json")
def tag(source: Annotated[str, typer.Argument(metavar="[SOURCE]", help="texts to tag; - reads standard input")] = "",
        model: Annotated[str, typer.Option(metavar="FILE", help="a tagger that was saved")] = "",
        train: Annotated[str, typer.Option(metavar="FILE", help="tagged sentences in CoNLL-U to learn from")] = "",
        tagger: Annotated[str, typer.Option(help="what learns: perceptron, or hmm, quicker and less often right")
                          ] = "perceptron",
        column: Annotated[str, typer.Option(help="upos, the universal tags, or xpos, those of the treebank")] = "upos",
        epochs: Annotated[int, typer.Option(min=1, help="how often the perceptron reads them")] = 8,
        save: Annotated[str, typer.Option(metavar="FILE", help="keep the tagger there")] = "",
        test: Annotated[str, typer.Option(metavar="FILE", help="tagged sentences to measure it by")] = "",
        as_json: AsJson = False) -> None:
    """Tag words with their parts of speech; teach a tagger from a treebank first, or open one."""
    postag = load_module("bloomery.classic.postag")
    for name, value, choices in (("--tagger", tagger, postag.TAGGERS), ("--column", column, postag.COLUMNS)):
        if value not in choices:
            raise ConfigError(f"{name} must be {' or '.join(choices)}", why=f"it is {value!r}")
    if bool(model) == bool(train):
        raise ConfigError("a tagger comes from --model or from --train", why="both are given" if model else
                          "neither is given", hint="universaldependencies.org has tagged sentences in many languages")
    learn = postag.TAGGERS[tagger].train
    one = postag.load(Path(model)) if model else learn(
        postag.read_conllu(Path(train), column), **({"epochs": epochs} if tagger == "perceptron" else {}))
    if save:
        postag.save(one, Path(save))
        say(f"the {one.kind} tagger is in {save}")
    found: dict = {"tagger": one.kind}
    lines = []
    if test:
        found["test"] = score = postag.accuracy(one, postag.read_conllu(Path(test), column))
        lines.append(f"{score['accuracy']:.2%} of {score['tokens']} words right, {score['unknown_accuracy']:.2%} of "
                     f"{score['unknown']} words not seen before")
    if source:
        split = load_module("bloomery.classic.words").sentences
        tagged = [[list(zip(words, one.tag(words))) for words in map(postag.tokens, split(text))]
                  for text in texts_of(source)]
        found["texts"] = [{"text": place, "sentences": own} for place, own in enumerate(tagged)]
        lines += [" ".join(f"{word}/{name}" for word, name in sentence) for own in tagged for sentence in own]
    answer(found, lines, as_json)
