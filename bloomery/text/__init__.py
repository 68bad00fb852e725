"""Text to token ids and back: the tokenizer, chat templates, rendering with masks."""
