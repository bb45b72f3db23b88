"""Derivatives of a flow with respect to whatever it depends on, by the equations that they obey."""
