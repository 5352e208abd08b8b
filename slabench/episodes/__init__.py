"""Episodes: how they are sampled, shared out and frozen, and a bridge to learn2learn's tasks."""
