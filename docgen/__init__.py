"""Generates the reference pages from the code, and the pages of notebooks, when mkdocs builds the site."""
