"""What a run folder says, in numbers and words."""
