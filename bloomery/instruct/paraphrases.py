"""How a task is put into words: pairs of (what is asked, what is answered), several to a task.

A model taught one wording of a task learns the wording; with many it learns to follow (Wei et al. 2022, section 2.1:
ten a task).  `converters.py` fills the braces and chooses by hash.  Wordings only ever grow at their end: a place in a
tuple is the name under which an example says how it was asked.
"""

Wordings = tuple[tuple[str, str], ...]

SQUAD: Wordings = (
    ("{context}\n\n{question}", "{answer}"),
    ("Read this and answer the question.\n\n{context}\n\nQuestion: {question}", "{answer}"),
    ("Answer in the words of the text.\n\nText: {context}\n\nQuestion: {question}\nAnswer:", "{answer}"),
    ("{question}\nThe answer is in this passage:\n\n{context}", "{answer}"),
    ("Here is a passage.\n{context}\n\nWhat does it say about this: {question}", "{answer}"),
    ("Using only the paragraph below, answer: {question}\n\n{context}", "{answer}"),
    ("Passage: {context}\nQ: {question}\nA:", "{answer}"),
    ("Find the answer to \"{question}\" in the following text and copy it.\n\n{context}", "{answer}"),
    ("I have a question about this text. {question}\n\n{context}", "{answer}"),
    ("Context:\n{context}\n\nQuestion:\n{question}\n\nGive the shortest span of the context that answers it.",
     "{answer}"),
)

SUMMARISATION: Wordings = (
    ("Summarise this text.\n\n{document}", "{summary}"),
    ("{document}\n\nWhat is this about, in short?", "{summary}"),
    ("Write a summary of the following.\n\n{document}", "{summary}"),
    ("{document}\n\nTL;DR:", "{summary}"),
    ("Give me the main points of this text:\n{document}", "{summary}"),
    ("Text: {document}\nSummary:", "{summary}"),
    ("I have no time to read this. What does it say?\n\n{document}", "{summary}"),
    ("Shorten the text below to what matters.\n\n{document}", "{summary}"),
    ("{document}\n\nIn a few words:", "{summary}"),
    ("Condense the following.\n---\n{document}\n---", "{summary}"),
)

NLI: Wordings = (
    ("Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis? Answer {options}.",
     "{answer}"),
    ("{premise}\n\nGiven that, is it true that \"{hypothesis}\"? Choose from {options}.", "{answer}"),
    ("Read two sentences.\n1. {premise}\n2. {hypothesis}\nHow does the second follow from the first: {options}?",
     "{answer}"),
    ("Suppose this is true: {premise}\nWhat about this: {hypothesis}\n{options}?", "{answer}"),
    ("Text: {premise}\nClaim: {hypothesis}\nThe relation of the claim to the text ({options}):", "{answer}"),
    ("Can \"{hypothesis}\" be concluded from \"{premise}\"? Say {options}.", "{answer}"),
    ("\"{premise}\"\n\nSomeone concludes: \"{hypothesis}\". Label the conclusion as one of {options}.", "{answer}"),
    ("Decide between {options}.\nPremise: {premise}\nHypothesis: {hypothesis}", "{answer}"),
    ("Statement A: {premise}\nStatement B: {hypothesis}\nIf A holds, what is B? Options: {options}", "{answer}"),
    ("Here is what we know: {premise} Here is what is claimed: {hypothesis} Verdict ({options}):", "{answer}"),
)

PARAPHRASE: Wordings = (
    ("1. {first}\n2. {second}\nDo these sentences mean the same? Answer {options}.", "{answer}"),
    ("\"{first}\"\n\"{second}\"\nIs one a paraphrase of the other: {options}?", "{answer}"),
    ("Sentence A: {first}\nSentence B: {second}\nSame meaning ({options}):", "{answer}"),
    ("Does \"{first}\" say the same as \"{second}\"? Choose from {options}.", "{answer}"),
    ("Compare the meaning of two sentences.\n- {first}\n- {second}\nOptions: {options}", "{answer}"),
    ("I wrote: {first}\nMy editor wrote: {second}\nIs the meaning kept? {options}", "{answer}"),
    ("{first}\n\nCould that be reworded like this?\n\n{second}\n\nSay {options}.", "{answer}"),
    ("Decide between {options}: are these two equivalent?\n{first}\n{second}", "{answer}"),
)

TRANSLATION: Wordings = (
    ("Translate from {from} to {to}: {source}", "{target}"),
    ("Translate this into {to}.\n\n{source}", "{target}"),
    ("{from}: {source}\n{to}:", "{target}"),
    ("How do you say this in {to}?\n{source}", "{target}"),
    ("\"{source}\"\nPut that {from} sentence into {to}.", "{target}"),
    ("What is the {to} for \"{source}\"?", "{target}"),
    ("Write the following {from} text in {to}.\n{source}", "{target}"),
    ("I need this in {to}: {source}", "{target}"),
    ("Give a {to} version of this sentence: {source}", "{target}"),
    ("{source}\n\nThe same in {to}:", "{target}"),
)

CLASSIFICATION: Wordings = (
    ("{text}\n\nWhich of these is it: {options}?", "{answer}"),
    ("Classify this text as one of {options}.\n\n{text}", "{answer}"),
    ("Text: {text}\nOptions: {options}\nLabel:", "{answer}"),
    ("Choose the label that fits. Labels: {options}.\nText: {text}", "{answer}"),
    ("Is the following {options}?\n{text}", "{answer}"),
    ("\"{text}\"\nHow would you label that? Choose from {options}.", "{answer}"),
    ("Sort this into one of the classes {options}:\n{text}", "{answer}"),
    ("Read the text and answer with one of {options}.\n---\n{text}\n---", "{answer}"),
    ("What describes this best, {options}? {text}", "{answer}"),
    ("{text}\nCategory ({options}):", "{answer}"),
)

MULTIPLE_CHOICE: Wordings = (
    ("{question}\n\n{lettered}\n\nAnswer with the letter.", "{letter}"),
    ("{question}\n{lettered}\nAnswer:", "({letter}) {answer}"),
    ("Question: {question}\nChoices:\n{lettered}\nWhich one is right? Write it out.", "{answer}"),
    ("Choose the best answer and give its letter.\n\n{question}\n{lettered}", "{letter}"),
    ("{question} Is it {options}?", "{answer}"),
    ("Pick one.\n{question}\n{lettered}", "({letter}) {answer}"),
    ("Here are possible answers:\n{lettered}\nThe question: {question} The letter of the right one:", "{letter}"),
    ("Select from the options below and repeat the option in full.\n{question}\n{lettered}", "({letter}) {answer}"),
    ("{question}\nOptions: {options}\nThe right option, word for word:", "{answer}"),
    ("A test asks: {question}\n{lettered}\nReply with one letter only.", "{letter}"),
)

REASONING: Wordings = (
    ("{question}", "{answer}"),
    ("Question: {question}\nAnswer:", "{answer}"),
    ("Q: {question}\nA:", "{answer}"),
    ("Answer this: {question}", "{answer}"),
    ("Solve this.\n\n{question}", "{answer}"),
    ("Please answer the following question.\n{question}", "{answer}"),
    ("{question}\n\nWhat is the answer?", "{answer}"),
    ("Here is a problem.\n{question}\nGive the answer.", "{answer}"),
)

# What asks for the reasoning before the answer (the first is Kojima et al.'s, 2022): a line after the question.
STEPS = (
    "Let's think step by step.",
    "Explain your reasoning, then give the answer.",
    "Think about it first.",
    "Reason step by step before you answer.",
    "Work it out, then say what the answer is.",
    "Give your reasons, then the answer.",
)

WORDINGS: dict[str, Wordings] = {
    "squad": SQUAD, "summarisation": SUMMARISATION, "nli": NLI, "paraphrase": PARAPHRASE, "translation": TRANSLATION,
    "classification": CLASSIFICATION, "multiple_choice": MULTIPLE_CHOICE, "reasoning": REASONING,
}
