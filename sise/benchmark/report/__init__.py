"""One page of everything in results/."""
