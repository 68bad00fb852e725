"""Numbers computed elsewhere, and the runner that holds the library to them: `python -m tests.vectors [FOLDER]`."""
