"""The constitution stage: a model criticises its own answers by principles, and revises them, round after round.

    y_0 ~ pi(.|x)     c_k ~ pi(.|x, y_(k-1), "point out ...")     y_k ~ pi(.|x, y_(k-1), c_k, "rewrite ...")

What comes out is what `sft` learns from, the questions with their last revision, and, for `dpo`, the last revision
against the first answer.  SL-CAI: Bai et al. 2022, "Constitutional AI", section 3; each round draws one principle, four
rounds are theirs.  Mix questions about anything else among the prompts, or helpful answers into `sft`'s data, or the
model learns to dodge.  Everything said is in `revisions.jsonl`, written as it is said: a run that goes on after a stop
asks for the rest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from pydantic import Field

from bloomery.align.assistants import Assistant, Dialogue, Reply, opened
from bloomery.align.principles import Principle, PrincipledConfig, as_rows, drawn, read_principles
from bloomery.align.rounds import asked
from bloomery.align.written import in_chunks
from bloomery.core.config import Input
from bloomery.core.errors import InputError
from bloomery.core.files import write_jsonl
from bloomery.core.metrics import say
from bloomery.core.records import Conversation, Message, Preference, Problem
from bloomery.data.formats import conversation_row, message_rows, preference_row
from bloomery.train.precision import machine

NOTHING = "nothing"             # what a critic says who finds nothing, in one word
CRITIC = "{critique} If there is nothing to point out, say only: nothing."


class Config(PrincipledConfig):
    """Answer, criticise by principles, revise."""

    data: Input = Field(description="a file or folder of prompts")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ: question = \"prompt\"")
    rounds: int = Field(4, gt=0, description="how often an answer is criticised and revised")
    temperature: float = Field(0.7, gt=0, description="divides the logits of all that is said")
    max_tokens: int = Field(256, gt=0, description="longest answer, critique and revision")


@dataclass(frozen=True)
class Revision:
    """What one round did to an answer: `outcome` is one of OUTCOMES."""

    principle: str
    critique: str
    text: str
    outcome: str


@dataclass(frozen=True)
class Revised:
    """A prompt, the first answer to it, and its rounds."""

    id: str
    first: str
    finished: bool
    rounds: tuple[Revision, ...] = ()

    @property
    def text(self) -> str:
        """The answer as it stands now."""
        return self.rounds[-1].text if self.rounds else self.first


OUTCOMES = ("revised", "nothing_found", "unchanged", "unfinished")


def seed(config: Config, place: int, call: int) -> int:
    """A seed that no other prompt and no other question of this run has."""
    return (config.seed << 40) + (place << 10) + call


def revised(config: Config, assistant: Assistant, problems: Sequence[Problem], principles: list[Principle],
            start: int) -> list[Revised]:
    """All rounds of a chunk of prompts, which is asked as one."""
    def ask(dialogues: Sequence[Dialogue], rows: Sequence[int], call: int) -> list[Reply]:
        return assistant.replies(dialogues, max_tokens=config.max_tokens, temperature=config.temperature,
                                 seeds=[seed(config, start + row, call) for row in rows]) if dialogues else []

    every = range(len(problems))
    found = [Revised(problem.id, reply.text, reply.finished) for problem, reply in
             zip(problems, ask([problem.prompt for problem in problems], every, 0), strict=True)]
    for number in range(config.rounds):
        chosen = [drawn(principles, config.seed, one.id, number) for one in found]
        before = [(*problem.prompt, Message("assistant", one.text or "(no answer)"),
                   Message("user", CRITIC.format(critique=principle.critique)))
                  for problem, one, principle in zip(problems, found, chosen, strict=True)]
        critiques = ask(before, every, 2 * number + 1)
        open_rows = [row for row in every if critiques[row].text.casefold().strip(" .\"'") not in ("", NOTHING)]
        again = [(*before[row], Message("assistant", critiques[row].text), Message("user", chosen[row].revise))
                 for row in open_rows]
        answers = dict(zip(open_rows, ask(again, open_rows, 2 * number + 2), strict=True))
        found = [with_round(one, chosen[row], critiques[row].text, answers.get(row)) for row, one in enumerate(found)]
    return found


def with_round(one: Revised, principle: Principle, critique: str, reply: Reply | None) -> Revised:
    """An answer after a round; it stays as it was where the revision is none."""
    outcome = "nothing_found" if reply is None else "unfinished" if not reply.finished or not reply.text else \
        "unchanged" if reply.text == one.text else "revised"
    text = reply.text if outcome == "revised" else one.text
    return replace(one, finished=one.finished or outcome == "revised",
                   rounds=(*one.rounds, Revision(principle.name, critique, text, outcome)))


# --- what came of it --------------------------------------------------------------------------------------------------

def figures(found: Sequence[Revised], rounds: int) -> dict:
    """How many critiques were accepted, what became of the others, and how long answers are, by round."""
    outcomes = Counter(one.outcome for row in found for one in row.rounds)
    total = max(1, outcomes.total())
    by_principle = {name: [one.outcome == "revised" for row in found for one in row.rounds if one.principle == name]
                    for name in sorted({one.principle for row in found for one in row.rounds})}
    texts = [[row.first for row in found], *([row.rounds[number].text for row in found] for number in range(rounds))]
    return {"prompts": len(found), "critique_acceptance": outcomes["revised"] / total,
            **{f"critiques/{name}": outcomes[name] for name in OUTCOMES},
            "accepted_by_principle": {name: fmean(values) for name, values in by_principle.items()},
            "words_by_round": {str(number): fmean(len(text.split()) for text in own)
                               for number, own in enumerate(texts)},
            "critique_words": fmean(len(one.critique.split()) for row in found for one in row.rounds)}


def usable(row: Revised) -> bool:
    """Whether there is something to learn from: an answer that is not empty and came to its end."""
    return row.finished and bool(row.text)


def learned(pairs: Sequence[tuple[Problem, Revised]]) -> list[Conversation]:
    return [Conversation((*problem.prompt, Message("assistant", row.text)), task="constitution", id=row.id)
            for problem, row in pairs if usable(row)]


def preferred(pairs: Sequence[tuple[Problem, Revised]]) -> list[Preference]:
    """The last revision against the first answer, wherever they differ."""
    return [Preference(problem.prompt, row.text, row.first, kind="constitution", id=row.id)
            for problem, row in pairs if usable(row) and row.first and row.first != row.text]


def run(config: Config, out: Path) -> dict:
    """`instructions.jsonl`, `preferences.jsonl`, and all that was said in `revisions.jsonl`."""
    principles = read_principles(config.principles, "critique")
    problems, quarantine = asked(config.data, config.columns)
    quarantine.write(out)
    compute, device = machine(config)
    assistant = opened(config, compute=compute, device=device)
    path = out / "revisions.jsonl"

    def make(part: Sequence[Problem], start: int) -> list[dict]:
        return [asdict(one) | {"prompt": message_rows(problem.prompt)} for problem, one in
                zip(part, revised(config, assistant, part, principles, start), strict=True)]

    rows = in_chunks(path, problems, make, name="revising answers")
    found = [Revised(row["id"], row["first"], row["finished"],
                     tuple(Revision(**one) for one in row["rounds"]))
             for row in rows]
    pairs = list(zip(problems, found, strict=True))
    conversations, preferences = learned(pairs), preferred(pairs)
    if not conversations:
        raise InputError("no answer came to its end", where=str(path), hint="allow more (max_tokens=)",
                         why=f"all {len(found)} are empty or were cut off")
    write_jsonl(out / "instructions.jsonl", map(conversation_row, conversations))
    write_jsonl(out / "preferences.jsonl", map(preference_row, preferences))
    write_jsonl(out / "principles.jsonl", as_rows(principles))
    told = figures(found, config.rounds)
    say(f"  constitution: {len(conversations)} of {len(found)} answers to learn from; "
        f"{told['critique_acceptance']:.0%} of the critiques led to a revision")
    return told | {"conversations": len(conversations), "preferences": len(preferences),
                   "quarantined": len(quarantine)}
