"""Room 2: the diffusion model, on tensors. Knows no paths and no slides."""
