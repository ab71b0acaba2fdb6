"""The library for people in a notebook; its names are those of `autoquant` itself."""

from autoquant.notebook.advice import Recommendations
from autoquant.notebook.begin import load_study, quantize, search
from autoquant.notebook.study import NotebookStudy

__all__ = ["NotebookStudy", "Recommendations", "load_study", "quantize", "search"]
