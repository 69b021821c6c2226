"""What the simulator is held against: measurements, published figures, plain models."""
