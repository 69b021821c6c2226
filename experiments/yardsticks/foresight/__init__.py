"""What is known of the near future, and what it is worth: the horizon curve."""
