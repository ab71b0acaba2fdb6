"""From a float graph and a recipe to a quantized model and its encodings.

The only rooms that know Brevitas are `weights` and `activations`.
"""

import warnings

# Brevitas says at every start that an optional package, which nothing here uses, is missing.
warnings.filterwarnings("ignore", message="fast_hadamard_transform package not found")
