"""The comparison on texts: served models beside transformers, sentence-transformers and infinity-emb."""
