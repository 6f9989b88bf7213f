"""Bricks with two users or more."""
