"""The published ways of doing what glasslib does, written anew: what ours must equal, and what it is timed against."""
