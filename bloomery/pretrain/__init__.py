"""Vocabulary, token shards and the base model."""
