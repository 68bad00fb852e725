"""Batches, packing, token shards, streams and the formats records come in."""
