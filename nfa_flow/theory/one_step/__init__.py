"""Predictions for one large gradient step on the first layer."""
