"""Drawings of videos, prompts, runs and the paper's figures."""
