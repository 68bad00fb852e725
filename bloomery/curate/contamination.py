"""Decontamination: what models are measured on is kept out of what they learn from.

`data/contamination.py` finds 13 words in a row that an evaluation text has too.  Here a document goes that has any
(`action = "drop"`), or such runs are cut out of it with some characters around them: Brown et al. 2020, appendix C,
removed 200 on either side.  Evaluation files are read whole, every text in every column.
"""

from typing import Literal

import pyarrow as pa
from pydantic import Field

from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.curate.edits import Edits
from bloomery.curate.step import Findings
from bloomery.data.contamination import Contamination, evaluation_texts


class Decontamination(Settings):
    """What is kept for measuring, and what is done with it."""

    evaluation: Input | list[Input] = Field("", description="files or folders that models are measured on")
    n: int = Field(13, ge=1, description="words in a row; datatrove takes 12")
    shortest: int = Field(8, ge=1, description="words of the shortest evaluation text that is looked for, as a whole")
    common: int = Field(10, ge=1, description="evaluation texts that may share a run before it proves nothing")
    action: Literal["drop", "cut"] = Field("drop", description="drop the document, or cut the runs out of it")
    margin: int = Field(0, ge=0, description="characters cut on either side of a run; 200 in GPT-3")


class Decontaminated:
    """The step. Dropped documents show what they share."""

    dear = True

    def __init__(self, options: Decontamination):
        places = [options.evaluation] if isinstance(options.evaluation, str) else options.evaluation
        if not any(places):
            raise InputError("decontaminate of what?", why="no evaluation file is named",
                             hint="decontamination.evaluation=tests.jsonl, or a folder")
        self.options = options
        self.known = Contamination(evaluation_texts(places, Quarantine()), n=options.n, common=options.common,
                                   shortest=min(options.shortest, options.n))
        if not self.known.checked:
            raise InputError("nothing to look for", where=", ".join(places),
                             why=f"none of {self.known.unchecked} texts has {options.shortest} words",
                             hint="lower decontamination.shortest")
        say(f"  decontamination: {self.known.checked} evaluation texts, {self.known.unchecked} others too short")

    def examine(self, batch: pa.RecordBatch) -> Findings:
        rows, starts, stops = [], [], []
        texts = batch.column("text").to_pylist()
        for row, text in enumerate(texts):
            for start, stop in self.known.spans(text, margin=self.options.margin):
                before = len(text[:start].encode("utf-8"))
                rows.append(row), starts.append(before), stops.append(before + len(text[start:stop].encode("utf-8")))
        found = Edits.cuts(rows, starts, stops)
        if self.options.action == "cut":
            return Findings([None] * len(texts), edits=found)
        guilty = set(rows)
        return Findings(["contaminated" if row in guilty else None for row in range(len(texts))], marks=found)
