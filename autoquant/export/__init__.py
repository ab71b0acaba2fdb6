"""From a float graph and encodings to files. All that writes ONNX is here."""
