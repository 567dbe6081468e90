"""Generates the reference pages and the pages of notebooks for the site, and the bundled sample with images."""
