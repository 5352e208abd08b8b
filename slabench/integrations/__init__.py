"""Bridges to other packages; each is imported only by who asks for it."""
