"""CLIP as an embedder: pictures and texts to unit vectors of one space."""
