"""BigGAN-deep: what search sees of it, its networks and their layers."""
