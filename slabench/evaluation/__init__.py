"""Scores from features and logits, intervals and paired tests."""
