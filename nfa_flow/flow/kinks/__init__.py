"""Flows across kinks: where a program has them, and the exact flow through the smooth pieces between them."""
