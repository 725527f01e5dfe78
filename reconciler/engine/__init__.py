"""The shells around planning: observe, execute, verify, roll back, and the loop that never sleeps through a change."""
