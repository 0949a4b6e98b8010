"""Recipes that made the models inside the package. Not installed with it."""
