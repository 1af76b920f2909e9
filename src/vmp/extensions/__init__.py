"""Prompt layers beyond the paper: other differences, and other functions from differences to attention.

Each file is one idea, with its equations. All of them keep the layer's interface: T + 1 frames in, T prompts and V out;
on feature maps T maps in, T maps and V out.
"""
