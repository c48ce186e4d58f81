"""A golden log: the topics of one real run, which every later version must verify and replay."""
