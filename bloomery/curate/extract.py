"""The main text of an HTML page, by `resiliparse`: headings, paragraphs and lists, without menus and footers."""

from bloomery.core.errors import BloomeryError
from bloomery.curate.encoding import decode

try:
    from resiliparse.extract.html2text import extract_plain_text
except ImportError:
    extract_plain_text = None

LARGEST = 1 << 24                   # bytes of a page; larger ones are generated, and cost seconds each


def page_text(content: bytes, charset: str = "") -> tuple[str, str] | str:
    """The main text of a page and its encoding; a string alone says why there is none."""
    if extract_plain_text is None:
        raise BloomeryError("HTML cannot be read", why="resiliparse is not installed",
                            hint="pip install 'bloomery[curate]'")
    if len(content) > LARGEST:
        return f"page too large: {len(content)} bytes"
    found = decode(content, charset or stated_charset(content))
    if isinstance(found, str):
        return found
    try:
        text = extract_plain_text(found[0].replace("\0", ""), main_content=True, alt_texts=False)
    except (ValueError, RuntimeError) as error:
        return f"page cannot be parsed: {error}"
    return (text, found[1]) if text.strip() else "no main text in the page"


def stated_charset(content: bytes) -> str:
    """The charset a page names in its first kilobyte: `<meta charset=x>` or `content="text/html; charset=x"`."""
    _, found, rest = content[:1024].lower().partition(b"charset=")
    name = rest.lstrip(b" \"'")[:40]
    return name[:next((i for i, byte in enumerate(name) if byte in b" \"'>/;"), len(name))].decode("ascii", "ignore")
