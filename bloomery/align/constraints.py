"""Instructions whose keeping can be checked: IFEval's 25 kinds.

Zhou et al. 2023, "Instruction-following evaluation for large language models", with the rules of its published code.
A row of that data has `instruction_id_list` and `kwargs`, an instruction each.  What differs from the code: words to
look for are words and not patterns; a letter that is none is counted, and not replaced by a random one; languages,
sentences and words in capitals are told by `py3langid` and two rules in the place of langdetect and nltk.
"""

import json
import re
from collections.abc import Callable, Iterator

from bloomery.core.errors import BloomeryError, InputError
from bloomery.core.records import Problem

RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "at least": lambda count, wanted: count >= wanted, "less than": lambda count, wanted: count < wanted}
ENDS = re.compile(r"[.!?]+[\"')\]*_]*(?=\s+[\"'(\[*_]*[A-Z0-9\u00c0-\uffff]|\s*$)")
ABBREVIATIONS = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|etc|e\.g|i\.e|Inc|Ltd|Co|No|[A-Z])\.$")
OPENED = re.compile(r"^```(?:json|Json|JSON)?")
VERDICTS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


# --- what an answer has -----------------------------------------------------------------------------------------------

def count_sentences(text: str) -> int:
    ends = [found for found in ENDS.finditer(text) if not ABBREVIATIONS.search(text[:found.end()][-8:])]
    rest = text[ends[-1].end():] if ends else text
    return len(ends) + bool(rest.strip())


def language_of(text: str) -> str:
    """The ISO 639-1 code of the language a text is in."""
    return language_library().classify(text)[0]


def language_library():
    """What tells languages apart, or what to install."""
    try:
        import py3langid
    except ImportError as error:
        raise BloomeryError("instructions about languages need a library that is not here", why=str(error),
                            hint="pip install py3langid") from error
    return py3langid


def between(text: str, separator: str) -> list[str] | None:
    """The parts between separators; None if one inside is empty. Empty ones at either end do not count."""
    parts = re.split(separator, text)
    if any(not part.strip() for part in parts[1:-1]):
        return None
    return [part for part in parts if part.strip()]


def contains_word(text: str, word: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


# --- instructions: was it followed? -----------------------------------------------------------------------------------

def keywords(text: str, *, keywords: list[str]) -> bool:
    return all(word.casefold() in text.casefold() for word in keywords)


def keyword_frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return RELATIONS[relation](text.casefold().count(keyword.casefold()), frequency)


def forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
    return not any(contains_word(text, word) for word in forbidden_words)


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return RELATIONS[let_relation](text.lower().count(letter.lower()), let_frequency)


def response_language(text: str, *, language: str) -> bool:
    return language_of(text) == language


def number_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    return RELATIONS[relation](count_sentences(text), num_sentences)


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Paragraphs are kept apart by ***."""
    parts = between(text, r"\s?\*\*\*\s?")
    return parts is not None and len(parts) == num_paragraphs


def number_words(text: str, *, num_words: int, relation: str) -> bool:
    return RELATIONS[relation](len(re.findall(r"\w+", text)), num_words)


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are kept apart by an empty line; empty ones do not count, but keep their places."""
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if nth_paragraph > count or not paragraphs[nth_paragraph - 1].strip():
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return count == num_paragraphs and re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, *, postscript_marker: str) -> bool:
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(postscript_marker, re.escape(postscript_marker))
    return bool(re.search(pattern, text, re.IGNORECASE))


def number_bullets(text: str, *, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*\*[^*].*$|^\s*-.*$", text, re.MULTILINE)) == num_bullets


def constrained_response(text: str) -> bool:
    return any(verdict in text for verdict in VERDICTS)


def number_highlights(text: str, *, num_highlights: int) -> bool:
    """*one* and **one** count, as does what stands between the stars of two of them, as in the published code."""
    found = [one.strip("*") for one in re.findall(r"\*[^\n*]*\*", text)] + re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(one.strip()) for one in found) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", text)) >= num_sections


def json_format(text: str) -> bool:
    try:
        json.loads(OPENED.sub("", text.strip()).removesuffix("```").strip())
    except ValueError:
        return False
    return True


def title(text: str) -> bool:
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text))


def two_responses(text: str) -> bool:
    """Two that differ, kept apart by ******."""
    parts = between(text, r"\*{6}")
    return parts is not None and len(parts) == 2 and parts[0].strip() != parts[1].strip()


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_phrase(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_words(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    words = re.findall(r"[^\W_]+(?:[-'.&/][^\W_]+)*", text)
    return RELATIONS[capital_relation](sum(word.isupper() for word in words), capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and language_of(text.lower()) == "en"


def english_lowercase(text: str) -> bool:
    return text.islower() and language_of(text) == "en"


def no_comma(text: str) -> bool:
    return "," not in text


def quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    "keywords:existence": keywords, "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency, "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences, "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders, "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullets,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlights,
    "detectable_format:multiple_sections": multiple_sections, "detectable_format:json_format": json_format,
    "detectable_format:title": title, "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt, "startend:end_checker": end_phrase,
    "change_case:capital_word_frequency": capital_words, "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase, "punctuation:no_comma": no_comma,
    "startend:quotation": quotation}


# --- of a prompt's row ------------------------------------------------------------------------------------------------

def instructions_of(problem: Problem) -> str:
    """A row's instructions as `followed` reads them; "" where it has none."""
    names, options = problem.columns.get("instruction_id_list"), problem.columns.get("kwargs")
    names, options = (json.loads(value) if isinstance(value, str) else value for value in (names, options))
    if not names:
        return problem.answer
    return json.dumps({"instruction_id_list": names, "kwargs": options or [{}] * len(names)})


def followed(said: str, known: str, *, loose: bool = False) -> list[bool]:
    """Whether each instruction of a row was followed; an empty answer follows none.

    `loose` also takes an answer without its first line, its last, both, and its stars, as the paper does.
    """
    row = json.loads(known)
    found = []
    for name, options in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        if name not in INSTRUCTIONS:
            raise InputError("unknown instruction", where=name, hint=f"known are {', '.join(INSTRUCTIONS)}")
        given = {key: value for key, value in (options or {}).items() if value is not None}
        found.append(any(text.strip() and INSTRUCTIONS[name](text, **given)
                         for text in (variants(said) if loose else (said,))))
    return found


def variants(said: str) -> Iterator[str]:
    lines = said.split("\n")
    for kept in (lines, lines[1:], lines[:-1], lines[1:-1]):
        text = "\n".join(kept).strip()
        yield text
        yield text.replace("*", "")
