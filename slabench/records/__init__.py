"""What a trial leaves: its record, the files beside it, and the store that keeps them."""
