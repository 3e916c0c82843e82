"""What people compare controlled diffusion with, on the same targets, teacher and scorer."""
