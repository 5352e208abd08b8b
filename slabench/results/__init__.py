"""Records of trials, the store that keeps them, and the leaderboard made from them."""
