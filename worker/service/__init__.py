"""What `tollgate run` starts: bytes from Kafka become decisions, and decisions become one transaction."""
