"""Reward functions that come along, with the signature of TRL's ``reward_funcs``."""
