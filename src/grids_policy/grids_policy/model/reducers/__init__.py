"""Token reducers: how the dense image tokens of a camera become the few that the language model reads, one per file."""
