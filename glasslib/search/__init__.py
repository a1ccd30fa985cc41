"""Searches with one face, ask and tell, and the loop that runs them."""
