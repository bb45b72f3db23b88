"""The finished runs of a sweep on disk, and the labeled dataset that they make."""
