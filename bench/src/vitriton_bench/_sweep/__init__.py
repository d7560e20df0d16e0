"""A sweep: a served export under one load after the other."""
