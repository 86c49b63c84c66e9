"""Damaged and hostile model files, made by the thousand: nothing but an answer may come of one."""
