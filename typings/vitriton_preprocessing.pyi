"""`vitriton.preprocessing`, as an export has it beside the preprocess model."""

from vitriton.preprocessing import *  # noqa: F403 - the same names, whatever they are
