"""From history to an estimate: the index of past queries, and each LLM's expected quality and cost."""
