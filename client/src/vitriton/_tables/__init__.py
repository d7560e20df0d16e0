"""Tables of paths or of texts, read row by row: CSV, JSON Lines, Parquet."""
