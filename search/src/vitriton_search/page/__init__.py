"""The page that shows what a store holds: its routes, its guard, its thumbnails and its map."""
