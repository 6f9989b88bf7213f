"""Trained models as files that run without this package: torch.export's and ONNX.

Nothing is imported here: looking at the package loads neither torch nor ONNX.
"""
