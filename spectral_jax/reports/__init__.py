"""What a run says of itself: its first and last words, its summary, its pictures."""
