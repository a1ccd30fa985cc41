"""StyleGAN2: what search sees of it, its networks, and NVIDIA's files read without running them."""
