"""What a trial of each kind trains on and how it is scored."""
