"""Compiled and distributed forms of what core defines: the same meaning, the same bits."""
