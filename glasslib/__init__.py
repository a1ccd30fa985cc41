"""What can a frozen CLIP make other frozen models do? The library behind the notebooks."""

__version__ = "0.1.0"
