"""What editors talk to: findings at the lines of a Python file, explanations, and fixes to insert."""
