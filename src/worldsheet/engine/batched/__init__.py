"""Groups of equal layers that move as one batched operation."""
