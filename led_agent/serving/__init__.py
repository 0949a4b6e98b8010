"""A search behind HTTP: an interface that OpenAI's clients speak, the trees of its runs, and a page."""
