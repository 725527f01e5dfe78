"""The reconciler: what an operator declared, what is there, and how the one becomes the other."""
