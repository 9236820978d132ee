"""Findings and notebook output (told), execution of notebooks (runs), and HTML (pages)."""
