"""From a model to text: sampling, stopping, cached decoding."""
