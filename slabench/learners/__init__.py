"""Learners: a backbone and what sits on it."""
