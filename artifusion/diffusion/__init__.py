"""The diffusion model, on tensors. Knows no paths and no slides."""
