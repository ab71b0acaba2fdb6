"""Ask, evaluate, tell: the search, and Optuna's storage as the one record of it."""
