"""Samplers of masked diffusion, a file each."""
