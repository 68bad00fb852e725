"""The one exception of the adapters, in its own file because all of them and the runner speak of it."""


class NotBuilt(Exception):
    """The library does not do what a vector asks; the text says what is missing."""
