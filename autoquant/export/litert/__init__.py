"""From a torch graph and encodings to .tflite files. All that writes them is here."""
