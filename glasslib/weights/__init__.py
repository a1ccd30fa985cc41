"""The papers' real weights: where each file comes from, how it is fetched, and whether it is what it should be."""
