"""What is minimized: losses, and the objective of a network on data."""
