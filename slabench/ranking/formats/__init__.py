"""The leaderboard for people, programs, papers and the web: one file a kind of output."""
