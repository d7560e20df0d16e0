"""Vitriton as the embedding class of other libraries: one module for each, of which `import vitriton` imports none.

An adapter is made from `url`, `model` and the other arguments of `EmbeddingSpace`, which it keeps as its configuration.
"""
