"""What a reward model learns from, and by which loss."""
