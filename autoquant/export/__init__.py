"""From a float graph and encodings to files. All that writes model files is here."""
