"""Plain types of the domain: no torch, no ONNX, no Optuna."""
