"""From raw documents to a corpus worth training on: every document is kept, or dropped with a reason."""
