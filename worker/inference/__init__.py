"""What `tollgate infer` starts: it takes dispatches, answers them and publishes completions."""
