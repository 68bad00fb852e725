"""The networks: one decoder on flat tokens, its memory, its weights in Hugging Face folders."""
