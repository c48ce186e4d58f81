"""What reads the topics back: verify, replay, what-if, explain and status."""
