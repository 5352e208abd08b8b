"""The leaderboard: its entries, its columns, published numbers, and how it is written."""
