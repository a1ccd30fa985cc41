"""CapDec: corpus -> embeddings on disk -> noise -> mapper and language model -> training -> decoding."""
