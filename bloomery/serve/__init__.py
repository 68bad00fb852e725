"""Serving: models behind the HTTP API that OpenAI's clients speak, and a page to talk to them."""
