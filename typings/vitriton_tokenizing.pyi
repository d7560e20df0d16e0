"""The module beside the tokenize step's model.py, as Triton finds it."""

from vitriton_export.triton.tokenize.vitriton_tokenizing import *  # noqa: F403 - the same names, whatever they are
