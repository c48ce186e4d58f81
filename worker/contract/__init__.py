"""What Tollgate agrees with others: messages, topics, bytes, settings and errors. It imports nothing of ours."""
