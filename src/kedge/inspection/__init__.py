"""What a person needs to see of a run."""
