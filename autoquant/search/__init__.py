"""Ask, evaluate, tell: the search, and Optuna's storage as the one record of it."""

import warnings

# In a notebook without widgets, the progress bar of Optuna, which nothing here shows, complains.
warnings.filterwarnings("ignore", message="IProgress not found")
