"""bloomery: from raw text to an aligned, served language model, in one package."""

__version__ = "0.1.0"
