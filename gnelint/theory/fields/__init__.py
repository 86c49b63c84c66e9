"""The state of a value between two operations: its moments, and what else of it matters for the next one."""
