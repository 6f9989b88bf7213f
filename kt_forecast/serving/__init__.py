"""Trained models that answer live, one student's click or one new measurement at a time.

Nothing is imported here: looking at the package loads neither torch nor a web server.
"""
